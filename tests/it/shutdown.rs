//! The end: what is finished, what is reported, and that everyone hears of it.

use std::future::IntoFuture;
use std::pin::pin;
use std::time::Duration;

use futures::poll;
use mqtt_agent::{Agent, ErrorKind, Offline, Outcome, QoS, State, Subscription};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::common::{held_offline, linked, options, refusing_address, state, stats, watched};
use crate::support::{broker_test, millis, secs, within, EmbeddedBroker, Peer, Scripted, LIMIT};

#[tokio::test]
async fn drain_finishes_what_is_in_flight_and_then_says_goodbye() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).max_in_flight(1)).await;
    let mut stream = subscribed(&agent, &mut peer, "s").await;
    let call = tokio::spawn(agent.request("q", "?").reply_to("s").into_future());
    let publish = peer.expect_publish().await;
    let queued = tokio::spawn(agent.publish("a", "queued").qos(QoS::ExactlyOnce).into_future());
    stats(&agent, "it in the queue", |stats| stats.queued == 1).await;
    agent.publish("a", "handed over").try_send().unwrap();

    let draining = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.drain(secs(60)).await })
    };
    tokio::task::yield_now().await;
    let refused = within(LIMIT, "the refusal", agent.publish("a", "late").into_future()).await.unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Closed, Outcome::NotSent));
    peer.puback(publish.pkid).await;
    let publish = peer.expect_publish().await;
    assert_eq!(publish.payload, "queued");
    peer.pubrec(publish.pkid).await;
    peer.expect_pubrel().await;
    peer.pubcomp(publish.pkid).await;
    let publish = peer.expect_publish().await;
    assert_eq!(publish.payload, "handed over");
    peer.puback(publish.pkid).await;
    peer.expect_nothing(millis(20)).await;
    assert!(!draining.is_finished());
    peer.publish(rumqttc::mqttbytes::v4::Publish::new("s", WireQoS::AtMostOnce, "!")).await;
    assert_eq!(within(LIMIT, "the reply", call).await.unwrap().unwrap().text().unwrap(), "!");
    peer.expect_disconnect().await;
    assert_eq!(peer.closed().await, []);
    assert!(within(LIMIT, "the end", draining).await.unwrap().unwrap().is_empty());
    queued.await.unwrap().unwrap();
    assert!(stream.recv().await.unwrap().is_ok());
    assert!(stream.recv().await.is_none());
    assert!(matches!(*agent.state().borrow(), State::Closed { reason: None, .. }));
}

#[tokio::test]
async fn drain_at_its_deadline_reports_what_is_left_and_its_callers_are_told() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).max_in_flight(3)).await;
    let _stream = subscribed(&agent, &mut peer, "s").await;
    let request = tokio::spawn(agent.request("q", "?").reply_to("s").into_future());
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    let sent = tokio::spawn(agent.publish("a", "sent").into_future());
    peer.expect_publish().await;
    let released = tokio::spawn(agent.publish("a", "released").qos(QoS::ExactlyOnce).into_future());
    let id = peer.expect_publish().await.pkid;
    peer.pubrec(id).await;
    peer.expect_pubrel().await;
    agent.publish("a", "handed over").try_send().unwrap();
    peer.expect_publish().await;
    let queued = tokio::spawn(agent.publish("a", "queued").into_future());
    agent.publish("a", "handed over").try_send().unwrap();
    stats(&agent, "two in the queue", |stats| stats.queued == 2).await;

    let unfinished = within(LIMIT, "the end", agent.drain(millis(50))).await.unwrap();
    assert_eq!((unfinished.publishes, unfinished.requests), (5, 1));
    assert!(!unfinished.is_empty());
    for (call, outcome) in [(sent, Outcome::Unknown), (released, Outcome::Unknown), (queued, Outcome::NotSent)] {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, outcome));
    }
    let error = request.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    assert_eq!(peer.closed().await, [Packet::Disconnect]);
    let held = agent.stats();
    assert_eq!([held.queued, held.in_flight, held.pending_requests, held.filters, held.subscribers], [0; 5]);
}

#[tokio::test]
async fn drain_waits_for_a_connection_within_its_time() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, options(&server.url())).await;
    let call = tokio::spawn(agent.publish("a", "x").into_future());
    stats(&agent, "it in the queue", |stats| stats.queued == 1).await;
    let mut draining = pin!(agent.drain(secs(60)));
    assert!(poll!(&mut draining).is_pending());
    peer.connack(ConnectReturnCode::Success, false).await;
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    peer.expect_disconnect().await;
    assert!(within(LIMIT, "the end", draining).await.unwrap().is_empty());
    call.await.unwrap().unwrap();

    let (agent, mut peer) = held_offline(&server, options(&server.url())).await;
    agent.publish("a", "x").offline(Offline::Queue).await.unwrap();
    assert_eq!(within(LIMIT, "the end", agent.drain(millis(50))).await.unwrap().publishes, 1);
    assert_eq!(peer.closed().await, []);
}

#[tokio::test]
async fn close_cuts_a_drain_short() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let call = tokio::spawn(agent.publish("a", "x").into_future());
    peer.expect_publish().await;
    let mut draining = pin!(agent.drain(secs(60)));
    assert!(poll!(&mut draining).is_pending());
    within(LIMIT, "the end", agent.close()).await;
    assert_eq!(within(LIMIT, "the other end", draining).await.unwrap().publishes, 1);
    assert!(call.await.unwrap().unwrap_err().is_closed());
    assert_eq!(peer.closed().await, [Packet::Disconnect]);
}

#[tokio::test]
async fn close_answers_everyone() {
    for connected in [true, false] {
        let server = Scripted::listen().await;
        let (agent, mut peer) = match connected {
            true => linked(&server, options(&server.url())).await,
            false => held_offline(&server, options(&server.url())).await,
        };
        let publishes = [QoS::AtLeastOnce, QoS::ExactlyOnce]
            .map(|qos| tokio::spawn(agent.publish("a", "x").qos(qos).timeout(secs(60)).into_future()));
        let subscribe = tokio::spawn(agent.subscribe("b").timeout(secs(60)).into_future());
        let requests =
            [(), ()].map(|()| tokio::spawn(agent.request("a", "x").reply_to("c").timeout(secs(60)).into_future()));
        let many = tokio::spawn(agent.request("a", "x").reply_to("d").timeout(secs(60)).replies(2).into_future());
        let collect = tokio::spawn(agent.collect("e", 1, secs(60)).into_future());
        stats(&agent, "all calls", |stats| stats.pending_requests == 3 && stats.filters == 4).await;
        within(LIMIT, "the end", agent.close()).await;
        let everyone = async {
            for call in publishes {
                let error = call.await.unwrap().unwrap_err();
                let outcome = if connected { Outcome::Unknown } else { Outcome::NotSent };
                assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, outcome));
            }
            for call in requests {
                assert!(call.await.unwrap().unwrap_err().is_closed());
            }
            assert!(many.await.unwrap().unwrap_err().is_closed());
            assert!(subscribe.await.unwrap().unwrap_err().is_closed());
            assert!(collect.await.unwrap().unwrap_err().is_closed());
        };
        within(LIMIT, "all answers", everyone).await;
        let packets = peer.closed().await;
        assert_eq!(packets.last(), connected.then_some(&Packet::Disconnect));
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_cannot_hold_up_the_end() {
    let server = Scripted::listen().await;
    for drain in [false, true] {
        let (agent, _peer) = linked(&server, options(&server.url()).max_queued_bytes(1 << 30)).await;
        let calls: Vec<_> = (0..3).map(|_| tokio::spawn(agent.publish("a", vec![7; 32 << 20]).into_future())).collect();
        stats(&agent, "a message under way", |stats| stats.published > 0).await;
        match drain {
            false => within(LIMIT, "the end", agent.close()).await,
            true => {
                let unfinished = within(LIMIT, "the end", agent.drain(millis(50))).await.unwrap();
                assert_eq!(unfinished.publishes, 3);
            }
        }
        for call in calls {
            assert!(within(LIMIT, "the answer", call).await.unwrap().unwrap_err().is_closed());
        }
    }
}

#[tokio::test]
async fn the_last_handle_dropped_sends_what_was_accepted_and_then_says_goodbye() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut state = agent.state();
    let mut stream = subscribed(&agent, &mut peer, "s").await;
    let clone = agent.clone();
    drop(agent);
    for n in 0..10 {
        clone.try_publish("a", n.to_string()).unwrap();
    }
    clone.publish("a", "acked").try_send().unwrap();
    drop(clone);
    for n in 0..10 {
        assert_eq!(peer.expect_publish().await.payload, n.to_string());
    }
    let id = peer.expect_publish().await.pkid;
    peer.expect_nothing(millis(20)).await;
    peer.puback(id).await;
    peer.expect_disconnect().await;
    watched(&mut state, "the end", State::is_closed).await;
    assert!(within(LIMIT, "the end of the stream", stream.recv()).await.is_none());
}

#[tokio::test]
async fn the_last_handle_dropped_waits_no_longer_than_the_timeout() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).timeout(millis(50))).await;
    agent.publish("a", "never acked").try_send().unwrap();
    drop(agent);
    peer.expect_publish().await;
    peer.expect_disconnect().await;

    let (_port, addr) = refusing_address();
    for max_queued in [1000, 2] {
        let offline = options(&format!("mqtt://{addr}")).timeout(millis(50)).max_queued(max_queued);
        let agent = offline.reconnect(|_: &_| Some(secs(60))).connect_lazy().unwrap();
        agent.try_publish("a", "never sent").unwrap();
        stats(&agent, "it in the queue", |stats| stats.queued == 1).await;
        agent.try_publish("a", "never sent").unwrap();
        let mut state = agent.state();
        drop(agent);
        watched(&mut state, "the end", State::is_closed).await;
    }
}

#[tokio::test]
async fn a_call_that_is_awaited_keeps_the_agent_open() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).timeout(secs(60))).await;
    let mut call = Box::pin(agent.publish("a", "x").into_future());
    assert!(poll!(&mut call).is_pending());
    let request = tokio::spawn(agent.request("q", "?").reply_to("s").into_future());
    drop(agent);
    let (mut publish, mut subscribe) = (None, None);
    while publish.is_none() || subscribe.is_none() {
        match peer.recv().await {
            Packet::Publish(packet) => publish = Some(packet.pkid),
            Packet::Subscribe(packet) => subscribe = Some(packet.pkid),
            other => panic!("{other:?}"),
        }
    }
    peer.puback(publish.unwrap()).await;
    within(LIMIT, "the publish", call).await.unwrap();
    peer.expect_nothing(millis(20)).await;
    peer.suback(subscribe.unwrap(), &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    peer.expect_nothing(millis(20)).await;
    peer.publish(rumqttc::mqttbytes::v4::Publish::new("s", WireQoS::AtMostOnce, "!")).await;
    assert_eq!(within(LIMIT, "the reply", request).await.unwrap().unwrap().text().unwrap(), "!");
    peer.expect_disconnect().await;
}

broker_test!(after_the_end_every_call_says_so, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    let another = stream.clone();
    within(LIMIT, "the end", agent.close()).await;
    let calls = async {
        assert!(agent.publish("a", "x").await.unwrap_err().is_closed());
        assert!(agent.publish("a", "x").offline(Offline::Queue).await.unwrap_err().is_closed());
        assert!(agent.try_publish("a", "x").unwrap_err().is_closed());
        assert!(agent.subscribe("a").await.unwrap_err().is_closed());
        assert!(agent.request("a", "x").reply_to("b").await.unwrap_err().is_closed());
        assert!(agent.request("a", "x").reply_to("b").replies(2).await.unwrap_err().is_closed());
        assert!(agent.collect("a", 1, secs(60)).await.unwrap_err().is_closed());
        assert!(agent.drain(secs(60)).await.unwrap_err().is_closed());
        agent.close().await;
        assert!(stream.recv().await.is_none());
        assert!(stream.recv().await.is_none());
        assert!(stream.clone().recv().await.is_none());
        assert!(stream.unsubscribe().await.is_ok(), "a clone is left");
        assert!(another.unsubscribe().await.unwrap_err().is_closed());
    };
    within(LIMIT, "all answers", calls).await;
    assert!(!agent.is_connected());
    assert!(matches!(*agent.state().borrow(), State::Closed { reason: None, .. }));
});

broker_test!(streams_end_when_the_agent_does_with_what_came_before, |broker| async move {
    let other = Agent::connect(broker.url()).await.unwrap();
    for end in 0..3 {
        let agent = Agent::connect(broker.url()).await.unwrap();
        let mut stream = agent.subscribe("a").await.unwrap();
        other.publish("a", "x").await.unwrap();
        stats(&agent, "the message", |stats| stats.received == 1).await;
        match end {
            0 => agent.close().await,
            1 => assert!(agent.drain(secs(5)).await.unwrap().is_empty()),
            _ => drop(agent),
        }
        assert_eq!(stream.recv().await.unwrap().unwrap().text().unwrap(), "x");
        assert!(within(LIMIT, "the end of the stream", stream.recv()).await.is_none());
    }
});

broker_test!(
    everything_handed_over_arrives_though_the_agent_is_dropped_at_once,
    flavor = "multi_thread",
    worker_threads = 2,
    |broker| async move {
        const COUNT: usize = 2000;
        let listener = Agent::connect(broker.url()).await.unwrap();
        let mut stream = listener.subscribe("a").capacity(1 << 12).await.unwrap();
        let agent = Agent::connect(broker.url()).await.unwrap();
        for n in 0..COUNT {
            agent.publish("a", n.to_string()).try_send().unwrap();
        }
        drop(agent);
        for n in 0..COUNT {
            let message = within(LIMIT, "the next", stream.recv()).await.unwrap().unwrap();
            assert_eq!(message.text().unwrap(), n.to_string());
        }
    }
);

#[test]
fn handles_can_be_dropped_and_used_outside_of_a_runtime_and_after_its_end() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (broker, made) = runtime.block_on(async {
        let broker = EmbeddedBroker::start().await;
        let mut made = Vec::new();
        for _ in 0..2 {
            let agent = Agent::connect(broker.url()).await.unwrap();
            let stream = agent.subscribe("a").await.unwrap();
            let mut call = Box::pin(agent.request("b", "x").reply_to("c").into_future());
            assert!(poll!(&mut call).is_pending());
            made.push((agent, stream, call));
        }
        (broker, made)
    });
    let mut made = made.into_iter();
    // While the runtime lives, in a thread that is not its own.
    let (agent, stream, call) = made.next().unwrap();
    let mut state = agent.state();
    agent.try_publish("a", "x").unwrap();
    drop((call, stream, agent));
    runtime.block_on(watched(&mut state, "the end", State::is_closed));

    let (agent, mut stream, call) = made.next().unwrap();
    let second: Subscription = stream.clone();
    drop(broker);
    runtime.shutdown_timeout(Duration::from_secs(5));
    assert!(agent.try_publish("a", "x").unwrap_err().is_closed());
    let another = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    another.block_on(within(LIMIT, "all answers", async {
        assert!(agent.publish("a", "x").await.unwrap_err().is_closed());
        assert!(agent.drain(secs(60)).await.unwrap_err().is_closed());
        agent.close().await;
        assert!(call.await.unwrap_err().is_closed());
        while stream.recv().await.is_some() {}
    }));
    drop((agent, stream, second));
}

#[tokio::test]
async fn limits_beyond_what_the_clock_can_count_are_no_limits() {
    let server = Scripted::listen().await;
    let far = Duration::MAX;
    let limitless = options(&server.url()).timeout(far).reply_linger(far).write_timeout(far).connect_timeout(far);
    let (agent, mut peer) = linked(&server, limitless.address_timeout(far)).await;
    let _stream = subscribed(&agent, &mut peer, "s").await;
    let request = tokio::spawn(agent.request("q", "?").reply_to("s").into_future());
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    peer.publish(rumqttc::mqttbytes::v4::Publish::new("s", WireQoS::AtMostOnce, "!")).await;
    within(LIMIT, "the reply", request).await.unwrap().unwrap();
    agent.try_publish("a", "x").unwrap();
    drop(agent);
    assert_eq!(peer.expect_publish().await.payload, "x");
    peer.expect_disconnect().await;
}

#[tokio::test]
async fn dropping_a_drain_does_not_stop_the_end() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut draining = Box::pin(agent.drain(secs(60)));
    assert!(poll!(&mut draining).is_pending());
    drop(draining);
    peer.expect_disconnect().await;
    state(&agent, "the end", State::is_closed).await;
}

/// A stream whose SUBSCRIBE the peer has answered.
async fn subscribed(agent: &Agent, peer: &mut Peer, filter: &str) -> Subscription {
    let subscribing = tokio::spawn(agent.subscribe(filter).into_future());
    let id = peer.expect_subscribe().await.pkid;
    peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
    within(LIMIT, "the subscription", subscribing).await.unwrap().unwrap()
}
