//! rumqttc's own `AsyncClient` and `EventLoop`, with the correlation that an application writes by hand.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Event, MqttOptions, NetworkOptions, Packet, Publish, QoS, SubscribeFilter, TlsConfiguration, Transport,
};
use tokio::sync::{mpsc, oneshot};

use super::{all, at_once, Client, Device, Streams, FILTERS_AT_ONCE, KEEP_ALIVE};
use crate::endpoint::Endpoint;
use crate::tls::client_config;

/// No work has more under way, so that a full queue is never what is measured.
const QUEUE: usize = 16 * 1024;

pub(crate) struct Loop {
    client: AsyncClient,
    waiting: Arc<Waiting>,
    streams: Streams<mpsc::UnboundedReceiver<Publish>>,
}

#[derive(Default)]
struct Waiting {
    replies: Mutex<HashMap<String, oneshot::Sender<Bytes>>>,
    streams: Mutex<HashMap<String, mpsc::UnboundedSender<Publish>>>,
    /// The broker acknowledges in the order of the publishes.
    acks: Mutex<VecDeque<oneshot::Sender<()>>>,
    subscribed: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Loop {
    /// Queues a publish and its place among the acks as one step, so that both stand in the same order.
    fn publish_acked(&self, qos: QoS, payload: &Bytes) -> oneshot::Receiver<()> {
        let (ack, acked) = oneshot::channel();
        let mut acks = lock(&self.waiting.acks);
        self.client
            .try_publish("bench/data", qos, false, payload.clone())
            .expect("the queue holds all that is under way");
        acks.push_back(ack);
        acked
    }

    async fn publish_unacked(&self, topic: &str, payload: Bytes) {
        self.client.publish_bytes(topic, QoS::AtMostOnce, false, payload).await.expect("the loop runs");
    }

    async fn subscribe(&self, filter: &str) {
        let (ready, is_ready) = oneshot::channel();
        lock(&self.waiting.subscribed).push_back(ready);
        self.client.subscribe(filter, QoS::AtMostOnce).await.expect("the loop runs");
        is_ready.await.expect("the broker grants it");
    }

    fn stream(&self, topic: &str) -> mpsc::UnboundedReceiver<Publish> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.waiting.streams).insert(topic.to_owned(), sender);
        receiver
    }
}

impl Client for Loop {
    async fn connect(broker: &Endpoint) -> Self {
        let mut options = MqttOptions::new("event-loop", broker.host(), broker.port());
        options.set_keep_alive(KEEP_ALIVE);
        options.set_inflight(u16::MAX);
        options.set_max_packet_size(1 << 20, 1 << 20);
        if let Some(ca) = &broker.ca {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(client_config(ca))));
        }
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        let (client, mut event_loop) = AsyncClient::new(options, QUEUE);
        event_loop.set_network_options(network);
        let waiting = Arc::new(Waiting::default());
        tokio::spawn({
            let waiting = waiting.clone();
            async move {
                while let Ok(event) = event_loop.poll().await {
                    waiting.handle(event);
                }
            }
        });
        let this = Self { client, waiting, streams: Streams::default() };
        for filter in ["dev/+/rpc/res", "flood/data"] {
            this.subscribe(filter).await;
        }
        this
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let (reply, replied) = oneshot::channel();
        lock(&self.waiting.replies).insert(device.reply_topic.clone(), reply);
        self.publish_unacked(&device.command_topic, payload).await;
        replied.await.expect("the loop runs");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        if qos == 0 {
            for _ in 0..count {
                self.publish_unacked("bench/data", payload.clone()).await;
            }
            return true;
        }
        let at_once = at_once(qos);
        let qos = if qos == 1 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        for first in (0..count).step_by(at_once) {
            let acked = (first..count.min(first + at_once)).map(|_| self.publish_acked(qos, &payload));
            for ack in all(acked).await {
                ack.expect("the loop runs");
            }
        }
        true
    }

    async fn receive(&self, flood: String, count: usize) -> Duration {
        let mut data = self.stream("flood/data");
        let start = Instant::now();
        self.publish_unacked(&flood, Bytes::new()).await;
        for _ in 0..count {
            data.recv().await.expect("the loop runs");
        }
        start.elapsed()
    }

    async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
        let open = async {
            // One filter and a table, as one would by hand.
            self.subscribe("spread/+/data").await;
            (0..streams).map(|n| self.stream(&format!("spread/{n}/data"))).collect()
        };
        let flood = format!("spread/{streams}/{count}");
        let take = |mut data: mpsc::UnboundedReceiver<_>| async move {
            for _ in 0..count / streams {
                data.recv().await.expect("the loop runs");
            }
            data
        };
        Some(self.streams.take_each(open, self.publish_unacked(&flood, Bytes::new()), take).await)
    }

    async fn hold(&self, filters: usize) -> bool {
        let topics: Vec<_> = (0..filters).map(|n| format!("held/{n}/data")).collect();
        for topics in topics.chunks(FILTERS_AT_ONCE) {
            let filters = topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtMostOnce));
            let (ready, is_ready) = oneshot::channel();
            lock(&self.waiting.subscribed).push_back(ready);
            self.client.subscribe_many(filters).await.expect("the loop runs");
            is_ready.await.expect("the broker grants them");
        }
        // The table keeps the other ends; nothing comes for them.
        topics.iter().for_each(|topic| drop(self.stream(topic)));
        true
    }
}

impl Waiting {
    fn handle(&self, event: Event) {
        match event {
            Event::Incoming(Packet::Publish(publish)) if publish.topic.ends_with("/rpc/res") => {
                if let Some(reply) = lock(&self.replies).remove(&publish.topic) {
                    let _ = reply.send(publish.payload);
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                if let Some(stream) = lock(&self.streams).get(&publish.topic) {
                    let _ = stream.send(publish);
                }
            }
            Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => {
                if let Some(ack) = lock(&self.acks).pop_front() {
                    let _ = ack.send(());
                }
            }
            Event::Incoming(Packet::SubAck(_)) => {
                if let Some(ready) = lock(&self.subscribed).pop_front() {
                    let _ = ready.send(());
                }
            }
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
