//! Which call a reply is for, and which replies are refusals.

use std::future::IntoFuture;
use std::time::Duration;

use mqtt_agent::rpc::Correlation;
use mqtt_agent::{Agent, ErrorKind, Message, Outcome, RemoteError, Request, Version};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;

use super::request::{text, GRANTED};
use crate::script::*;
use crate::support::{broker_test, drop_when_woken_after_polls, is_v5, within, Proxy, Scripted, LIMIT};

/// A call that shares the filter "res/+" with others.
fn keyed(agent: &Agent, id: &str) -> Request {
    agent.request("dev", id.to_owned()).reply_to("res/+").correlation(Correlation::topic(id))
}

#[tokio::test]
async fn calls_with_keys_share_a_filter_and_the_time() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = ["1", "2", "3"].map(|id| tokio::spawn(keyed(&agent, id).into_future()));
    assert_eq!(asked(&grant(&mut peer).await), [("res/+", 1)]);
    for id in ["1", "2", "3"] {
        assert_eq!(peer.expect_publish().await.payload, id);
    }
    let twice = keyed(&agent, "2").await.unwrap_err();
    assert_eq!((twice.kind(), twice.outcome()), (ErrorKind::KeyInUse, Outcome::NotSent));
    for id in ["3", "1", "2", "4"] {
        peer.publish(message(&format!("res/{id}"), id)).await;
    }
    for (call, id) in calls.into_iter().zip(["1", "2", "3"]) {
        assert_eq!(text(async { call.await.unwrap() }).await, id);
    }
    settled(&agent, "a late reply", |stats| stats.late_replies == 1 && stats.pending_requests == 0).await;
}

#[tokio::test]
async fn a_reply_by_the_second_filter_is_a_refusal() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = || agent.request("dev", "x").reply_to("res/ok").rejected_by("res/no").into_future();
    let calls = [tokio::spawn(call()), tokio::spawn(call())];
    assert_eq!(asked(&grant(&mut peer).await), [("res/ok", 1), ("res/no", 1)]);
    for (topic, payload) in [("res/ok", "fine"), ("res/no", "not allowed")] {
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
        peer.publish(message(topic, payload)).await;
    }
    let [first, second] = calls;
    let mut answers = [first.await.unwrap(), second.await.unwrap()];
    answers.sort_by_key(Result::is_err);
    let [accepted, rejected] = answers;
    assert_eq!(accepted.unwrap().text().unwrap(), "fine");
    let rejected = rejected.unwrap_err();
    assert_eq!((rejected.kind(), rejected.outcome()), (ErrorKind::Remote, Outcome::Refused));
    assert_eq!(rejected.remote().unwrap().message, "not allowed");
    assert_eq!(rejected.messages()[0].topic(), "res/no");
}

#[tokio::test]
async fn one_refused_filter_of_two_fails_the_call_before_anything_is_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = agent.request("dev", "x").reply_to("res/ok").rejected_by("res/no").timeout(Duration::MAX);
    let call = tokio::spawn(call.into_future());
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[GRANTED, SubscribeReasonCode::Failure]).await;
    let error = within(LIMIT, "the refusal", call).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    assert_eq!(peer.expect_unsubscribe().await.topics, ["res/ok"]);
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn what_a_convention_calls_an_error_is_one_and_has_the_reply_with_it() {
    let (_scripted, agent, mut peer) = pair().await;
    let read = |reply: &Message| Some(RemoteError::new(reply.text().ok()?.strip_prefix("ERR ")?));
    let one = tokio::spawn(agent.request("dev", "1").reply_to("res").error_from(read).into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(message("res", "ERR dry")).await;
    let error = one.await.unwrap().unwrap_err();
    assert_eq!((error.remote().unwrap().message.as_str(), error.messages().len()), ("dry", 1));
    let many = tokio::spawn(agent.request("dev", "2").reply_to("res").error_from(read).replies(2).into_future());
    peer.expect_publish().await;
    peer.publish(message("res", "fine")).await;
    peer.publish(message("res", "ERR dry")).await;
    let error = many.await.unwrap().unwrap_err();
    assert_eq!((error.remote().unwrap().message.as_str(), error.messages().len()), ("dry", 2));
}

broker_test!(calls_of_every_rule_dropped_at_any_point_free_their_slots, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let service = device.serve("dev/{id}/rpc", |request| async move { request.payload().clone() });
    let _service = service.reply_to("dev/{id}/res").await.unwrap();
    let agent = Agent::connect(broker.url()).await.unwrap();
    let whole = |reply: &Message| Some(reply.payload().clone());
    let mut rules = vec![Correlation::topic("1"), Correlation::by_key("x", whole)];
    if is_v5() {
        rules.push(Correlation::data());
    }
    for rule in rules {
        let reply_to = if format!("{rule:?}").ends_with("topic") { "dev/+/res" } else { "dev/1/res" };
        for polls in 0.. {
            let call = agent.request("dev/1/rpc", "x").reply_to(reply_to).correlation(rule.clone()).into_future();
            let over = drop_when_woken_after_polls(call, polls).await;
            settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
            if let Some(reply) = over {
                reply.unwrap();
                break;
            }
        }
    }
});

broker_test!(calls_with_keys_survive_a_cut_line, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let mut asked = device.subscribe("dev/+/rpc").await.unwrap();
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).connect().await.unwrap();
    let calls = ["1", "2", "3"].map(|id| {
        let call = agent.request(format!("dev/{id}/rpc"), id).reply_to("dev/+/res");
        tokio::spawn(call.correlation(Correlation::topic(id)).into_future())
    });
    for _ in 0..3 {
        within(LIMIT, "a request", asked.recv()).await.unwrap().unwrap();
    }
    proxy.cut().await;
    settled(&agent, "a new connection", |stats| stats.reconnects == 1).await;
    // Acknowledged after the SUBSCRIBE before it was handled.
    agent.publish("fence", "").await.unwrap();
    for id in ["3", "1", "2"] {
        device.publish(format!("dev/{id}/res"), id).await.unwrap();
    }
    for (call, id) in calls.into_iter().zip(["1", "2", "3"]) {
        assert_eq!(text(async { call.await.unwrap() }).await, id);
    }
});

#[tokio::test]
async fn what_needs_mqtt_5_is_refused_on_a_connection_before_it_at_the_call() {
    if is_v5() {
        return;
    }
    let (_scripted, agent, mut peer) = pair().await;
    let request = || agent.request("dev", "x").reply_to("res");
    let data = request().correlation(Correlation::data()).await.unwrap_err();
    let property = request().user_property("a", "b").await.unwrap_err();
    for error in [data, property] {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unsupported, Outcome::NotSent));
    }
    let lonely = agent.request("dev", "x").rejected_by("no").await.unwrap_err();
    assert_eq!(lonely.kind(), ErrorKind::InvalidArgument);
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_response_topic_has_no_wildcards() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).version(Version::V5).connect_lazy().unwrap();
    for (filter, kind) in [("res/+", ErrorKind::InvalidTopic), ("$share/g/res", ErrorKind::InvalidArgument)] {
        let call = agent.request("dev", "x").reply_to(filter).correlation(Correlation::data());
        assert_eq!(call.await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn a_correlation_by_topic_needs_a_place_for_it_in_each_filter() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).version(Version::V5).connect_lazy().unwrap();
    let call = || agent.request("dev", "x").correlation(Correlation::topic("17"));
    let refused = [
        (call(), "reply_to with a +"),
        (call().reply_to("res/17"), "reply_to with a +"),
        (call().reply_to("res/#"), "reply_to with a +"),
        (call().reply_to("res/+").rejected_by("no/17"), "rejected_by with a +"),
        (call().reply_to("res/+").correlation(Correlation::topic("a/b")), "one level"),
    ];
    for (call, why) in refused {
        let error = call.await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotSent));
        assert!(error.to_string().contains(why), "{error}");
    }
}
