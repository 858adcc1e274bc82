//! Publish: when it resolves, and what its errors say.

use std::collections::{HashMap, HashSet};
use std::future::IntoFuture;
use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use futures::{poll, FutureExt, StreamExt};
use mqtt_agent::{Agent, Delivery, ErrorKind, Offline, Outcome, QoS, Retained};
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::common::{held_offline, kept, linked, options, refusing_address, stats};
use crate::support::{broker_test, millis, secs, within, Direction, Peer, Proxy, Scripted, LIMIT};

mod offline;
mod replay;

broker_test!(a_publish_resolves_when_the_broker_has_it_and_a_subscriber_gets_it, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a/+").qos(QoS::ExactlyOnce).await.unwrap();
    for (qos, delivery) in [
        (QoS::AtMostOnce, Delivery::Sent),
        (QoS::AtLeastOnce, Delivery::Acknowledged),
        (QoS::ExactlyOnce, Delivery::Completed),
    ] {
        assert_eq!(agent.publish("a/b", "hello").qos(qos).await.unwrap(), delivery);
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.text().unwrap(), "hello");
        assert_eq!(message.qos(), qos);
    }
});

broker_test!(a_retained_message_is_kept_until_an_empty_one_clears_it, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("kept", "1").retain(true).await.unwrap();
    let mut first = agent.subscribe("kept").await.unwrap();
    let message = first.recv().await.unwrap().unwrap();
    assert!(message.is_retained() && message.text() == Ok("1"));
    first.unsubscribe().await.unwrap();

    agent.publish("kept", "").retain(true).await.unwrap();
    let mut second = agent.subscribe("kept").retained(Retained::Include).await.unwrap();
    agent.publish("kept", "2").await.unwrap();
    let message = second.recv().await.unwrap().unwrap();
    assert!(!message.is_retained() && message.text() == Ok("2"), "{message:?}");
});

broker_test!(a_message_handed_over_arrives, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a").qos(QoS::ExactlyOnce).await.unwrap();
    agent.try_publish("a", "0").unwrap();
    agent.publish("a", "1").try_send().unwrap();
    agent.publish("a", "2").qos(QoS::ExactlyOnce).try_send().unwrap();
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(stream.recv().await.unwrap().unwrap().text().unwrap().to_owned());
    }
    // Order holds within one QoS only.
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
});

#[tokio::test]
async fn a_qos_1_publish_resolves_with_its_own_puback_whatever_the_order() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut calls: Vec<_> = (0..3).map(|n| Box::pin(agent.publish("a", n.to_string()).into_future())).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    let mut ids = Vec::new();
    for n in 0..3 {
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, n.to_string());
        assert!(!publish.dup && publish.pkid != 0 && publish.qos == WireQoS::AtLeastOnce);
        ids.push(publish.pkid);
    }
    for n in (0..3).rev() {
        for call in &mut calls {
            assert!(poll!(call).is_pending());
        }
        peer.puback(ids[n]).await;
        assert_eq!(within(LIMIT, "the publish", calls.remove(n)).await.unwrap(), Delivery::Acknowledged);
    }
    assert_eq!(agent.stats().acked, 3);
}

#[tokio::test]
async fn a_qos_2_publish_resolves_with_its_pubcomp_after_the_whole_handshake() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut call = pin!(agent.publish("a", "x").qos(QoS::ExactlyOnce).into_future());
    assert!(poll!(&mut call).is_pending());
    let id = peer.expect_publish().await.pkid;
    peer.pubcomp(id).await; // Out of turn: no answer to anything.
    peer.pubrec(id).await;
    assert_eq!(peer.expect_pubrel().await, id);
    assert!(poll!(&mut call).is_pending());
    peer.pubrec(id).await; // A repetition is answered again.
    assert_eq!(peer.expect_pubrel().await, id);
    assert!(poll!(&mut call).is_pending());
    peer.pubcomp(id).await;
    assert_eq!(within(LIMIT, "the publish", call).await.unwrap(), Delivery::Completed);
}

#[tokio::test]
async fn a_broker_that_answers_qos_2_with_puback_is_understood() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let call = tokio::spawn(agent.publish("a", "x").qos(QoS::ExactlyOnce).into_future());
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    assert_eq!(within(LIMIT, "the publish", call).await.unwrap().unwrap(), Delivery::Acknowledged);
    stats(&agent, "nothing in flight", |stats| stats.in_flight == 0).await;
}

#[tokio::test]
async fn a_qos_0_publish_resolves_without_an_answer() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let sent = within(LIMIT, "the publish", agent.publish("a", "x").qos(QoS::AtMostOnce).into_future()).await;
    assert_eq!(sent.unwrap(), Delivery::Sent);
    let publish = peer.expect_publish().await;
    assert_eq!((publish.pkid, publish.qos, publish.retain), (0, WireQoS::AtMostOnce, false));
}

#[tokio::test]
async fn a_timeout_says_whether_the_message_left() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).max_in_flight(1)).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let first = agent.publish("a", "first").qos(qos).timeout(millis(100)).into_future();
        let second = agent.publish("a", "second").qos(qos).timeout(millis(50)).into_future();
        let (first, second) = within(LIMIT, "the timeouts", async { tokio::join!(first, second) }).await;
        let (first, second) = (first.unwrap_err(), second.unwrap_err());
        assert_eq!((first.kind(), first.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
        assert_eq!((second.kind(), second.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, "first");
        // The window opens, and the one that was given up stays away.
        peer.puback(publish.pkid).await;
    }
    agent.publish("a", "last").qos(QoS::AtMostOnce).await.unwrap();
    assert_eq!(peer.expect_publish().await.payload, "last");
}

#[tokio::test]
async fn a_zero_timeout_answers_at_once() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let (offline, _held) = held_offline(&server, options(&server.url())).await;
    for agent in [&agent, &offline] {
        let call = agent.publish("a", "x").timeout(Duration::ZERO).into_future();
        let error = within(LIMIT, "the timeout", call).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    }
    agent.publish("a", "y").qos(QoS::AtMostOnce).await.unwrap();
    assert_eq!(peer.expect_publish().await.payload, "y");
}

#[tokio::test]
async fn packet_ids_are_unique_among_a_thousand_calls_at_once() {
    const PUBLISHES: usize = 1000;
    const FILTERS: usize = 600;
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let publishes = join_all((0..PUBLISHES).map(|n| agent.publish("a", n.to_string()).into_future()));
    let subscribes = join_all((0..FILTERS).map(|n| agent.subscribe(format!("f/{n}")).into_future()));
    let mut calls = pin!(async { tokio::join!(publishes, subscribes) });
    assert!(poll!(&mut calls).is_pending());
    let (mut ids, mut publish_ids, mut subscribe_ids, mut filters) = (HashSet::new(), Vec::new(), Vec::new(), 0);
    while publish_ids.len() < PUBLISHES || filters < FILTERS {
        let id = match peer.recv().await {
            Packet::Publish(publish) => {
                publish_ids.push(publish.pkid);
                publish.pkid
            }
            Packet::Subscribe(subscribe) => {
                filters += subscribe.filters.len();
                subscribe_ids.push((subscribe.pkid, subscribe.filters.len()));
                subscribe.pkid
            }
            other => panic!("{other:?}"),
        };
        assert!(id != 0 && ids.insert(id), "packet id {id} is in use");
    }
    for id in publish_ids.into_iter().rev() {
        peer.puback(id).await;
    }
    for (id, filters) in subscribe_ids.into_iter().rev() {
        peer.suback(id, &vec![SubscribeReasonCode::Success(WireQoS::AtLeastOnce); filters]).await;
    }
    let (published, subscribed) = within(LIMIT, "all answers", calls).await;
    assert!(published.iter().all(Result::is_ok) && subscribed.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_message_over_the_limit_of_the_protocol_is_refused_and_the_connection_stays() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let huge = bytes::Bytes::from(vec![0; 256 << 20]);
    let error = agent.publish("a", huge.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::NotSent));
    let error = agent.publish("a", huge.clone()).try_send().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let error = agent.request("a", huge).reply_to("b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    expect_next(&agent, &mut peer, "next").await;
    assert!(agent.is_connected());
}

/// Publishes at QoS 0 and sees that nothing else was sent before.
async fn expect_next(agent: &Agent, peer: &mut Peer, text: &str) {
    agent.publish("next", text.to_owned()).qos(QoS::AtMostOnce).into_future().map(Result::unwrap).await;
    let publish = peer.expect_publish().await;
    assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("next", text.as_bytes()));
}
