//! `mqtt-typed-client` on MQTT 5, with its own calls and streams. Its publishes end when they are queued, at any QoS, so
//! that acknowledged ones cannot be measured.

use std::num::NonZero;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use mqtt_typed_client::backend::unstable::BackendOptions;
use mqtt_typed_client::{
    MqttClient, MqttClientConfig, MqttConnection, MqttPublisher, MqttRpcCaller, MqttSubscriber, ProtocolVersion,
    PublishOptions, QoS, RawBytesSerializer, RpcOptions, SubscriptionConfig, Transport,
};

use super::{Client, Device, Streams, KEEP_ALIVE};
use crate::endpoint::Endpoint;
use crate::tls::client_config;

/// No work has more under way.
const QUEUE: usize = 16 * 1024;

type Stream = MqttSubscriber<Bytes, RawBytesSerializer>;

pub(crate) struct Typed {
    client: MqttClient<RawBytesSerializer>,
    caller: MqttRpcCaller<RawBytesSerializer>,
    held: Mutex<Vec<Stream>>,
    streams: Streams<Stream>,
    _connection: MqttConnection,
}

impl Typed {
    fn publisher(&self, topic: &str, qos: QoS) -> MqttPublisher<Bytes, RawBytesSerializer> {
        self.client.get_publisher(topic).expect("a valid topic").with_qos(qos)
    }

    async fn publish_one(&self, topic: &str, payload: &Bytes) {
        let sent = self.publisher(topic, QoS::AtMostOnce).publish(payload).await;
        let _ = sent.expect("the client runs");
    }

    async fn subscribe(&self, filter: String, capacity: usize) -> Stream {
        let mut config = SubscriptionConfig::default();
        config.qos = QoS::AtMostOnce;
        config.channel_capacity = NonZero::new(capacity).expect("room for something");
        self.client.subscribe_with_config(filter, config).await.expect("the client runs")
    }
}

impl Client for Typed {
    async fn connect(broker: &Endpoint) -> Self {
        let mut config = MqttClientConfig::new("typed", &broker.host(), broker.port());
        config.connection.protocol = ProtocolVersion::V5;
        config.connection.keep_alive = KEEP_ALIVE;
        if let Some(ca) = &broker.ca {
            config.connection.transport = Transport::Tls(client_config(ca).as_ref().clone().into());
        }
        config.connection.backend_tweak(|options| {
            if let BackendOptions::V5(options) = options {
                options.set_max_packet_size(Some(1 << 20));
            }
        });
        config.settings.event_loop_capacity = QUEUE;
        config.settings.command_channel_capacity = QUEUE;
        let (client, connection) = MqttClient::connect_with_config(config).await.expect("the broker accepts");
        let options = RpcOptions::builder().response_channel_capacity(QUEUE).response_qos(QoS::AtMostOnce);
        let caller = client.rpc_with(options.default_timeout(Duration::from_secs(60)).build()).await;
        let caller = caller.expect("the client runs");
        Self { client, caller, held: Mutex::default(), streams: Streams::default(), _connection: connection }
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let reply = self.caller.register();
        let options = PublishOptions::builder()
            .response_topic(self.caller.response_topic())
            .correlation_data(reply.token_bytes());
        let publisher = self.publisher(&device.command_topic, QoS::AtMostOnce);
        let _ = publisher.publish_with(&payload, options.build()).await.expect("the client runs");
        reply.await_reply(self.caller.default_timeout()).await.expect("the device replies");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        if qos > 0 {
            return false;
        }
        let publisher = self.publisher("bench/data", QoS::AtMostOnce);
        for _ in 0..count {
            let _ = publisher.publish(&payload).await.expect("the client runs");
        }
        true
    }

    async fn receive(&self, flood: String, count: usize) -> Duration {
        let mut data = self.subscribe("flood/data".to_owned(), count).await;
        let start = Instant::now();
        // An empty payload is one that it does not deliver.
        self.publish_one(&flood, &Bytes::from_static(b"x")).await;
        take(&mut data, count).await;
        let taken = start.elapsed();
        data.cancel().await.expect("the client runs");
        taken
    }

    async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
        let each = count / streams;
        let open = join_all((0..streams).map(|n| self.subscribe(format!("spread/{n}/data"), each)));
        let (flood, payload) = (format!("spread/{streams}/{count}"), Bytes::from_static(b"x"));
        let take_some = |mut data: Stream| async move {
            take(&mut data, each).await;
            data
        };
        Some(self.streams.take_each(open, self.publish_one(&flood, &payload), take_some).await)
    }

    async fn hold(&self, filters: usize) -> bool {
        self.held.lock().expect("not poisoned").clear();
        self.streams.clear().await;
        let mut held = Vec::with_capacity(filters);
        for n in 0..filters {
            held.push(self.subscribe(format!("held/{n}/data"), 1).await);
        }
        *self.held.lock().expect("not poisoned") = held;
        true
    }
}

/// A message lost is a message not received: the run fails rather than count it.
async fn take(data: &mut Stream, count: usize) {
    for _ in 0..count {
        data.receive().await.expect("the client runs").message().expect("it lost nothing");
    }
}
