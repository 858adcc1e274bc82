//! Requests: the reply reaches the call it belongs to.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{join, join_all};
use mqtt_agent::{Agent, Error, ErrorKind, Message, Offline, Outcome, QoS};
use rumqttc::mqttbytes::v4::{Packet, Publish, SubAck, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;
use tokio::task::JoinHandle;

use crate::script::*;
use crate::support::{
    broker_test, drop_after_polls, drop_when_woken_after_polls, is_v5, millis, secs, within, Broker, BrokerOptions,
    Peer, Proxy, Scripted, LIMIT,
};

pub(crate) const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(WireQoS::AtLeastOnce);

/// Devices `dev/{id}/rpc` that answer what they are asked at `dev/{id}/res`.
async fn echo(broker: &Broker) -> JoinHandle<()> {
    let device = Agent::connect(broker.url()).await.unwrap();
    let mut calls = device.subscribe("dev/+/rpc").capacity(4096).await.unwrap();
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let call = call.unwrap();
            let reply_to = call.topic().as_str().replace("/rpc", "/res");
            device.publish(reply_to, call.payload().clone()).await.unwrap();
        }
    })
}

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
    let device = echo(&broker).await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    for n in 0..5 {
        let reply = agent.request("dev/1/rpc", n.to_string()).reply_to("dev/1/res").await.unwrap();
        assert_eq!(reply.topic(), "dev/1/res");
        assert_eq!(reply.text().unwrap(), n.to_string());
    }
    assert_eq!(agent.stats().pending_requests, 0);
    device.abort();
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
async fn a_reply_is_taken_before_the_request_is_acknowledged() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    assert_eq!(request.qos, WireQoS::AtLeastOnce);
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    settled(&agent, "the unacknowledged request", |stats| stats.in_flight == 1 && stats.pending_requests == 0).await;
    peer.puback(request.pkid).await;
    settled(&agent, "the acknowledgement", |stats| stats.in_flight == 0 && stats.acked == 1).await;
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
async fn the_second_call_costs_one_round_trip() {
    let (_scripted, agent, mut peer) = pair().await;
    first_call(&agent, &mut peer).await;
    for n in ["2", "3"] {
        // The very next packet is the request, and nothing follows.
        let ((), reply) = join(answer(&mut peer, n, n), text(call(&agent, n))).await;
        assert_eq!(reply, n);
    }
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 1);
}

#[tokio::test]
async fn the_reply_filter_goes_when_its_linger_is_over() {
    for linger in [Duration::ZERO, millis(50)] {
        let scripted = Scripted::listen().await;
        let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(linger)).await;
        first_call(&agent, &mut peer).await;
        let unsubscribe = peer.expect_unsubscribe().await;
        assert_eq!(unsubscribe.topics, ["res"]);
        peer.unsuback(unsubscribe.pkid).await;
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
        // And comes back when it is wanted.
        first_call(&agent, &mut peer).await;
    }
}

#[tokio::test]
async fn a_call_during_the_linger_keeps_the_filter() {
    const LINGER: Duration = millis(700);
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(LINGER)).await;
    first_call(&agent, &mut peer).await;
    let second = tokio::spawn(call(&agent, "2"));
    let request = peer.expect_publish().await;
    peer.expect_nothing(LINGER * 2).await;
    let ended = Instant::now();
    peer.puback(request.pkid).await;
    peer.publish(message("res", "2")).await;
    second.await.unwrap().unwrap();
    peer.expect_unsubscribe().await;
    assert!(ended.elapsed() >= LINGER, "the linger counts from the last call");
}

#[tokio::test]
async fn a_reply_filter_may_linger_for_ever() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(Duration::MAX)).await;
    first_call(&agent, &mut peer).await;
    let ((), reply) = join(answer(&mut peer, "2", "2"), text(call(&agent, "2"))).await;
    assert_eq!(reply, "2");
}

#[tokio::test]
async fn calls_with_one_reply_filter_take_turns() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = tokio::spawn(join_all(["1", "2", "3"].map(|n| call(&agent, n))));
    grant(&mut peer).await;
    for n in ["1", "2", "3"] {
        let request = peer.expect_publish().await;
        assert_eq!(request.payload, n);
        // The next waits for the reply, not for the acknowledgement.
        peer.puback(request.pkid).await;
        nothing_sent(&agent, &mut peer).await;
        peer.publish(message("res", n)).await;
    }
    let replies: Vec<_> =
        calls.await.unwrap().into_iter().map(|reply| reply.unwrap().text().unwrap().to_owned()).collect();
    assert_eq!(replies, ["1", "2", "3"]);
}

#[tokio::test]
async fn calls_with_different_reply_filters_run_at_the_same_time() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(agent.request("dev", "1").reply_to("res/1").into_future());
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "1");
    let second = tokio::spawn(agent.request("dev", "2").reply_to("res/2").into_future());
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "2");
    peer.publish(message("res/2", "2")).await;
    assert_eq!(second.await.unwrap().unwrap().text().unwrap(), "2");
    peer.publish(message("res/1", "1")).await;
    assert_eq!(first.await.unwrap().unwrap().text().unwrap(), "1");
}

broker_test!(calls_at_once_to_one_device_do_not_swap_replies, |broker| async move {
    let device = echo(&broker).await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let calls = (0..50).map(|n| agent.request("dev/1/rpc", n.to_string()).reply_to("dev/1/res").into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().text().unwrap(), n.to_string());
    }
    device.abort();
});

broker_test!(a_hundred_devices_called_at_once_answer_each_its_own_call, |broker| async move {
    let device = echo(&broker).await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    for round in 0..3 {
        let calls = (0..100).map(|n| {
            let payload = format!("{round}/{n}");
            agent.request(format!("dev/{n}/rpc"), payload).reply_to(format!("dev/{n}/res")).into_future()
        });
        for (n, reply) in join_all(calls).await.into_iter().enumerate() {
            let reply = reply.unwrap();
            assert_eq!(reply.text().unwrap(), format!("{round}/{n}"));
            assert_eq!(reply.topic(), format!("dev/{n}/res").as_str());
        }
    }
    let stats = agent.stats();
    assert_eq!((stats.pending_requests, stats.late_replies, stats.filters), (0, 0, 100));
    device.abort();
});

#[tokio::test]
async fn several_replies_come_in_their_order() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "all").reply_to("res/+").replies(3).into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    for n in ["1", "2", "3", "4"] {
        peer.publish(message("res/x", n)).await;
    }
    let replies = call.await.unwrap().unwrap();
    let replies: Vec<_> = replies.iter().map(|reply| reply.text().unwrap()).collect();
    assert_eq!(replies, ["1", "2", "3"]);
    settled(&agent, "one reply too many", |stats| stats.late_replies == 1).await;
}

#[tokio::test]
async fn a_timeout_carries_the_replies_that_came_and_says_that_the_request_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = agent.request("dev", "all").reply_to("res").timeout(secs(1)).replies(3);
    let call = tokio::spawn(call.into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(message("res", "1")).await;
    peer.publish(message("res", "2")).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::Unknown);
    let replies: Vec<_> = error.messages().iter().map(|reply| reply.text().unwrap()).collect();
    assert_eq!(replies, ["1", "2"]);
    assert_eq!(agent.stats().pending_requests, 0);
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
async fn a_timeout_while_it_waits_for_its_turn_says_that_nothing_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = pin!(call(&agent, "1"));
    assert!(is_pending(&mut first).await);
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    let error = agent.request("dev", "2").reply_to("res").timeout(millis(100)).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::NotSent);
    peer.puback(request.pkid).await;
    peer.publish(message("res", "1")).await;
    assert_eq!(text(first).await, "1");
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
async fn a_retained_message_is_no_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(retained("res", "old")).await;
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
}

broker_test!(what_the_broker_retains_on_the_reply_topic_is_no_reply, |broker| async move {
    let device = echo(&broker).await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("dev/1/res", "old").retain(true).await.unwrap();
    for n in ["1", "2"] {
        let reply = agent.request("dev/1/rpc", n).reply_to("dev/1/res").await.unwrap();
        assert_eq!(reply.text().unwrap(), n);
    }
    device.abort();
});

#[tokio::test]
async fn a_message_before_the_request_was_sent_is_not_its_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    let subscribe = peer.expect_subscribe().await;
    peer.publish(message("res", "too early")).await;
    received(&agent, 1).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    assert_eq!(agent.stats().late_replies, 1);
}

#[tokio::test]
async fn a_message_in_one_segment_with_the_suback_is_not_the_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    let subscribe = peer.expect_subscribe().await;
    let granted = SubAck::new(subscribe.pkid, vec![GRANTED]);
    peer.send_together([Packet::SubAck(granted), Packet::Publish(message("res", "too early"))]).await;
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    assert_eq!(agent.stats().late_replies, 1);
}

#[tokio::test]
async fn a_late_reply_is_counted_and_given_to_nobody() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "1").reply_to("res").timeout(secs(1)).into_future());
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    assert!(call.await.unwrap().unwrap_err().is_timeout());
    peer.puback(request.pkid).await;
    peer.publish(message("res", "1")).await;
    settled(&agent, "a late reply", |stats| stats.late_replies == 1).await;
    let ((), reply) = join(answer(&mut peer, "2", "2"), text(super::request::call(&agent, "2"))).await;
    assert_eq!(reply, "2");
}

/// Nothing in a plain reply says which call it answers: one that is late enough to meet the next call is its reply.
/// Whoever needs more gives each call a reply topic of its own.
#[tokio::test]
async fn a_late_reply_that_meets_the_next_call_cannot_be_told_from_its_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(agent.request("dev", "1").reply_to("res").timeout(secs(1)).into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    assert!(first.await.unwrap().unwrap_err().is_timeout());
    let second = tokio::spawn(call(&agent, "2"));
    peer.expect_publish().await;
    peer.publish(message("res", "1")).await;
    assert_eq!(second.await.unwrap().unwrap().text().unwrap(), "1");
    peer.publish(message("res", "2")).await;
    settled(&agent, "a late reply", |stats| stats.late_replies == 1).await;
}

#[tokio::test]
async fn dropping_a_call_gives_its_turn_to_the_next_at_once() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(call(&agent, "1"));
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "1");
    let second = tokio::spawn(call(&agent, "2"));
    let third = tokio::spawn(call(&agent, "3"));
    settled(&agent, "three calls", |stats| stats.pending_requests == 3).await;
    // One that waits for its turn goes without a trace.
    second.abort();
    settled(&agent, "two calls", |stats| stats.pending_requests == 2).await;
    first.abort();
    answer(&mut peer, "3", "3").await;
    assert_eq!(third.await.unwrap().unwrap().text().unwrap(), "3");
    settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
}

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
    let device = echo(&broker).await;
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
    device.abort();
});

#[tokio::test]
async fn a_call_survives_the_loss_of_the_connection_and_of_the_session() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    // The reply filter before the request that is sent again.
    assert_eq!(asked(&grant(&mut peer).await), [("res", 1)]);
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_call_survives_the_loss_of_the_connection_within_its_session() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("kept").clean_session(false);
    let (agent, mut peer) = connect(&scripted, options).await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    let repeated = peer.expect_publish().await;
    assert_eq!(repeated, Publish { dup: true, ..request });
    peer.puback(repeated.pkid).await;
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn an_acknowledged_request_is_not_sent_again_and_still_gets_its_reply() {
    for session_present in [false, true] {
        let scripted = Scripted::listen().await;
        let options = options(&scripted.url()).client_id("kept").clean_session(false);
        let (agent, mut peer) = connect(&scripted, options).await;
        let call = tokio::spawn(call(&agent, "ping"));
        grant(&mut peer).await;
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
        settled(&agent, "the acknowledgement", |stats| stats.acked == 1).await;
        peer.reset();
        let (mut peer, _) = scripted.accept_session(session_present).await;
        if !session_present {
            grant(&mut peer).await;
        }
        nothing_sent(&agent, &mut peer).await;
        peer.publish(message("res", "pong")).await;
        assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    }
}

#[tokio::test]
async fn a_reply_filter_refused_after_a_reconnect_ends_the_call_with_its_outcome_unknown() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = tokio::spawn(agent.request("dev", "ping").reply_to("res").timeout(Duration::MAX).into_future());
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    peer.puback(request.pkid).await;
    settled(&agent, "the acknowledgement", |stats| stats.acked == 1).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    let error = within(LIMIT, "the refusal", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert_eq!(error.outcome(), Outcome::Unknown);
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 0);
}

broker_test!(a_call_survives_a_cut_line, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let mut calls = device.subscribe("dev/+/rpc").await.unwrap();
    for kept in [false, true] {
        let proxy = Proxy::start(broker.addr()).await;
        let options = options(&proxy.url()).client_id("cut").clean_session(!kept);
        let agent = options.connect().await.unwrap();
        for round in 0..3_u64 {
            let payload = format!("{kept}/{round}");
            let call = agent.request("dev/1/rpc", payload.clone()).reply_to("dev/1/res").into_future();
            let call = tokio::spawn(call);
            // A request whose acknowledgement was lost may come twice.
            while within(LIMIT, "the request", calls.recv()).await.unwrap().unwrap().payload() != &payload {}
            proxy.cut().await;
            settled(&agent, "a new connection", |stats| stats.reconnects == round + 1).await;
            // Acknowledged after the SUBSCRIBE before it was handled.
            agent.publish("fence", "").await.unwrap();
            device.publish("dev/1/res", payload.clone()).await.unwrap();
            let reply = within(LIMIT, "the reply", call).await.unwrap().unwrap();
            assert_eq!(reply.text().unwrap(), payload);
        }
        agent.close().await;
    }
});

#[tokio::test]
async fn without_a_connection_a_call_fails_or_waits_as_told() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).connect_lazy().unwrap();
    let request = || agent.request("dev", "ping").reply_to("res");
    let error = request().offline(Offline::Fail).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
    for offline in [Offline::Wait, Offline::Queue] {
        let error = request().offline(offline).timeout(millis(50)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    }
    let calls = [Offline::Wait, Offline::Queue].map(|offline| request().offline(offline).into_future());
    let calls = tokio::spawn(join_all(calls));
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    for _ in 0..2 {
        answer(&mut peer, "ping", "pong").await;
    }
    for reply in calls.await.unwrap() {
        assert_eq!(reply.unwrap().text().unwrap(), "pong");
    }
}

#[tokio::test]
async fn a_call_that_will_not_wait_fails_when_the_connection_is_lost_before_it_was_sent() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = agent.request("dev", "ping").reply_to("res").offline(Offline::Fail).timeout(Duration::MAX);
    let call = tokio::spawn(call.into_future());
    peer.expect_subscribe().await;
    peer.reset();
    let error = within(LIMIT, "the failure", call).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
}

#[tokio::test]
async fn calls_given_up_without_a_connection_leave_nothing_behind() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).reply_linger(millis(20));
    let agent = options.connect_lazy().unwrap();
    let calls = (0..100).map(|n| {
        let call = agent.request("dev", "ping").reply_to(format!("res/{n}")).timeout(millis(20));
        call.into_future()
    });
    for answer in join_all(calls).await {
        assert!(answer.unwrap_err().is_timeout());
    }
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

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

#[tokio::test]
async fn calls_that_end_while_their_requests_wait_to_be_sent_again_do_no_harm() {
    const CALLS: usize = 64;
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    // More than the buffers of the system take from one who writes to a peer that does not read.
    let payload = bytes::Bytes::from(vec![0; 1 << 20]);
    let calls: Vec<_> = (0..CALLS)
        .map(|n| tokio::spawn(agent.request("dev", payload.clone()).reply_to(format!("res/{n}")).into_future()))
        .collect();
    let mut filters = 0;
    while filters < CALLS {
        filters += grant(&mut peer).await.filters.len();
    }
    for _ in 0..CALLS {
        peer.expect_publish().await;
    }
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    settled(&agent, "the new connection", |stats| stats.reconnects == 1).await;
    calls.iter().for_each(JoinHandle::abort);
    settled(&agent, "no calls", |stats| stats.pending_requests == 0 && stats.queued == 0).await;
    grant(&mut peer).await;
    // What was on its way already arrives, and nothing else.
    for _ in 0..agent.stats().in_flight {
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
    }
    nothing_sent(&agent, &mut peer).await;
}
