//! Messages while there is no connection, and the queue in which they wait.

use super::*;

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
