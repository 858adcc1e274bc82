//! The crate under test, as an application uses it.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mqtt_agent::Agent;

use crate::contender::{all, Contender, Device, QoS, KEEP_ALIVE, PAYLOAD};

const AT_ONCE: usize = 10_000;

impl From<QoS> for mqtt_agent::QoS {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::AtMostOnce,
            QoS::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}

pub(crate) async fn connect(broker: SocketAddr) -> Agent {
    Agent::builder(&format!("mqtt://{broker}"))
        .expect("a valid URL")
        .keep_alive(KEEP_ALIVE)
        .reply_linger(KEEP_ALIVE)
        .connect()
        .await
        .expect("the broker accepts")
}

impl Contender for Agent {
    async fn call(&self, device: &Device, qos: QoS) {
        let reply = self
            .request(device.command_topic.as_str(), Bytes::from_static(&PAYLOAD))
            .reply_to(device.reply_topic.as_str())
            .qos(qos.into())
            .await
            .expect("the device replies");
        assert_eq!(reply.payload().len(), PAYLOAD.len());
    }

    async fn call_each(&self, devices: &[Device]) {
        all(devices.iter().map(|device| self.call(device, QoS::AtMostOnce))).await;
    }

    async fn publish(&self, count: usize, qos: QoS) {
        for first in (0..count).step_by(AT_ONCE) {
            let sent = (first..count.min(first + AT_ONCE))
                .map(|_| self.publish("bench/data", Bytes::from_static(&PAYLOAD)).qos(qos.into()).into_future());
            for sent in all(sent).await {
                sent.expect("the broker acknowledges");
            }
        }
    }

    async fn try_publish(&self, count: usize) {
        for _ in 0..count {
            let publish = || self.publish("bench/data", Bytes::from_static(&PAYLOAD)).qos(mqtt_agent::QoS::AtMostOnce);
            while publish().try_send().is_err() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn receive(&self, count: usize) -> Duration {
        let mut data = self
            .subscribe(["flood/data"])
            .qos(mqtt_agent::QoS::AtMostOnce)
            // A message lost is a message not received: the bench fails rather than count it.
            .capacity(count)
            .await
            .expect("the broker grants it");
        let start = Instant::now();
        self.publish(format!("flood/{count}"), "").qos(mqtt_agent::QoS::AtMostOnce).await.expect("it is sent");
        for _ in 0..count {
            let message = data.recv().await.expect("the agent runs").expect("it lost nothing");
            assert_eq!(message.payload().len(), PAYLOAD.len());
        }
        start.elapsed()
    }
}
