//! The client of the `mqtt5` crate, with correlation by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use mqtt5::transport::tls::TlsConfig;
use mqtt5::{ConnectOptions, MqttClient, QoS};
use tokio::sync::{mpsc, oneshot};

use super::{all, at_once, Client, Device, Streams, FILTERS_AT_ONCE, KEEP_ALIVE};
use crate::endpoint::Endpoint;

pub(crate) struct Mqtt5 {
    client: MqttClient,
    replies: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>,
    data: tokio::sync::Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
    streams: Streams<mpsc::UnboundedReceiver<Vec<u8>>>,
}

impl Client for Mqtt5 {
    async fn connect(broker: &Endpoint) -> Self {
        let client = MqttClient::with_options(ConnectOptions::new("mqtt5").with_keep_alive(KEEP_ALIVE));
        let connected = match &broker.ca {
            Some(ca) => {
                let mut tls = TlsConfig::new(broker.address, broker.host()).with_system_roots(false);
                tls.load_ca_cert_pem(&ca.display().to_string()).expect("a certificate");
                client.connect_with_tls(tls).await
            }
            None => client.connect(&format!("mqtt://{}", broker.address)).await,
        };
        connected.expect("the broker accepts");
        let replies: Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let waiting = replies.clone();
        let on_reply = move |message: mqtt5::Message| {
            let waiting = waiting.lock().expect("not poisoned").remove(&message.topic);
            if let Some(waiting) = waiting {
                let _ = waiting.send(message.payload);
            }
        };
        client.subscribe("dev/+/rpc/res", on_reply).await.expect("the broker grants it");
        let (sender, data) = mpsc::unbounded_channel();
        let on_data = move |message: mqtt5::Message| drop(sender.send(message.payload));
        client.subscribe("flood/data", on_data).await.expect("the broker grants it");
        Self { client, replies, data: tokio::sync::Mutex::new(data), streams: Streams::default() }
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let (reply, replied) = oneshot::channel();
        self.replies.lock().expect("not poisoned").insert(device.reply_topic.clone(), reply);
        let topic = device.command_topic.as_str();
        self.client.publish_qos(topic, payload, QoS::AtMostOnce).await.expect("it is sent");
        replied.await.expect("the client runs");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        let at_once = at_once(qos);
        for first in (0..count).step_by(at_once) {
            let publish = |_| self.client.publish_qos("bench/data", payload.clone(), QoS::from(qos));
            for outcome in all((first..count.min(first + at_once)).map(publish)).await {
                outcome.expect("the broker acknowledges");
            }
        }
        true
    }

    async fn receive(&self, flood: String, count: usize) -> Duration {
        let mut data = self.data.lock().await;
        let start = Instant::now();
        self.client.publish_qos(flood, Bytes::new(), QoS::AtMostOnce).await.expect("it is sent");
        for _ in 0..count {
            data.recv().await.expect("the client runs");
        }
        start.elapsed()
    }

    async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
        let open = join_all((0..streams).map(|n| async move {
            let (sender, data) = mpsc::unbounded_channel();
            let on_data = move |message: mqtt5::Message| drop(sender.send(message.payload));
            self.client.subscribe(format!("spread/{n}/data"), on_data).await.expect("the broker grants it");
            data
        }));
        let ask = async {
            let flood = format!("spread/{streams}/{count}");
            self.client.publish_qos(flood, Bytes::new(), QoS::AtMostOnce).await.expect("it is sent");
        };
        let take = |mut data: mpsc::UnboundedReceiver<_>| async move {
            for _ in 0..count / streams {
                data.recv().await.expect("the client runs");
            }
            data
        };
        Some(self.streams.take_each(open, ask, take).await)
    }

    async fn hold(&self, filters: usize) -> bool {
        for first in (0..filters).step_by(FILTERS_AT_ONCE) {
            let subscribe = |n| self.client.subscribe(format!("held/{n}/data"), drop);
            for outcome in all((first..filters.min(first + FILTERS_AT_ONCE)).map(subscribe)).await {
                outcome.expect("the broker grants it");
            }
        }
        true
    }
}
