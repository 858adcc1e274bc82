//! Messages when the connection is lost: what is sent again, and what is not.

use super::*;

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

    let _peer = accept_stillborn_session(&server).await;
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
    let _peer = accept_stillborn_session(&server).await;
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

/// A session that is new, and gone again before anything can be sent on it: a second CONNACK breaks the protocol.
async fn accept_stillborn_session(server: &Scripted) -> Peer {
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    let accepted = || Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false));
    peer.send_together([accepted(), accepted()]).await;
    peer
}
