//! Short forms for tests that script the broker packet by packet.

use std::future::Future;
use std::pin::{pin, Pin};
use std::task::Poll;

use futures::poll;
use mqtt_agent::{Agent, QoS};
use rumqttc::mqttbytes::v4::{Publish, Subscribe, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::support::{Peer, Scripted};

pub(crate) use crate::common::{linked as connect, options, stats as settled};

/// An agent with default options and the far end of its connection.
pub(crate) async fn pair() -> (Scripted, Agent, Peer) {
    let scripted = Scripted::listen().await;
    let (agent, peer) = connect(&scripted, options(&scripted.url())).await;
    (scripted, agent, peer)
}

/// Everything the agent had to send before is sent once this returns, and was not a packet: none came before it.
pub(crate) async fn nothing_sent(agent: &Agent, peer: &mut Peer) {
    agent.publish("fence", "").qos(QoS::AtMostOnce).await.unwrap();
    assert_eq!(peer.expect_publish().await.topic, "fence");
}

/// Grants what is asked.
pub(crate) async fn grant(peer: &mut Peer) -> Subscribe {
    let subscribe = peer.expect_subscribe().await;
    let codes: Vec<_> = subscribe.filters.iter().map(|filter| SubscribeReasonCode::Success(filter.qos)).collect();
    peer.suback(subscribe.pkid, &codes).await;
    subscribe
}

/// Awaits a subscribe, a request or the like while the peer grants each SUBSCRIBE, of which there is at least one.
pub(crate) async fn granted<T>(peer: &mut Peer, call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    assert!(is_pending(&mut call).await, "over before anything was granted");
    loop {
        grant(peer).await;
        tokio::select! {
            biased;
            output = &mut call => return output,
            () = peer.readable() => {}
        }
    }
}

/// What a SUBSCRIBE asks for.
pub(crate) fn asked(subscribe: &Subscribe) -> Vec<(&str, u8)> {
    subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos as u8)).collect()
}

/// A message from the broker at QoS 0.
pub(crate) fn message(topic: &str, payload: &str) -> Publish {
    Publish::new(topic, WireQoS::AtMostOnce, payload)
}

pub(crate) fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, ..message(topic, payload) }
}

pub(crate) fn numbered(topic: &str, payload: &str, qos: WireQoS, pkid: u16) -> Publish {
    Publish { pkid, ..Publish::new(topic, qos, payload) }
}

/// Polls once: starts what is not started, and tells whether it is over.
pub(crate) async fn is_pending<F: Future>(future: &mut Pin<&mut F>) -> bool {
    matches!(poll!(future), Poll::Pending)
}

pub(crate) async fn received(agent: &Agent, count: u64) {
    settled(agent, &format!("{count} messages received"), |stats| stats.received >= count).await;
}
