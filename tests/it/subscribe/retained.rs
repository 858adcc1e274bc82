//! Retained messages: who gets them, and how often.

use super::*;

#[tokio::test]
async fn retained_messages_go_to_those_who_asked_and_to_nobody_twice() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    assert_eq!(text(&mut first).await, "kept");

    let mut late = agent.subscribe("a").await.unwrap();
    let mut ignores = agent.subscribe("a").retained(Retained::Ignore).await.unwrap();
    nothing_sent(&agent, &mut peer).await;

    let mut includes =
        granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    assert_eq!(text(&mut includes).await, "kept");

    let mut only = granted(&mut peer, agent.subscribe("a").retained(Retained::Only).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    let item = within(LIMIT, "the retained message", only.recv()).await.unwrap().unwrap();
    assert!(item.is_retained());

    peer.publish(message("a", "new")).await;
    for stream in [&mut first, &mut late, &mut ignores, &mut includes] {
        assert_eq!(text(stream).await, "new");
    }
    assert!(is_empty(&mut only));
}

/// Brokers may send retained messages well after the SUBACK: mosquitto when its window of unacknowledged messages is
/// full, others because they queue them.
#[tokio::test]
async fn retained_messages_that_arrive_after_the_suback_of_the_next_subscribe_still_reach_the_first() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    let mut second = granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    for _ in 0..2 {
        peer.publish(retained("a", "kept")).await;
    }
    peer.publish(message("a", "new")).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(text(stream).await, "kept");
        assert_eq!(text(stream).await, "new");
    }
}

#[tokio::test]
async fn a_first_subscriber_that_ignores_retained_messages_gets_none() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").retained(Retained::Ignore).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    peer.publish(message("a", "new")).await;
    assert_eq!(text(&mut stream).await, "new");
}

#[tokio::test]
async fn one_subscribe_gives_its_retained_messages_to_all_who_wait_for_it() {
    let (_scripted, agent, mut peer) = pair().await;
    let kinds = [Retained::IfFirst, Retained::Include, Retained::Only];
    let calls = tokio::spawn(join_all(kinds.map(|kind| agent.subscribe("+").retained(kind).into_future())));
    let subscribe = peer.expect_subscribe().await;
    // [MQTT-3.8.4-3]: the broker may start before its SUBACK.
    peer.publish(retained("a", "early")).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    peer.publish(retained("b", "kept")).await;
    for stream in calls.await.unwrap() {
        let mut stream = stream.unwrap();
        assert_eq!(text(&mut stream).await, "early");
        assert_eq!(text(&mut stream).await, "kept");
    }
}

broker_test!(retained_messages_of_a_broker_reach_first_and_late_joiners_as_they_chose, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("r/1", "kept").retain(true).await.unwrap();
    let mut first = agent.subscribe("r/+").await.unwrap();
    assert_eq!(text(&mut first).await, "kept");
    let mut late = agent.subscribe("r/+").await.unwrap();
    let mut ignores = agent.subscribe("r/+").retained(Retained::Ignore).await.unwrap();
    let mut includes = agent.subscribe("r/+").retained(Retained::Include).await.unwrap();
    assert_eq!(text(&mut includes).await, "kept");
    let mut only = agent.subscribe("r/+").retained(Retained::Only).await.unwrap();
    assert_eq!(text(&mut only).await, "kept");
    agent.publish("r/1", "new").retain(true).await.unwrap();
    for stream in [&mut first, &mut late, &mut ignores, &mut includes] {
        assert_eq!(text(stream).await, "new");
        assert!(is_empty(stream));
    }
    assert!(is_empty(&mut only));
});
