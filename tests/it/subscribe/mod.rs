//! Subscriptions: when they resolve, what the broker sees of them, and what their streams say.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::pin::pin;

use futures::future::join_all;
use futures::stream::{select_all, FusedStream};
use futures::{FutureExt, StreamExt};
use mqtt_agent::{Agent, Error, ErrorKind, Filter, QoS, Retained, Subscription};
use rumqttc::mqttbytes::v4::{Publish, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::script::*;
use crate::support::{
    broker_test, drop_after_polls, drop_when_woken_after_polls, is_v5, millis, mosquitto_or_skip, within,
    BrokerOptions, MosquittoConfig, Scripted, LIMIT,
};

mod end;
mod held;
mod lag;
mod many;
mod overlap;
mod receiving;
mod reconnect;
mod retained;
mod share;
mod sharing;

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(WireQoS::AtLeastOnce);

async fn text(stream: &mut Subscription) -> String {
    let item = within(LIMIT, "a message", stream.recv()).await.expect("the agent is open");
    item.unwrap().text().unwrap().to_owned()
}

async fn failure(stream: &mut Subscription) -> Error {
    within(LIMIT, "an error", stream.recv()).await.expect("the agent is open").unwrap_err()
}

fn is_empty(stream: &mut Subscription) -> bool {
    stream.recv().now_or_never().is_none()
}

#[tokio::test]
async fn a_subscribe_resolves_at_suback_and_not_before() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut call = pin!(agent.subscribe("a/+").into_future());
    assert!(is_pending(&mut call).await);
    let subscribe = peer.expect_subscribe().await;
    nothing_sent(&agent, &mut peer).await;
    assert!(is_pending(&mut call).await);
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let stream = call.await.unwrap();
    assert_eq!(stream.granted(), [(Filter::new("a/+").unwrap(), QoS::AtLeastOnce)]);
}

#[tokio::test]
async fn a_refused_filter_is_named_and_the_others_are_given_up() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.subscribe(["a", "no/entry", "c"]).into_future());
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[GRANTED, SubscribeReasonCode::Failure, GRANTED]).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert!(error.to_string().contains("\"no/entry\""), "{error}");
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a", "c"]);
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

#[tokio::test]
async fn a_refusal_that_comes_first_or_last_leaves_nothing_either() {
    for refused in [0, 1] {
        let (_scripted, agent, mut peer) = pair().await;
        let call = tokio::spawn(agent.subscribe(["a", "b"]).into_future());
        let subscribe = peer.expect_subscribe().await;
        let mut codes = [GRANTED; 2];
        codes[refused] = SubscribeReasonCode::Failure;
        peer.suback(subscribe.pkid, &codes).await;
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::SubscribeRefused);
        let unsubscribe = peer.expect_unsubscribe().await;
        assert_eq!(unsubscribe.topics, [["b", "a"][refused]]);
        peer.unsuback(unsubscribe.pkid).await;
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
    }
}

#[tokio::test]
async fn a_refusal_fails_everyone_who_waits_for_that_filter_and_nobody_else() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = tokio::spawn(join_all([
        agent.subscribe("no").into_future(),
        agent.subscribe(["yes", "no"]).into_future(),
        agent.subscribe("yes").into_future(),
    ]));
    let subscribe = peer.expect_subscribe().await;
    assert_eq!(asked(&subscribe), [("no", 1), ("yes", 1)]);
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure, GRANTED]).await;
    let mut answers = calls.await.unwrap();
    let mut kept = answers.pop().unwrap().unwrap();
    for answer in answers {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::SubscribeRefused);
    }
    peer.publish(message("yes", "1")).await;
    assert_eq!(text(&mut kept).await, "1");
    nothing_sent(&agent, &mut peer).await;
}

broker_test!(
    a_refusal_by_the_broker_is_an_error_that_names_the_filter,
    options = BrokerOptions { refused: vec!["secret".into()], ..Default::default() },
    |broker| async move {
        let agent = Agent::connect(broker.url()).await.unwrap();
        let error = agent.subscribe(["open/#", "secret/x"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
        assert!(error.to_string().contains("secret/x"), "{error}");
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
        let mut stream = agent.subscribe("open/#").await.unwrap();
        agent.publish("open/1", "still here").await.unwrap();
        assert_eq!(text(&mut stream).await, "still here");
    }
);

#[tokio::test]
async fn a_capacity_out_of_bounds_is_refused_before_anything_is_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    for capacity in [0, 1_048_577, usize::MAX] {
        let error = agent.subscribe("a").capacity(capacity).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let none: [&str; 0] = [];
    assert_eq!(agent.subscribe(none).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    for filter in ["", "a/#/b", "a+", "$share/g", "a\0"] {
        assert_eq!(agent.subscribe(filter).await.unwrap_err().kind(), ErrorKind::InvalidFilter, "{filter:?}");
    }
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn the_stream_composes_with_the_combinators_of_others() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let other = granted(&mut peer, agent.subscribe("b").into_future()).await.unwrap();
    let again = granted(&mut peer, agent.subscribe("c").into_future()).await.unwrap();
    for n in 0..4 {
        peer.publish(message("a", &n.to_string())).await;
    }
    let taken: Vec<_> = stream.clone().take(0).collect().await;
    assert!(taken.is_empty());
    let handled: Vec<_> = stream
        .take(4)
        .map(|item| async move { item.unwrap().text().unwrap().to_owned() })
        .buffer_unordered(2)
        .collect()
        .await;
    assert_eq!(handled.iter().collect::<BTreeSet<_>>().len(), 4);

    let mut merged = select_all([other, again]);
    peer.publish(message("b", "1")).await;
    peer.publish(message("c", "2")).await;
    let both: BTreeSet<_> =
        merged.by_ref().take(2).map(|item| item.unwrap().topic().as_str().to_owned()).collect().await;
    assert_eq!(both, ["b", "c"].map(String::from).into());
    // An empty stream times out item by item and goes on afterwards.
    let mut patient = pin!(tokio_stream::StreamExt::timeout(merged, millis(20)));
    assert!(patient.next().await.unwrap().is_err());
    peer.publish(message("b", "3")).await;
    let next = loop {
        if let Ok(item) = within(LIMIT, "an item", patient.next()).await.unwrap() {
            break item.unwrap();
        }
    };
    assert_eq!(next.text().unwrap(), "3");
}

broker_test!(topics_and_filters_may_use_any_script, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe(["küche/+/温度", "🚪/#"]).await.unwrap();
    for topic in ["küche/ofen/温度", "🚪/haustür", "🚪"] {
        agent.publish(topic, topic).await.unwrap();
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.topic(), topic);
        assert_eq!(message.text().unwrap(), topic);
    }
});
