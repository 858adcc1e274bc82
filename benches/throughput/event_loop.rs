//! The baseline: rumqttc's own `AsyncClient` and `EventLoop`, with the correlation that an application writes by hand.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish};
use tokio::sync::{mpsc, oneshot};

use crate::contender::{all, Contender, Device, QoS, KEEP_ALIVE, PAYLOAD};

/// No test has more requests under way, so that a full queue is never what is measured.
const QUEUE: usize = 16 * 1024;
const AT_ONCE: usize = 10_000;

#[derive(Clone)]
pub(crate) struct Baseline {
    client: AsyncClient,
    waiting: Arc<Waiting>,
    data: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Publish>>>,
}

#[derive(Default)]
struct Waiting {
    replies: Mutex<HashMap<String, oneshot::Sender<Bytes>>>,
    /// The broker acknowledges in the order of the publishes; `None` is a publish whose ack nobody awaits.
    acks: Mutex<VecDeque<Option<oneshot::Sender<()>>>>,
}

impl Baseline {
    pub(crate) async fn connect(broker: SocketAddr) -> Self {
        let mut options = MqttOptions::new("event-loop", broker.ip().to_string(), broker.port());
        options.set_keep_alive(KEEP_ALIVE);
        options.set_inflight(u16::MAX);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);

        let (client, mut event_loop) = AsyncClient::new(options, QUEUE);
        event_loop.set_network_options(network);
        let (data_tx, data) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let (ready_tx, ready) = oneshot::channel();
        tokio::spawn(drive(event_loop, Arc::clone(&waiting), data_tx, ready_tx));

        for filter in ["dev/+/rpc/res", "flood/data"] {
            client.subscribe(filter, rumqttc::QoS::AtMostOnce).await.expect("the loop runs");
        }
        ready.await.expect("the broker accepts");
        Self { client, waiting, data: Arc::new(tokio::sync::Mutex::new(data)) }
    }

    /// Queues a QoS 1 publish and its place among the acks as one step, so that both stand in the same order.
    fn publish_acked(&self, topic: &str, ack: Option<oneshot::Sender<()>>) {
        let mut acks = lock(&self.waiting.acks);
        self.client
            .try_publish(topic, rumqttc::QoS::AtLeastOnce, false, PAYLOAD)
            .expect("the queue holds all that is under way");
        acks.push_back(ack);
    }

    async fn publish_unacked(&self, topic: &str) {
        let payload = Bytes::from_static(&PAYLOAD);
        self.client.publish_bytes(topic, rumqttc::QoS::AtMostOnce, false, payload).await.expect("the loop runs");
    }
}

impl Contender for Baseline {
    async fn call(&self, device: &Device, qos: QoS) {
        let (reply, replied) = oneshot::channel();
        lock(&self.waiting.replies).insert(device.reply_topic.clone(), reply);
        match qos {
            QoS::AtMostOnce => self.publish_unacked(&device.command_topic).await,
            QoS::AtLeastOnce => self.publish_acked(&device.command_topic, None),
        }
        assert_eq!(replied.await.expect("the loop runs").len(), PAYLOAD.len());
    }

    async fn call_each(&self, devices: &[Device]) {
        all(devices.iter().map(|device| self.call(device, QoS::AtMostOnce))).await;
    }

    async fn publish(&self, count: usize, qos: QoS) {
        if qos == QoS::AtMostOnce {
            for _ in 0..count {
                self.publish_unacked("bench/data").await;
            }
            return;
        }
        for first in (0..count).step_by(AT_ONCE) {
            let acked = (first..count.min(first + AT_ONCE)).map(|_| {
                let (ack, acked) = oneshot::channel();
                self.publish_acked("bench/data", Some(ack));
                acked
            });
            for ack in all(acked).await {
                ack.expect("the loop runs");
            }
        }
    }

    async fn try_publish(&self, count: usize) {
        for _ in 0..count {
            while self.client.try_publish("bench/data", rumqttc::QoS::AtMostOnce, false, PAYLOAD).is_err() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn receive(&self, count: usize) -> Duration {
        let mut data = self.data.lock().await;
        let start = Instant::now();
        self.publish_unacked(&format!("flood/{count}")).await;
        for _ in 0..count {
            let message = data.recv().await.expect("the loop runs");
            assert_eq!(message.payload.len(), PAYLOAD.len());
        }
        start.elapsed()
    }
}

async fn drive(
    mut event_loop: EventLoop,
    waiting: Arc<Waiting>,
    data: mpsc::UnboundedSender<Publish>,
    ready: oneshot::Sender<()>,
) {
    let mut ready = Some(ready);
    while let Ok(event) = event_loop.poll().await {
        match event {
            Event::Incoming(Packet::Publish(publish)) if publish.topic.ends_with("/rpc/res") => {
                if let Some(reply) = lock(&waiting.replies).remove(&publish.topic) {
                    let _ = reply.send(publish.payload);
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let _ = data.send(publish);
            }
            Event::Incoming(Packet::PubAck(_)) => {
                if let Some(Some(ack)) = lock(&waiting.acks).pop_front() {
                    let _ = ack.send(());
                }
            }
            Event::Incoming(Packet::SubAck(_)) => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
