//! Connections that are lost, and made again.

use super::*;

#[tokio::test]
async fn the_state_tells_each_step() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = held_offline(&server, kept(&server).reconnect(|_: &_| Some(millis(300)))).await;
    assert!(matches!(*agent.state().borrow(), State::Connecting));
    assert!(!agent.is_connected());
    peer.connack(ConnectReturnCode::Success, true).await;
    let connected = state(&agent, "a connection", State::is_connected).await;
    assert!(matches!(connected, State::Connected { session_present: true, .. }));
    assert!(agent.is_connected());
    peer.reset();
    let lost = state(&agent, "the loss", |state| !state.is_connected()).await;
    let State::Disconnected { reason, retry_at, .. } = lost else { panic!("{lost:?}") };
    assert_eq!(reason.kind(), ErrorKind::Connection);
    assert!(retry_at > tokio::time::Instant::now());
    assert!(!agent.is_connected());
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    assert!(tokio::time::Instant::now() >= retry_at);
    assert!(matches!(*agent.state().borrow(), State::Connecting));
    peer.connack(ConnectReturnCode::Success, false).await;
    state(&agent, "a connection", State::is_connected).await;
    assert_eq!(agent.stats().reconnects, 1);
    agent.close().await;
    assert!(matches!(*agent.state().borrow(), State::Closed { reason: None, .. }));
}

broker_test!(a_cut_is_seen_and_mended, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).reconnect(|_: &_| Some(millis(100))).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    for n in 0..3 {
        proxy.cut().await;
        let lost = state(&agent, "the loss", |state| !state.is_connected()).await;
        assert!(matches!(lost, State::Disconnected { reason, .. } if reason.kind() == ErrorKind::Connection));
        state(&agent, "a connection", State::is_connected).await;
        agent.publish("a", n.to_string()).await.unwrap();
        assert_eq!(within(LIMIT, "it", stream.recv()).await.unwrap().unwrap().text().unwrap(), n.to_string());
    }
});

broker_test!(a_broker_that_was_restarted_gets_the_subscriptions_again, |mut broker| async move {
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut stream = agent.subscribe(["a/+", "b"]).await.unwrap();
    broker.stop().await;
    state(&agent, "the loss", |state| !state.is_connected()).await;
    broker.start_again().await;
    state(&agent, "a connection", State::is_connected).await;
    for topic in ["a/b", "b"] {
        agent.publish(topic, "x").await.unwrap();
        assert_eq!(within(LIMIT, "it", stream.recv()).await.unwrap().unwrap().topic(), topic);
    }
    assert!(agent.stats().reconnects >= 1);
});

#[tokio::test]
async fn a_policy_that_stops_ends_the_agent_and_everyone_is_told() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).reconnect(give_up).max_in_flight(2)).await;
    let mut stream = {
        let subscribing = tokio::spawn(agent.subscribe("s").into_future());
        let id = peer.expect_subscribe().await.pkid;
        peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
        within(LIMIT, "the subscription", subscribing).await.unwrap().unwrap()
    };
    let sent = tokio::spawn(agent.publish("a", "sent").into_future());
    peer.expect_publish().await;
    let sent_too = tokio::spawn(agent.publish("a", "sent").qos(QoS::ExactlyOnce).into_future());
    peer.expect_publish().await;
    let queued = tokio::spawn(agent.publish("a", "queued").into_future());
    let subscribe = tokio::spawn(agent.subscribe("b").into_future());
    peer.expect_subscribe().await;
    let request = tokio::spawn(agent.request("a", "x").reply_to("c").into_future());
    peer.expect_subscribe().await;
    let collect = tokio::spawn(agent.collect("d", 1, secs(60)).into_future());
    peer.expect_subscribe().await;
    let drain = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.drain(secs(60)).await })
    };
    tokio::task::yield_now().await;
    peer.reset();

    let closed = state(&agent, "the end", State::is_closed).await;
    assert!(matches!(closed, State::Closed { reason: Some(reason), .. } if reason.kind() == ErrorKind::Connection));
    let everyone = async {
        for (call, outcome) in [(sent, Outcome::Unknown), (sent_too, Outcome::Unknown), (queued, Outcome::NotSent)] {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, outcome));
        }
        assert!(subscribe.await.unwrap().unwrap_err().is_closed());
        let error = request.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotSent));
        assert!(collect.await.unwrap().unwrap_err().is_closed());
        assert_eq!(drain.await.unwrap().unwrap().publishes, 3);
        assert!(stream.recv().await.is_none());
    };
    within(LIMIT, "all answers", everyone).await;
    assert!(agent.publish("a", "x").await.unwrap_err().is_closed());
    server.expect_no_connection(millis(30)).await;
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_loses_the_connection_and_gets_a_new_one() {
    let attacks: [(&str, &[u8]); 9] = [
        ("a second CONNACK", &[0x20, 2, 0, 0]),
        ("a CONNECT", b"\x10\x0e\0\x04MQTT\x04\x02\0\x1e\0\x02me"),
        ("a PINGREQ", &[0xc0, 0]),
        ("a reserved type", &[0xf0, 0]),
        ("a length without end", &[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("identifier 0", &[0x40, 2, 0, 0]),
        ("a wildcard in a topic", &[0x30, 3, 0, 1, b'#']),
        ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
        ("text", HTTP),
    ];
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).reconnect(|_: &_| Some(millis(100)))).await;
    for (what, bytes) in attacks {
        peer.send_raw(bytes).await;
        let lost = state(&agent, what, |state| !state.is_connected()).await;
        let State::Disconnected { reason, .. } = lost else { panic!("{what}: {lost:?}") };
        assert_eq!(reason.kind(), ErrorKind::Protocol, "{what}");
        (peer, _) = server.accept_session(false).await;
        state(&agent, "a connection", State::is_connected).await;
    }
    let call = tokio::spawn(agent.publish("a", "x").into_future());
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    within(LIMIT, "the publish", call).await.unwrap().unwrap();
}

#[tokio::test]
async fn answers_that_nobody_asked_for_do_no_harm() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let call = tokio::spawn(agent.publish("a", "x").into_future());
    let id = peer.expect_publish().await.pkid;
    for id in [id + 1, 65_535] {
        peer.puback(id).await;
        peer.pubcomp(id).await;
        peer.suback(id, &[SubscribeReasonCode::Failure]).await;
        peer.unsuback(id).await;
        // Of a handshake that only the peer remembers; without an answer it could not let go.
        peer.pubrec(id).await;
        assert_eq!(peer.expect_pubrel().await, id);
        peer.pubrel(id).await;
        assert_eq!(peer.expect_pubcomp().await, id);
    }
    // Answers of the wrong kind to what was asked.
    peer.suback(id, &[SubscribeReasonCode::Failure]).await;
    peer.unsuback(id).await;
    peer.pubcomp(id).await;
    peer.pubrec(id).await;
    peer.pingresp().await;
    peer.expect_nothing(millis(20)).await;
    assert!(!call.is_finished());
    peer.puback(id).await;
    within(LIMIT, "the publish", call).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_agent_that_starts_before_its_broker_connects_when_it_comes() {
    let (port, addr) = refusing_address();
    let agent = options(&format!("mqtt://{addr}")).connect_lazy().unwrap();
    let refused = state(&agent, "a refusal", |state| matches!(state, State::Disconnected { .. })).await;
    assert!(matches!(refused, State::Disconnected { reason, .. } if reason.kind() == ErrorKind::Connection));
    let error = agent.subscribe("a").offline(Offline::Fail).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Offline);
    let listener = port.listen(8).unwrap();
    let (stream, _) = within(LIMIT, "a connection", listener.accept()).await.unwrap();
    let mut peer = crate::support::Peer::new(stream);
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::Success, false).await;
    state(&agent, "a connection", State::is_connected).await;
}

broker_test!(what_a_broker_has_queued_for_a_process_that_is_gone_reaches_the_next_one, |broker| async move {
    let kept = || options(&broker.url()).client_id("keeper").clean_session(false);
    let first = kept().connect().await.unwrap();
    let stream = first.subscribe("queued").qos(QoS::ExactlyOnce).await.unwrap();
    // The end of the agent is no end of the subscription: a process that ends has not unsubscribed.
    first.close().await;
    drop(stream);
    let other = options(&broker.url()).connect().await.unwrap();
    for n in 0..20 {
        other.publish("queued", n.to_string()).qos(QoS::ExactlyOnce).await.unwrap();
    }
    let second = kept().connect_lazy().unwrap();
    let mut stream = second.subscribe("queued").qos(QoS::ExactlyOnce).await.unwrap();
    for n in 0..20 {
        let message = within(LIMIT, "what was queued", stream.recv()).await.unwrap().unwrap();
        assert_eq!(message.text().unwrap(), n.to_string());
    }
    other.publish("queued", "new").await.unwrap();
    let message = within(LIMIT, "the next", stream.recv()).await.unwrap().unwrap();
    assert_eq!(message.text().unwrap(), "new");
});

#[tokio::test]
async fn connections_that_die_young_count_as_failures_in_a_row() {
    let server = Scripted::listen().await;
    let (attempts, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let policy = move |lost: &Lost| {
        attempts.send(lost.attempt).unwrap();
        Some(Duration::ZERO)
    };
    let connecting = tokio::spawn(options(&server.url()).reconnect(policy).connect());
    let (peer, _) = server.accept_session(false).await;
    let _agent = connecting.await.unwrap().unwrap();
    peer.reset();
    for attempt in 1..5 {
        assert_eq!(within(LIMIT, "a loss", seen.recv()).await, Some(attempt));
        server.accept_session(false).await.0.reset();
    }
}

#[tokio::test]
async fn refused_credentials_are_seen_in_the_state_and_tried_again_slowly() {
    let server = Scripted::listen().await;
    let url = server.url();
    let agent = Options::from_url(&url).unwrap().credentials("u", "wrong").connect_lazy().unwrap();
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::BadUserNamePassword, false).await;
    let mut state = agent.state();
    let refused = watched(&mut state, "the refusal", |state| matches!(state, State::Disconnected { .. })).await;
    let State::Disconnected { reason, retry_at, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(reason.kind(), ErrorKind::Refused(Refusal::BadUserNameOrPassword));
    assert!(retry_at > tokio::time::Instant::now() + secs(20));
    // Nobody waits for that.
    agent.close().await;
}

#[tokio::test]
async fn callers_that_hear_of_a_loss_find_it_in_the_state() {
    for delay in [None, Some(secs(60))] {
        let server = Scripted::listen().await;
        let (agent, mut peer) = linked(&server, options(&server.url()).reconnect(move |_: &Lost| delay)).await;
        let call = agent.subscribe("a").offline(Offline::Fail).into_future();
        let cause = async {
            peer.expect_subscribe().await;
            peer.reset();
        };
        let (state, answer) = state_when_answered(&agent, call, cause).await;
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Offline);
        assert!(!state.is_connected() && state.is_closed() == delay.is_none(), "{state:?}");
    }
}

#[tokio::test]
async fn a_function_of_the_application_that_panics_fails_one_attempt() {
    let server = Scripted::listen().await;
    let broken = options(&server.url()).credentials_from(|| async { panic!("a mistake in the function") });
    let error = broken.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("panicked"), "{error}");
    let addr = server.addr();
    let panics = |calls: &Arc<AtomicUsize>| {
        let calls = calls.clone();
        move || assert_ne!(calls.fetch_add(1, Ordering::SeqCst), 0, "a mistake in the function")
    };
    let calls = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let [credentials, connector, policy] = [0, 1, 2].map(|n| panics(&calls[n]));
    let options = options(&server.url())
        .credentials_from(move || {
            credentials();
            async { Ok(Login::username("user")) }
        })
        .connector(move |_| {
            connector();
            async move { Ok(TcpStream::connect(addr).await?) }
        })
        .reconnect(move |_: &Lost| {
            policy();
            Some(millis(10))
        });
    let agent = options.connect_lazy().unwrap();
    let (peer, _) = server.accept_session(false).await;
    state(&agent, "a connection", State::is_connected).await;
    drop(peer);
    assert!(calls.iter().all(|calls| calls.load(Ordering::SeqCst) >= 2));
}
