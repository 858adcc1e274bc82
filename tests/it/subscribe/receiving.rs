//! Messages on their way in, and their acknowledgements.

use super::*;
use crate::common::kept;

#[tokio::test]
async fn an_incoming_qos_1_message_is_acknowledged_and_its_repetition_delivered() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    assert_eq!(peer.expect_puback().await, 7);
    peer.publish(Publish { dup: true, ..numbered("a", "1", WireQoS::AtLeastOnce, 7) }).await;
    assert_eq!(peer.expect_puback().await, 7);
    let first = stream.recv().await.unwrap().unwrap();
    let second = stream.recv().await.unwrap().unwrap();
    assert_eq!([first.is_duplicate(), second.is_duplicate()], [false, true]);
    assert_eq!(first.qos(), QoS::AtLeastOnce);
}

#[tokio::test]
async fn a_message_that_nobody_wants_is_acknowledged_and_counted() {
    let (_scripted, agent, mut peer) = pair().await;
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    assert_eq!(peer.expect_puback().await, 7);
    assert_eq!(agent.stats().unclaimed, 1);
}

#[tokio::test]
async fn an_incoming_qos_2_message_is_delivered_once_however_often_it_comes() {
    let (_scripted, agent, mut peer) = pair().await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    for dup in [false, true, true] {
        peer.publish(Publish { dup, ..numbered("a", "1", WireQoS::ExactlyOnce, 7) }).await;
        assert_eq!(peer.expect_pubrec().await, 7);
    }
    for _ in 0..2 {
        peer.pubrel(7).await;
        assert_eq!(peer.expect_pubcomp().await, 7);
    }
    // The identifier is free again: this is another message.
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    assert!(is_empty(&mut stream));
    assert_eq!(agent.stats().received, 2);
}

#[tokio::test]
async fn an_incoming_qos_2_message_is_delivered_once_across_a_reconnect_of_its_session() {
    let scripted = Scripted::listen().await;
    let options = kept(&scripted);
    let (agent, mut peer) = connect(&scripted, options).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();

    let (mut peer, _) = scripted.accept_session(true).await;
    peer.publish(Publish { dup: true, ..numbered("a", "1", WireQoS::ExactlyOnce, 7) }).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();

    let (mut peer, _) = scripted.accept_session(true).await;
    peer.pubrel(7).await;
    assert_eq!(peer.expect_pubcomp().await, 7);
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    assert_eq!(agent.stats().received, 2);
}

#[tokio::test]
async fn a_new_session_may_use_the_identifiers_of_the_old_for_other_messages() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
}

#[tokio::test]
async fn acknowledgements_of_a_lost_connection_are_not_sent_on_the_next() {
    let scripted = Scripted::listen().await;
    let options = kept(&scripted);
    let (agent, mut peer) = connect(&scripted, options).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    nothing_sent(&agent, &mut peer).await;
    peer.publish(numbered("a", "2", WireQoS::AtLeastOnce, 8)).await;
    assert_eq!(peer.expect_puback().await, 8);
    // A reset may overtake the message before it.
    while text(&mut stream).await != "2" {}
}

#[tokio::test]
async fn an_oversized_message_is_acknowledged_dropped_and_counted() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).max_packet_size(1000);
    let (agent, mut peer) = connect(&scripted, options).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    let big = "x".repeat(2000);
    peer.publish(message("a", &big)).await;
    peer.publish(numbered("a", &big, WireQoS::AtLeastOnce, 5)).await;
    assert_eq!(peer.expect_puback().await, 5);
    for _ in 0..2 {
        peer.publish(numbered("a", &big, WireQoS::ExactlyOnce, 6)).await;
        assert_eq!(peer.expect_pubrec().await, 6);
    }
    peer.pubrel(6).await;
    assert_eq!(peer.expect_pubcomp().await, 6);
    peer.publish(message("a", "small")).await;
    assert_eq!(text(&mut stream).await, "small");
    assert!(is_empty(&mut stream));
    let stats = agent.stats();
    assert_eq!((stats.oversized, stats.received, stats.reconnects), (3, 1, 0));
}

#[tokio::test]
async fn an_oversized_message_of_a_broker_does_not_end_the_connection() {
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let sender = Agent::connect(broker.url().as_str()).await.unwrap();
    let agent = options(&broker.url()).max_packet_size(1000).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    sender.publish("a", vec![0; 100_000]).await.unwrap();
    sender.publish("a", "small").await.unwrap();
    assert_eq!(text(&mut stream).await, "small");
    let stats = agent.stats();
    // With MQTT 5 the broker knows the limit, and keeps it back.
    assert_eq!((stats.oversized, stats.received, stats.reconnects), (u64::from(!is_v5()), 1, 0));
}

#[tokio::test]
async fn the_topics_of_the_broker_itself_can_be_read() {
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let agent = Agent::connect(broker.url().as_str()).await.unwrap();
    let mut everything = agent.subscribe("#").await.unwrap();
    let mut system = agent.subscribe("$SYS/#").await.unwrap();
    let message = within(LIMIT, "a message of the broker", system.recv()).await.unwrap().unwrap();
    assert!(message.topic().as_str().starts_with("$SYS/"), "{message:?}");
    // [MQTT-4.7.2-1]
    assert!(is_empty(&mut everything));
}
