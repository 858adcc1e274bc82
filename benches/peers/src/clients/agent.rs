//! This crate, as an application uses it, on MQTT 3.1.1 and on 5.

use std::future::IntoFuture;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use mqtt_agent::{Agent, QoS, Retained, Subscription, Version};

use super::{all, at_once, Client, Device, Streams, KEEP_ALIVE};
use crate::endpoint::Endpoint;

pub(crate) struct OnV311(Inner);
pub(crate) struct OnV5(Inner);

struct Inner {
    agent: Agent,
    held: Mutex<Vec<Subscription>>,
    streams: Streams<Subscription>,
}

impl Inner {
    async fn connect(broker: &Endpoint, version: Version) -> Self {
        let scheme = if broker.ca.is_some() { "mqtts" } else { "mqtt" };
        let options = Agent::builder(&format!("{scheme}://{}", broker.address)).expect("a valid URL").version(version);
        let options = match &broker.ca {
            Some(ca) => options.ca_file(ca),
            None => options,
        };
        let agent = options
            .keep_alive(KEEP_ALIVE)
            .reply_linger(KEEP_ALIVE)
            .timeout(Duration::from_secs(60))
            .connect()
            .await
            .expect("the broker accepts");
        Self { agent, held: Mutex::default(), streams: Streams::default() }
    }

    async fn call(&self, device: &Device, payload: Bytes) {
        let call = self.agent.request(device.command_topic.as_str(), payload).reply_to(device.reply_topic.as_str());
        call.qos(QoS::AtMostOnce).await.expect("the device replies");
    }

    async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
        let at_once = at_once(qos);
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
        for first in (0..count).step_by(at_once) {
            let publishes = (first..count.min(first + at_once))
                .map(|_| self.agent.publish("bench/data", payload.clone()).qos(qos).into_future());
            for outcome in all(publishes).await {
                outcome.expect("the broker acknowledges");
            }
        }
        true
    }

    async fn receive(&self, flood: String, count: usize) -> Duration {
        let mut data = self.subscribe("flood/data".to_owned(), count).await;
        let start = Instant::now();
        self.agent.publish(flood, "").qos(QoS::AtMostOnce).await.expect("it is sent");
        for _ in 0..count {
            // A message lost is a message not received: the run fails rather than count it.
            data.recv().await.expect("the agent runs").expect("it lost nothing");
        }
        start.elapsed()
    }

    async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
        let each = count / streams;
        let open = join_all((0..streams).map(|n| self.subscribe(format!("spread/{n}/data"), each)));
        let ask = async {
            let flood = format!("spread/{streams}/{count}");
            self.agent.publish(flood, "").qos(QoS::AtMostOnce).await.expect("it is sent");
        };
        let take = |mut data: Subscription| async move {
            for _ in 0..each {
                data.recv().await.expect("the agent runs").expect("it lost nothing");
            }
            data
        };
        Some(self.streams.take_each(open, ask, take).await)
    }

    async fn subscribe(&self, filter: String, capacity: usize) -> Subscription {
        let subscribe = self.agent.subscribe(filter).qos(QoS::AtMostOnce).retained(Retained::Ignore);
        subscribe.capacity(capacity).await.expect("the broker grants it")
    }

    async fn hold(&self, filters: usize) -> bool {
        self.held.lock().expect("not poisoned").clear();
        self.streams.clear().await;
        let filters: Vec<_> = (0..filters).map(|n| format!("held/{n}/data")).collect();
        let held = self.agent.subscribe(filters).qos(QoS::AtMostOnce).await.expect("the broker grants them");
        self.held.lock().expect("not poisoned").push(held);
        true
    }
}

macro_rules! on_version {
    ($name:ident, $version:ident) => {
        impl Client for $name {
            async fn connect(broker: &Endpoint) -> Self {
                Self(Inner::connect(broker, Version::$version).await)
            }

            async fn call(&self, device: &Device, payload: Bytes) {
                self.0.call(device, payload).await;
            }

            async fn publish(&self, count: usize, qos: u8, payload: Bytes) -> bool {
                self.0.publish(count, qos, payload).await
            }

            async fn receive(&self, flood: String, count: usize) -> Duration {
                self.0.receive(flood, count).await
            }

            async fn receive_each(&self, streams: usize, count: usize) -> Option<Duration> {
                self.0.receive_each(streams, count).await
            }

            async fn hold(&self, filters: usize) -> bool {
                self.0.hold(filters).await
            }
        }
    };
}

on_version!(OnV311, V311);
on_version!(OnV5, V5);
