//! Requests: the reply reaches the call it belongs to.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use mqtt_agent::{Agent, Error, ErrorKind, Message, Offline, Outcome, QoS};
use rumqttc::mqttbytes::v4::{Packet, Publish, SubAck, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;
use tokio::task::JoinHandle;

use crate::common::kept;
use crate::script::*;
use crate::support::{
    broker_test, drop_after_polls, drop_when_woken_after_polls, echo, is_v5, millis, secs, within, BrokerOptions, Peer,
    Proxy, Scripted, LIMIT,
};

mod losses;
mod replies;
mod turns;

pub(crate) const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(WireQoS::AtLeastOnce);

fn call(agent: &Agent, payload: &str) -> impl Future<Output = Result<Message, Error>> + Send + use<> {
    agent.request("dev", payload.to_owned()).reply_to("res").into_future()
}

/// One whole call, of which the peer sees the SUBSCRIBE: from now on the reply filter lingers.
async fn first_call(agent: &Agent, peer: &mut Peer) {
    let (reply, ()) = join(call(agent, "first"), async {
        assert_eq!(asked(&grant(peer).await), [("res", 1)]);
        answer(peer, "first", "first").await;
    })
    .await;
    assert_eq!(reply.unwrap().text().unwrap(), "first");
}

/// Expects a request, acknowledges and answers it.
async fn answer(peer: &mut Peer, expected: &str, reply: &str) {
    let request = peer.expect_publish().await;
    assert_eq!((request.topic.as_str(), &request.payload[..]), ("dev", expected.as_bytes()));
    peer.puback(request.pkid).await;
    peer.publish(message("res", reply)).await;
}

pub(crate) async fn text(call: impl Future<Output = Result<Message, Error>>) -> String {
    within(LIMIT, "a reply", call).await.unwrap().text().unwrap().to_owned()
}

broker_test!(a_request_gets_its_reply, |broker| async move {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    for n in 0..5 {
        let reply = agent.request("dev/1/rpc", n.to_string()).reply_to("dev/1/res").await.unwrap();
        assert_eq!(reply.topic(), "dev/1/res");
        assert_eq!(reply.text().unwrap(), n.to_string());
    }
    assert_eq!(agent.stats().pending_requests, 0);
    device.stop().await.unwrap();
});

#[tokio::test]
async fn the_request_leaves_when_the_reply_filter_is_confirmed_and_not_before() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut call = pin!(call(&agent, "ping"));
    assert!(is_pending(&mut call).await);
    let subscribe = peer.expect_subscribe().await;
    assert_eq!(asked(&subscribe), [("res", 1)]);
    nothing_sent(&agent, &mut peer).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(text(call).await, "pong");
}

#[tokio::test]
async fn a_request_leaves_with_the_qos_it_was_given() {
    let (_scripted, agent, mut peer) = pair().await;
    first_call(&agent, &mut peer).await;
    for (qos, wire) in [(QoS::AtMostOnce, WireQoS::AtMostOnce), (QoS::ExactlyOnce, WireQoS::ExactlyOnce)] {
        let call = tokio::spawn(agent.request("dev", "ping").reply_to("res").qos(qos).into_future());
        let request = peer.expect_publish().await;
        assert_eq!(request.qos, wire);
        peer.publish(message("res", "pong")).await;
        assert_eq!(text(async { call.await.unwrap() }).await, "pong");
    }
}

#[tokio::test]
async fn a_timeout_before_the_reply_filter_is_confirmed_says_that_nothing_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "ping").reply_to("res").timeout(millis(500)).into_future());
    let subscribe = peer.expect_subscribe().await;
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::NotSent);
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_call_without_time_fails_and_sends_nothing() {
    let (_scripted, agent, mut peer) = pair().await;
    let error = agent.request("dev", "ping").reply_to("res").timeout(Duration::ZERO).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::NotSent);
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 0);
}

#[tokio::test]
async fn what_cannot_be_called_is_refused_before_anything_is_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    if !is_v5() {
        assert_eq!(agent.request("dev", "ping").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let none = agent.request("dev", "ping").reply_to("res").replies(0).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::InvalidArgument);
    let topic = agent.request("dev/+", "ping").reply_to("res").await.unwrap_err();
    assert_eq!(topic.kind(), ErrorKind::InvalidTopic);
    let filter = agent.request("dev", "ping").reply_to("res/#/x").await.unwrap_err();
    assert_eq!(filter.kind(), ErrorKind::InvalidFilter);
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_refused_reply_filter_fails_everyone_who_waits_for_it_at_once() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = [1, 2].map(|n| agent.request("dev", n.to_string()).reply_to("res").timeout(Duration::MAX));
    let calls = tokio::spawn(join_all(calls.map(IntoFuture::into_future)));
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    for answer in within(LIMIT, "the refusals", calls).await.unwrap() {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
        assert_eq!(error.outcome(), Outcome::NotSent);
        assert!(error.to_string().contains("\"res\""), "{error}");
    }
    nothing_sent(&agent, &mut peer).await;
    let stats = agent.stats();
    assert_eq!((stats.filters, stats.subscribers, stats.pending_requests), (0, 0, 0));
    // The next call asks anew.
    first_call(&agent, &mut peer).await;
}

broker_test!(
    a_reply_filter_refused_by_the_broker_is_no_timeout,
    options = BrokerOptions { refused: vec!["secret".into()], ..Default::default() },
    |broker| async move {
        let agent = Agent::connect(broker.url()).await.unwrap();
        let call = agent.request("dev", "ping").reply_to("secret/res").timeout(Duration::MAX);
        let error = within(LIMIT, "the refusal", call.into_future()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    }
);

#[tokio::test]
async fn a_call_dropped_before_the_reply_filter_is_confirmed_is_not_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    let dropped = tokio::spawn(call(&agent, "1"));
    let subscribe = peer.expect_subscribe().await;
    dropped.abort();
    settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let ((), reply) = join(answer(&mut peer, "2", "2"), text(call(&agent, "2"))).await;
    assert_eq!(reply, "2");
}

broker_test!(a_call_dropped_at_any_point_frees_its_slot, |broker| async move {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let request = |n: usize| agent.request(format!("dev/{n}/rpc"), "x").reply_to(format!("dev/{n}/res")).into_future();
    let mut polls = 0;
    loop {
        let first = drop_after_polls(request(2 * polls), polls).await;
        let second = drop_when_woken_after_polls(request(2 * polls + 1), polls).await;
        settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
        if first.is_some() && second.is_some() {
            break;
        }
        polls += 1;
    }
    device.stop().await.unwrap();
});

#[tokio::test]
async fn the_end_of_the_agent_tells_every_caller_whether_its_request_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let sent = tokio::spawn(call(&agent, "1"));
    grant(&mut peer).await;
    peer.expect_publish().await;
    let waiting = tokio::spawn(call(&agent, "2"));
    settled(&agent, "two calls", |stats| stats.pending_requests == 2).await;
    agent.close().await;
    let sent = sent.await.unwrap().unwrap_err();
    assert_eq!((sent.kind(), sent.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    let waiting = waiting.await.unwrap().unwrap_err();
    assert_eq!((waiting.kind(), waiting.outcome()), (ErrorKind::Closed, Outcome::NotSent));
    assert!(call(&agent, "3").await.unwrap_err().is_closed());
}
