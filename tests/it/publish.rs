//! Publish: when it resolves, and what its errors say.

use std::collections::{HashMap, HashSet};
use std::future::IntoFuture;
use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use futures::{poll, FutureExt, StreamExt};
use mqtt_agent::{Agent, Delivery, ErrorKind, Offline, Outcome, QoS, Retained};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::common::{held_offline, kept, linked, options, refusing_address, stats};
use crate::support::{broker_test, millis, secs, within, Direction, Peer, Proxy, Scripted, LIMIT};

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

broker_test!(a_message_that_waits_for_a_connection_is_delivered_when_the_broker_comes, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    proxy.refuse(true);
    let agent = options(&proxy.url()).offline(Offline::Wait).connect_lazy().unwrap();
    let listener = Agent::connect(broker.url()).await.unwrap();
    let mut stream = listener.subscribe("a").await.unwrap();
    let mut waiting = pin!(agent.publish("a", "waited").into_future());
    assert!(poll!(&mut waiting).is_pending());
    let queued = agent.publish("a", "queued").offline(Offline::Queue).await;
    assert_eq!(queued.unwrap(), Delivery::Queued);
    proxy.wait_for_connections(2).await;
    proxy.refuse(false);
    assert_eq!(waiting.await.unwrap(), Delivery::Acknowledged);
    for text in ["waited", "queued"] {
        assert_eq!(stream.recv().await.unwrap().unwrap().text().unwrap(), text);
    }
});

broker_test!(nothing_is_lost_and_qos_2_is_not_doubled_while_the_line_breaks, |broker| async move {
    const COUNT: usize = 200;
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).clean_session(false).client_id("publisher").timeout(secs(60)).connect();
    let agent = agent.await.unwrap();
    let listener = Agent::connect(broker.url()).await.unwrap();
    let mut stream = listener.subscribe("a/+").qos(QoS::ExactlyOnce).capacity(1 << 14).await.unwrap();
    // The cut comes at another byte each round: in the middle of packets, and in each direction.
    for round in 0..8_u64 {
        match round % 2 {
            0 => proxy.cut_after(Direction::Up, 37 + round * 131),
            _ => proxy.cut_after(Direction::Down, 5 + round * 23),
        }
        let calls = (0..COUNT).map(|n| {
            let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
            agent.publish(format!("a/{round}"), n.to_string()).qos(qos).into_future()
        });
        for result in join_all(calls).await {
            result.unwrap();
        }
    }
    listener.publish("a/end", "").await.unwrap();
    let mut seen: HashMap<(String, usize), usize> = HashMap::new();
    loop {
        let message = stream.recv().await.unwrap().unwrap();
        if message.topic() == "a/end" {
            break;
        }
        *seen.entry((message.topic().to_string(), message.text().unwrap().parse().unwrap())).or_default() += 1;
    }
    assert_eq!(seen.len(), 8 * COUNT);
    assert!(seen.iter().all(|((_, n), times)| n % 2 == 0 || *times == 1));
    assert!(agent.stats().reconnects > 0);
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
async fn a_timeout_without_a_connection_means_not_sent() {
    let (_port, addr) = refusing_address();
    let agent = options(&format!("mqtt://{addr}")).connect_lazy().unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let call = agent.publish("a", "x").qos(qos).timeout(millis(30)).into_future();
        let error = within(LIMIT, "the timeout", call).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    }
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
async fn told_to_fail_offline_it_fails_at_once_and_is_not_sent_later() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, options(&server.url())).await;
    let call = agent.publish("a", "x").offline(Offline::Fail).into_future();
    let error = within(LIMIT, "the failure", call).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
    peer.connack(ConnectReturnCode::Success, false).await;
    expect_next(&agent, &mut peer, "next").await;
}

#[tokio::test]
async fn told_to_queue_offline_it_returns_at_once_and_is_sent_later_whatever_its_timeout() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, options(&server.url())).await;
    for n in 0..3 {
        let call = agent.publish("a", n.to_string()).offline(Offline::Queue).timeout(millis(20)).into_future();
        assert_eq!(within(LIMIT, "the hand-over", call).await.unwrap(), Delivery::Queued);
    }
    // Another call's deadline, later than theirs, shows that theirs have passed.
    let late = agent.publish("a", "late").timeout(millis(50)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    peer.connack(ConnectReturnCode::Success, false).await;
    for n in 0..3 {
        assert_eq!(peer.expect_publish().await.payload, n.to_string());
    }
    expect_next(&agent, &mut peer, "next").await;
}

#[tokio::test]
async fn a_message_that_was_given_up_before_it_was_sent_is_never_sent() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, options(&server.url())).await;
    let mut dropped = Box::pin(agent.publish("a", "dropped").into_future());
    assert!(poll!(&mut dropped).is_pending());
    tokio::task::yield_now().await;
    drop(dropped);
    let error = agent.publish("a", "expired").timeout(millis(20)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    let kept = tokio::spawn(agent.publish("a", "kept").into_future());
    tokio::task::yield_now().await;
    peer.connack(ConnectReturnCode::Success, false).await;
    let publish = peer.expect_publish().await;
    assert_eq!(publish.payload, "kept");
    peer.puback(publish.pkid).await;
    kept.await.unwrap().unwrap();
    agent.close().await;
    assert_eq!(peer.closed().await, [Packet::Disconnect]);
}

#[tokio::test]
async fn a_qos_1_publish_that_timed_out_is_not_repeated_on_a_resumed_session() {
    let server = Scripted::listen().await;
    let resumable = options(&server.url()).clean_session(false).client_id("c");
    let (agent, mut peer) = linked(&server, resumable).await;
    let error = agent.publish("a", "expired").timeout(millis(30)).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    peer.expect_publish().await;
    peer.reset();
    let (mut peer, _) = server.accept_session(true).await;
    expect_next(&agent, &mut peer, "next").await;
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
async fn a_resumed_session_gets_the_same_packets_again_in_their_order() {
    let server = Scripted::listen().await;
    let resumable = options(&server.url()).clean_session(false).client_id("c");
    let (agent, mut peer) = linked(&server, resumable).await;
    let messages = [("a", QoS::AtLeastOnce), ("b", QoS::ExactlyOnce), ("c", QoS::AtLeastOnce), ("d", QoS::ExactlyOnce)];
    let calls = messages.map(|(text, qos)| agent.publish("t", text).qos(qos).into_future());
    let calls = tokio::spawn(join_all(calls));
    let mut ids = Vec::new();
    for (text, _) in messages {
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, text);
        ids.push(publish.pkid);
    }
    peer.pubrec(ids[1]).await;
    assert_eq!(peer.expect_pubrel().await, ids[1]);
    peer.reset();

    // A second loss in the middle of the repetition changes nothing.
    for round in 0..2 {
        let (mut peer, _) = server.accept_session(true).await;
        assert_eq!(peer.expect_pubrel().await, ids[1]);
        for n in [0, 2, 3] {
            let publish = peer.expect_publish().await;
            assert!(publish.dup);
            assert_eq!((publish.pkid, &publish.payload[..]), (ids[n], messages[n].0.as_bytes()));
        }
        if round == 0 {
            peer.reset();
            continue;
        }
        peer.pubcomp(ids[1]).await;
        peer.puback(ids[2]).await;
        peer.puback(ids[0]).await;
        peer.pubrec(ids[3]).await;
        assert_eq!(peer.expect_pubrel().await, ids[3]);
        peer.pubcomp(ids[3]).await;
        break;
    }
    let deliveries: Vec<_> = within(LIMIT, "all answers", calls).await.unwrap();
    let deliveries: Vec<_> = deliveries.into_iter().map(Result::unwrap).collect();
    use Delivery::{Acknowledged, Completed};
    assert_eq!(deliveries, [Acknowledged, Completed, Acknowledged, Completed]);
}

#[tokio::test]
async fn a_lost_session_gets_the_messages_as_new_ones_in_their_order() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).max_in_flight(4)).await;
    let texts = ["a", "b", "c", "d", "waiting", "too"];
    let calls = tokio::spawn(join_all(texts.map(|text| agent.publish("t", text).into_future())));
    for text in &texts[..4] {
        assert_eq!(peer.expect_publish().await.payload, text);
    }
    peer.reset();
    let (mut peer, _) = server.accept_session(false).await;
    for text in texts {
        let publish = peer.expect_publish().await;
        assert!(!publish.dup);
        assert_eq!(publish.payload, text);
        peer.puback(publish.pkid).await;
    }
    assert!(within(LIMIT, "all answers", calls).await.unwrap().into_iter().all(|result| result.is_ok()));
}

#[tokio::test]
async fn a_message_sent_before_its_caller_left_is_still_sent_again() {
    for session_present in [true, false] {
        let server = Scripted::listen().await;
        let resumable = options(&server.url()).clean_session(false).client_id("c");
        let (agent, mut peer) = linked(&server, resumable).await;
        let mut call = Box::pin(agent.publish("a", "left").into_future());
        assert!(poll!(&mut call).is_pending());
        peer.expect_publish().await;
        drop(call);
        peer.reset();
        let (mut peer, _) = server.accept_session(session_present).await;
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, "left");
        assert_eq!(publish.dup, session_present);
        peer.puback(publish.pkid).await;
        stats(&agent, "nothing in flight", |stats| stats.in_flight == 0).await;
    }
}

#[tokio::test]
async fn a_qos_0_publish_behind_a_stuck_line_tells_of_the_loss() {
    let server = Scripted::listen().await;
    let (agent, peer) = linked(&server, options(&server.url())).await;
    let mut call = pin!(agent.publish("a", vec![7; 64 << 20]).qos(QoS::AtMostOnce).into_future());
    assert!(poll!(&mut call).is_pending());
    stats(&agent, "the message under way", |stats| stats.published == 1).await;
    peer.reset();
    let error = within(LIMIT, "the loss", call).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connection, Outcome::Unknown));
}

#[tokio::test]
async fn a_message_handed_over_to_a_full_queue_is_refused() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, options(&server.url()).max_queued(1)).await;
    let mut accepted = 0;
    let error = loop {
        match agent.try_publish("a", accepted.to_string()) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 100_000, "nothing bounds the queue");
        if accepted % 1000 == 0 {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::QueueFull, Outcome::NotSent));
    let queued = agent.publish("a", "x").offline(Offline::Queue).await.unwrap_err();
    assert_eq!((queued.kind(), queued.outcome()), (ErrorKind::QueueFull, Outcome::NotSent));
    peer.connack(ConnectReturnCode::Success, false).await;
    for n in 0..accepted {
        assert_eq!(peer.expect_publish().await.payload, n.to_string());
    }
    expect_next(&agent, &mut peer, "next").await;
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

#[tokio::test]
async fn what_fails_for_want_of_a_connection_does_not_disturb_what_waits() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, kept(&server).max_in_flight(1)).await;
    let first = tokio::spawn(agent.publish("a", "first").into_future());
    let id = peer.expect_publish().await.pkid;
    let calls = |count: usize, offline, text: &'static str| {
        let agent = agent.clone();
        tokio::spawn(join_all((0..count).map(move |_| agent.publish("a", text).offline(offline).into_future())))
    };
    let failing = calls(12, Offline::Fail, "failing");
    let waiting = calls(5, Offline::Wait, "waiting");
    let queueing = calls(3, Offline::Queue, "queueing");
    stats(&agent, "all in the queue", |stats| stats.queued == 20).await;
    peer.reset();
    for result in within(LIMIT, "the failures", failing).await.unwrap() {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
    }
    for result in within(LIMIT, "the hand-overs", queueing).await.unwrap() {
        assert_eq!(result.unwrap(), Delivery::Queued);
    }
    let (mut peer, _) = server.accept_session(true).await;
    let repeated = peer.expect_publish().await;
    assert_eq!((repeated.pkid, repeated.dup), (id, true));
    peer.puback(id).await;
    first.await.unwrap().unwrap();
    for text in ["waiting"; 5].into_iter().chain(["queueing"; 3]) {
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, text);
        peer.puback(publish.pkid).await;
    }
    within(LIMIT, "the rest", waiting).await.unwrap().into_iter().for_each(|result| assert!(result.is_ok()));
    expect_next(&agent, &mut peer, "next").await;
    stats(&agent, "nothing queued", |stats| stats.queued == 0 && stats.in_flight == 0).await;
}

#[tokio::test]
async fn a_caller_that_left_before_a_loss_leaves_nothing_in_the_queue() {
    for offline in [Offline::Fail, Offline::Wait, Offline::Queue] {
        let server = Scripted::listen().await;
        let (agent, mut peer) = linked(&server, kept(&server).max_in_flight(1)).await;
        let first = tokio::spawn(agent.publish("a", "first").into_future());
        let id = peer.expect_publish().await.pkid;
        let mut left = Box::pin(agent.publish("a", "left").offline(offline).into_future());
        assert!(poll!(&mut left).is_pending());
        stats(&agent, "it in the queue", |stats| stats.queued == 1).await;
        drop(left);
        peer.reset();
        let (mut peer, _) = server.accept_session(true).await;
        assert_eq!(peer.expect_publish().await.pkid, id);
        peer.puback(id).await;
        first.await.unwrap().unwrap();
        expect_next(&agent, &mut peer, "next").await;
        stats(&agent, "nothing queued", |stats| stats.queued == 0).await;
    }
}

#[tokio::test]
async fn a_message_that_was_sent_and_lost_twice_keeps_its_outcome() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let expiring = tokio::spawn(agent.publish("a", "expiring").timeout(millis(300)).into_future());
    assert_eq!(peer.expect_publish().await.payload, "expiring");
    let failing = tokio::spawn(agent.publish("a", "failing").offline(Offline::Fail).into_future());
    assert_eq!(peer.expect_publish().await.payload, "failing");
    let mut leaving = Box::pin(agent.publish("a", "leaving").into_future());
    assert!(poll!(&mut leaving).is_pending());
    assert_eq!(peer.expect_publish().await.payload, "leaving");
    peer.reset();

    // A session that is new and gone again before anything can be sent on it.
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    peer.send_raw(&[0x20, 2, 0, 0, 0x20, 2, 0, 0]).await;
    drop(leaving);
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    let error = within(LIMIT, "the timeout", expiring).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    peer.connack(ConnectReturnCode::Success, false).await;
    // What left once is owed to the broker: though it must not wait, and though its caller has gone.
    for text in ["failing", "leaving"] {
        let publish = peer.expect_publish().await;
        assert_eq!(publish.payload, text);
        peer.puback(publish.pkid).await;
    }
    assert_eq!(within(LIMIT, "the answer", failing).await.unwrap().unwrap(), Delivery::Acknowledged);
    expect_next(&agent, &mut peer, "next").await;
    stats(&agent, "nothing queued", |stats| stats.queued == 0).await;
}

#[tokio::test]
async fn a_request_that_was_sent_and_lost_twice_leaves_nothing_in_the_queue() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let call = agent.request("q", "?").reply_to("r").timeout(millis(300)).into_future();
    let call = tokio::spawn(call);
    let id = peer.expect_subscribe().await.pkid;
    peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
    assert_eq!(peer.expect_publish().await.payload, "?");
    peer.reset();
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    peer.send_raw(&[0x20, 2, 0, 0, 0x20, 2, 0, 0]).await;
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    let error = within(LIMIT, "the timeout", call).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    peer.connack(ConnectReturnCode::Success, false).await;
    // The reply filter lingers, so it is asked for once more; the question is not.
    let id = peer.expect_subscribe().await.pkid;
    peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
    expect_next(&agent, &mut peer, "next").await;
    stats(&agent, "nothing queued", |stats| stats.queued == 0).await;
}

#[tokio::test]
async fn what_waits_without_a_connection_is_counted() {
    let server = Scripted::listen().await;
    let (agent, _peer) = held_offline(&server, options(&server.url())).await;
    let call = agent.publish("a", "x").timeout(millis(200)).into_future();
    let request = agent.request("a", "x").reply_to("b").timeout(millis(200)).into_future();
    let calls = tokio::spawn(async { tokio::join!(call, request) });
    stats(&agent, "one of each", |stats| stats.queued == 1 && stats.pending_requests == 1).await;
    let (published, answered) = calls.await.unwrap();
    assert!(published.unwrap_err().is_timeout() && answered.unwrap_err().is_timeout());
    stats(&agent, "nothing left", |stats| stats.queued == 0 && stats.pending_requests == 0).await;
}

#[tokio::test]
async fn a_full_queue_keeps_no_call_from_its_answer() {
    let server = Scripted::listen().await;
    let (agent, _peer) = held_offline(&server, options(&server.url()).max_queued(1)).await;
    agent.try_publish("a", "1").unwrap();
    assert_eq!(agent.try_publish("a", "2").unwrap_err().kind(), ErrorKind::QueueFull);
    let handed_over = agent.publish("a", "2").offline(Offline::Queue).into_future();
    let error = within(LIMIT, "the refusal", handed_over).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::QueueFull, Outcome::NotSent));
    let publish = agent.publish("a", "2").timeout(millis(50)).into_future();
    let error = within(LIMIT, "the timeout of the publish", publish).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    let subscribe = agent.subscribe("a").timeout(millis(50)).into_future();
    let error = within(LIMIT, "the timeout of the subscribe", subscribe).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let failing = agent.publish("a", "3").offline(Offline::Fail).into_future();
    let error = within(LIMIT, "the failure", failing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
}

/// Publishes at QoS 0 and sees that nothing else was sent before.
async fn expect_next(agent: &Agent, peer: &mut Peer, text: &str) {
    agent.publish("next", text.to_owned()).qos(QoS::AtMostOnce).into_future().map(Result::unwrap).await;
    let publish = peer.expect_publish().await;
    assert_eq!((publish.topic.as_str(), &publish.payload[..]), ("next", text.as_bytes()));
}

#[tokio::test]
async fn more_calls_at_once_than_the_lane_holds_are_all_taken() {
    let server = Scripted::listen().await;
    let (agent, _peer) = held_offline(&server, options(&server.url())).await;
    // All are polled before the agent's task runs.
    let calls = (0..17_000).map(|_| agent.publish("a", "x").offline(Offline::Queue).into_future());
    for call in within(LIMIT, "the hand-over", join_all(calls)).await {
        assert_eq!(call.unwrap(), Delivery::Queued);
    }
    let calls = (0..17_000).map(|_| agent.publish("a", "x").offline(Offline::Fail).into_future());
    for call in within(LIMIT, "the refusals", join_all(calls)).await {
        assert_eq!(call.unwrap_err().kind(), ErrorKind::Offline);
    }
}
