//! `azure_iot_operations_mqtt`, which speaks MQTT 5 and has no QoS 2, with correlation by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use azure_iot_operations_mqtt::aio::connection_settings::MqttConnectionSettingsBuilder;
use azure_iot_operations_mqtt::control_packet::{
    PublishProperties, QoS, RetainOptions, SubscribeProperties, TopicFilter, TopicName,
};
use azure_iot_operations_mqtt::session::{Session, SessionManagedClient, SessionOptionsBuilder, SessionPubReceiver};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{all, at_once, Client, Device, Streams, FILTERS_AT_ONCE, KEEP_ALIVE};
use crate::endpoint::Endpoint;

pub(crate) struct Azure {
    client: SessionManagedClient,
    replies: Arc<Mutex<HashMap<String, oneshot::Sender<Bytes>>>>,
    held: Mutex<Vec<SessionPubReceiver>>,
    streams: Streams<SessionPubReceiver>,
}

impl Azure {
    async fn publish_one(&self, topic: &str, payload: Bytes) {
        let topic = TopicName::new(topic).expect("a valid topic");
        let sent = self.client.publish_qos0(topic, false, payload, PublishProperties::default()).await;
        let _ = sent.expect("the session runs").await;
    }

    async fn subscribe(&self, filter: &str) {
        let filter = TopicFilter::new(filter).expect("a valid filter");
        let (options, properties) = (RetainOptions::default(), SubscribeProperties::default());
        let asked = self.client.subscribe(filter, QoS::AtMostOnce, false, options, properties).await;
        asked.expect("the session runs").await.expect("the broker grants it");
    }

    fn stream(&self, filter: &str) -> SessionPubReceiver {
        self.client.create_filtered_pub_receiver(TopicFilter::new(filter).expect("a valid filter"))
    }
}

impl Client for Azure {
    async fn connect(broker: &Endpoint) -> Self {
        let settings = MqttConnectionSettingsBuilder::default()
            .client_id("azure")
            .hostname(broker.host())
            .tcp_port(broker.port())
            .keep_alive(KEEP_ALIVE)
            .clean_start(true)
            .use_tls(broker.ca.is_some())
            .ca_file(broker.ca.as_ref().map(|ca| ca.display().to_string()))
            .build()
            .expect("valid settings");
        let options = SessionOptionsBuilder::default().connection_settings(settings).build().expect("valid options");
        let session = Session::new(options).expect("a session");
        let client = session.create_managed_client();
        let filter = TopicFilter::new("dev/+/rpc/res").expect("a valid filter");
        let mut receiver = client.create_filtered_pub_receiver(filter);
        let replies: Arc<Mutex<HashMap<String, oneshot::Sender<Bytes>>>> = Arc::default();
        tokio::spawn(session.run());
        let this = Self { client, replies, held: Mutex::default(), streams: Streams::default() };
        for filter in ["dev/+/rpc/res", "flood/data"] {
            this.subscribe(filter).await;
        }
        let replies = this.replies.clone();
        tokio::spawn(async move {
            while let Some(publish) = receiver.recv().await {
                let waiting = replies.lock().expect("not poisoned").remove(publish.topic_name.as_str());
                if let Some(waiting) = waiting {
                    let _ = waiting.send(publish.payload);
                }
            }
        });
        this
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let (reply, replied) = oneshot::channel();
        self.replies.lock().expect("not poisoned").insert(device.reply_topic.clone(), reply);
        let topic = TopicName::new(device.command_topic.clone()).expect("a valid topic");
        let sent = self.client.publish_qos0(topic, false, payload, PublishProperties::default()).await;
        drop(sent.expect("the session runs"));
        replied.await.expect("the session runs");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        if qos > 1 {
            return false;
        }
        let topic = TopicName::new("bench/data").expect("a valid topic");
        let at_once = at_once(qos);
        for first in (0..count).step_by(at_once) {
            all((first..count.min(first + at_once)).map(|_| async {
                let (topic, payload, properties) = (topic.clone(), payload.clone(), PublishProperties::default());
                if qos == 0 {
                    let sent = self.client.publish_qos0(topic, false, payload, properties).await;
                    sent.expect("the session runs").await.expect("it is sent");
                } else {
                    let sent = self.client.publish_qos1(topic, false, payload, properties).await;
                    sent.expect("the session runs").await.expect("the broker acknowledges");
                }
            }))
            .await;
        }
        true
    }

    async fn receive(&self, flood: String, count: usize) -> Duration {
        let mut data = self.stream("flood/data");
        let start = Instant::now();
        self.publish_one(&flood, Bytes::new()).await;
        for _ in 0..count {
            data.recv().await.expect("the session runs");
        }
        start.elapsed()
    }

    async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
        let open = async {
            let filters: Vec<_> = (0..streams).map(|n| format!("spread/{n}/data")).collect();
            all(filters.iter().map(|filter| self.subscribe(filter))).await;
            filters.iter().map(|filter| self.stream(filter)).collect()
        };
        let flood = format!("spread/{streams}/{count}");
        let take = |mut data: SessionPubReceiver| async move {
            for _ in 0..count / streams {
                data.recv().await.expect("the session runs");
            }
            data
        };
        Some(self.streams.take_each(open, self.publish_one(&flood, Bytes::new()), take).await)
    }

    async fn hold(&self, filters: usize) -> bool {
        // It looks at each filter for each message: with more it takes longer than is waited for.
        if filters > 1_000 {
            return false;
        }
        self.held.lock().expect("not poisoned").clear();
        self.streams.clear().await;
        let names: Vec<_> = (0..filters).map(|n| format!("held/{n}/data")).collect();
        for names in names.chunks(FILTERS_AT_ONCE) {
            all(names.iter().map(|name| self.subscribe(name))).await;
        }
        *self.held.lock().expect("not poisoned") = names.iter().map(|name| self.stream(name)).collect();
        true
    }
}
