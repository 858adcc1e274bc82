//! Collect: so many messages, or what came in time.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::time::{Duration, Instant};

use mqtt_agent::{Agent, ErrorKind, Message, Offline, QoS, Retained};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;

use crate::script::*;
use crate::support::{broker_test, drop_when_woken_after_polls, millis, secs, within, Scripted, LIMIT};

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.text().unwrap()).collect()
}

async fn leaves_nothing(agent: &Agent) {
    settled(agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

broker_test!(it_returns_the_messages_asked_for_in_their_order_and_unsubscribes, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let collecting = tokio::spawn(agent.collect("a/+", 3, LIMIT).qos(QoS::ExactlyOnce).into_future());
    // Listens before anything is published, like whoever calls collect first.
    settled(&agent, "the subscriber", |stats| stats.subscribers == 1).await;
    drop(agent.subscribe("a/+").await.unwrap());
    for n in 0..3 {
        agent.publish(format!("a/{n}"), n.to_string()).await.unwrap();
    }
    assert_eq!(texts(&collecting.await.unwrap().unwrap()), ["0", "1", "2"]);
    leaves_nothing(&agent).await;
});

broker_test!(retained_messages_count_as_chosen, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    for n in 0..5 {
        agent.publish(format!("r/{n}"), n.to_string()).retain(true).await.unwrap();
    }
    for retained in [Retained::IfFirst, Retained::Include, Retained::Only] {
        let messages = agent.collect("r/+", 5, LIMIT).retained(retained).await.unwrap();
        assert_eq!(texts(&messages).into_iter().collect::<BTreeSet<_>>(), ["0", "1", "2", "3", "4"].into());
        assert!(messages.iter().all(Message::is_retained));
        leaves_nothing(&agent).await;
    }
    // Fewer than there are, in one burst.
    assert_eq!(agent.collect("r/+", 1, LIMIT).await.unwrap().len(), 1);
    leaves_nothing(&agent).await;

    let error = agent.collect("r/+", 1, millis(100)).retained(Retained::Ignore).await.unwrap_err();
    assert!(error.is_timeout());
    assert!(error.messages().is_empty());
    leaves_nothing(&agent).await;

    // Where another has the filter, the retained messages have to be asked for.
    let _other = agent.subscribe("r/+").await.unwrap();
    assert!(agent.collect("r/+", 1, millis(100)).await.unwrap_err().is_timeout());
    assert_eq!(agent.collect("r/+", 5, LIMIT).retained(Retained::Include).await.unwrap().len(), 5);
});

#[tokio::test]
async fn a_timeout_carries_what_came() {
    let (_scripted, agent, mut peer) = pair().await;
    let collecting = tokio::spawn(agent.collect(["a", "b"], 3, secs(1)).into_future());
    assert_eq!(asked(&grant(&mut peer).await), [("a", 1), ("b", 1)]);
    peer.publish(message("a", "1")).await;
    peer.publish(message("b", "2")).await;
    let error = collecting.await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(texts(error.messages()), ["1", "2"]);
    assert_eq!(texts(&error.into_messages()), ["1", "2"]);
    let mut topics = peer.expect_unsubscribe().await.topics;
    topics.sort_unstable();
    assert_eq!(topics, ["a", "b"]);
}

#[tokio::test]
async fn a_burst_of_more_than_it_wants_is_no_loss() {
    let (_scripted, agent, mut peer) = pair().await;
    for count in [1, 5] {
        let collecting = tokio::spawn(agent.collect("a", count, LIMIT).into_future());
        let subscribe = peer.expect_subscribe().await;
        // All before the SUBACK: nothing is taken from the stream yet.
        for n in 0..100 {
            peer.publish(message("a", &n.to_string())).await;
        }
        peer.suback(subscribe.pkid, &[SubscribeReasonCode::Success(subscribe.filters[0].qos)]).await;
        let messages = collecting.await.unwrap().unwrap();
        let expected: Vec<_> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(texts(&messages), expected);
        let unsubscribe = peer.expect_unsubscribe().await;
        peer.unsuback(unsubscribe.pkid).await;
        leaves_nothing(&agent).await;
    }
}

#[tokio::test]
async fn the_last_message_ends_it_and_the_broker_hears_of_it_once() {
    let (_scripted, agent, mut peer) = pair().await;
    let collecting = tokio::spawn(agent.collect("a", 2, LIMIT).into_future());
    grant(&mut peer).await;
    for n in 0..5 {
        peer.publish(message("a", &n.to_string())).await;
    }
    assert_eq!(texts(&collecting.await.unwrap().unwrap()), ["0", "1"]);
    peer.expect_unsubscribe().await;
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn what_cannot_be_collected_is_refused_before_anything_is_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    assert_eq!(agent.collect("a", 0, LIMIT).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(agent.collect("a/#/b", 1, LIMIT).await.unwrap_err().kind(), ErrorKind::InvalidFilter);
    assert_eq!(agent.collect([""; 0], 1, LIMIT).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(agent.collect("a", 1, Duration::ZERO).await.unwrap_err().is_timeout());
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_refused_filter_ends_it_at_once() {
    let (_scripted, agent, mut peer) = pair().await;
    let collecting = tokio::spawn(agent.collect("a", 1, Duration::MAX).into_future());
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    assert_eq!(collecting.await.unwrap().unwrap_err().kind(), ErrorKind::SubscribeRefused);
}

#[tokio::test]
async fn the_end_of_the_agent_ends_it_with_what_came() {
    let (_scripted, agent, mut peer) = pair().await;
    let collecting = tokio::spawn(agent.collect("a", usize::MAX, Duration::MAX).into_future());
    grant(&mut peer).await;
    peer.publish(message("a", "1")).await;
    received(&agent, 1).await;
    agent.close().await;
    let error = within(LIMIT, "the end", collecting).await.unwrap().unwrap_err();
    assert!(error.is_closed());
    assert_eq!(texts(error.messages()), ["1"]);
}

#[tokio::test]
async fn it_goes_on_over_a_reconnect() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let collecting = tokio::spawn(agent.collect("a", 2, secs(60)).into_future());
    grant(&mut peer).await;
    peer.publish(message("a", "1")).await;
    received(&agent, 1).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    peer.publish(message("a", "2")).await;
    assert_eq!(texts(&collecting.await.unwrap().unwrap()), ["1", "2"]);
}

#[tokio::test]
async fn without_a_connection_it_fails_or_waits_as_told() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).connect_lazy().unwrap();
    let error = agent.collect("a", 1, LIMIT).offline(Offline::Fail).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
    let started = Instant::now();
    assert!(agent.collect("a", 1, millis(100)).await.unwrap_err().is_timeout());
    assert!(started.elapsed() >= millis(100));
    let collecting = tokio::spawn(agent.collect("a", 1, LIMIT).into_future());
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    peer.publish(message("a", "1")).await;
    assert_eq!(texts(&collecting.await.unwrap().unwrap()), ["1"]);
}

broker_test!(dropped_at_any_point_it_leaves_no_subscription, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("a", "kept").retain(true).await.unwrap();
    let mut polls = 0;
    while drop_when_woken_after_polls(agent.collect("a", 1, LIMIT).into_future(), polls).await.is_none() {
        polls += 1;
        leaves_nothing(&agent).await;
    }
    leaves_nothing(&agent).await;
});
