//! Connections: made, refused, lost, made again.

use std::collections::HashSet;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::poll;
use mqtt_agent::{
    Agent, ErrorKind, LastWill, Login, Lost, Offline, Options, Outcome, QoS, ReasonCode, Refusal, State, Version,
};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Login as WireLogin, Packet, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;
use tokio::net::TcpStream;

use crate::common::{
    give_up, held_offline, kept, linked, options, refusing_address, state, state_when_answered, stats, watched,
};
use crate::support::{
    broker_test, drop_after_polls, is_v5, millis, secs, within, BrokerKind, BrokerOptions, Direction, Proxy, Scripted,
    LIMIT,
};

#[tokio::test]
async fn connect_resolves_when_the_broker_has_accepted() {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&server.url()).client_id("me").connect());
    let mut peer = server.accept().await;
    let connect = peer.expect_connect().await;
    assert_eq!((connect.client_id.as_str(), connect.clean_session, connect.keep_alive), ("me", true, 30));
    assert!(connect.last_will.is_none() && connect.login.is_none());
    peer.expect_nothing(millis(20)).await;
    assert!(!connecting.is_finished());
    peer.connack(ConnectReturnCode::Success, false).await;
    let agent = within(LIMIT, "the agent", connecting).await.unwrap().unwrap();
    assert!(agent.is_connected());
    assert!(matches!(*agent.state().borrow(), State::Connected { session_present: false, .. }));
}

#[tokio::test]
async fn each_refusal_has_its_kind() {
    let refusals = [
        (1, Refusal::UnacceptableProtocolVersion),
        (2, Refusal::IdentifierRejected),
        (3, Refusal::ServerUnavailable),
        (4, Refusal::BadUserNameOrPassword),
        (5, Refusal::NotAuthorized),
        (200, Refusal::Other(ReasonCode(200))),
    ];
    for (code, refusal) in refusals {
        let server = Scripted::listen().await;
        let (refused, mut peer) = tokio::join!(options(&server.url()).connect(), async {
            let mut peer = server.accept().await;
            peer.expect_connect().await;
            peer.send_raw(&[0x20, 2, 0, code]).await;
            peer
        });
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused(refusal), "{error}");
        assert_eq!(peer.closed().await, []);
        server.expect_no_connection(millis(30)).await;
    }
}

#[tokio::test]
async fn a_peer_that_accepts_and_never_answers_is_a_timeout() {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&server.url()).connect_timeout(millis(100)).connect());
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    let error = within(LIMIT, "the timeout", connecting).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    assert_eq!(peer.closed().await, []);
}

#[tokio::test]
async fn a_refused_connection_is_an_error_at_once() {
    let (_port, addr) = refusing_address();
    let error = within(LIMIT, "the refusal", options(&format!("mqtt://{addr}")).connect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_first_packet_that_is_no_connack_ends_the_attempt() {
    for (bytes, kind) in [
        (&[0xd0, 0][..], ErrorKind::Protocol),
        (&[0x20, 1, 0], ErrorKind::Protocol),
        (HTTP, ErrorKind::Protocol),
        (&[], ErrorKind::Connection),
    ] {
        let server = Scripted::listen().await;
        let (refused, _) = tokio::join!(options(&server.url()).connect(), async {
            let mut peer = server.accept().await;
            peer.expect_connect().await;
            peer.send_raw(bytes).await;
            peer.finish().await;
        });
        assert_eq!(refused.unwrap_err().kind(), kind, "{bytes:02x?}");
    }
}

broker_test!(
    a_login_is_accepted_or_refused,
    options = BrokerOptions { login: Some(("user@x".into(), "p:w/%".into())), ..Default::default() },
    |broker| async move {
        let url = format!("mqtt://user%40x:p%3Aw%2F%25@{}", broker.addr());
        Agent::connect(url).await.unwrap().publish("a", "x").await.unwrap();
        options(&broker.url()).credentials("user@x", "p:w/%").connect().await.unwrap();
        let wrong = options(&broker.url()).credentials("user@x", "wrong").connect().await;
        let none = options(&broker.url()).connect().await;
        let nameless = options(&broker.url()).credentials_from(|| async { Ok(Login::username("user@x")) }).connect();
        for refused in [wrong, none, nameless.await] {
            let error = refused.unwrap_err();
            let expected = [Refusal::BadUserNameOrPassword, Refusal::NotAuthorized].map(ErrorKind::Refused);
            assert!(expected.contains(&error.kind()), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("wrong\""), "{error:?}");
        }
    }
);

broker_test!(version_3_1_is_spoken_to_a_broker_that_speaks_it, |broker| async move {
    let connected = options(&broker.url()).version(Version::V31).connect().await;
    // The embedded broker speaks 3.1.1 and 5 only, and hangs up on any other protocol name.
    if broker.kind() == BrokerKind::Embedded {
        let error = connected.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Connection | ErrorKind::Refused(_)), "{error:?}");
        return;
    }
    let agent = connected.unwrap();
    let mut stream = agent.subscribe("a").qos(QoS::ExactlyOnce).await.unwrap();
    agent.publish("a", "x").qos(QoS::ExactlyOnce).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap().text().unwrap(), "x");
});

#[tokio::test]
async fn version_3_1_has_its_own_first_packet() {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&server.url()).version(Version::V31).client_id("me").connect());
    let mut peer = server.accept().await;
    let expected = [&[0x10, 16, 0, 6][..], b"MQIsdp", &[3, 2, 0, 30, 0, 2], b"me"].concat();
    assert_eq!(peer.recv_raw_packet().await, expected);
    peer.connack(ConnectReturnCode::Success, false).await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn client_ids_are_distinct_and_stay_the_same_across_reconnects() {
    let server = Scripted::listen().await;
    let mut ids = HashSet::new();
    for _ in 0..3 {
        let agent = options(&server.url()).connect_lazy().unwrap();
        let (peer, first) = server.accept_session(false).await;
        assert_eq!(first.client_id.len(), 23);
        assert!(first.client_id.chars().all(|c| c.is_ascii_alphanumeric()));
        peer.reset();
        let (_peer, second) = server.accept_session(false).await;
        assert_eq!(first.client_id, second.client_id);
        ids.insert(first.client_id);
        agent.close().await;
    }
    assert_eq!(ids.len(), 3);
}

broker_test!(a_second_client_of_the_same_name_takes_over, |broker| async move {
    let first = options(&broker.url()).client_id("same").reconnect(give_up).connect().await.unwrap();
    let mut stream = first.subscribe("a").await.unwrap();
    let second = options(&broker.url()).client_id("same").connect().await.unwrap();
    let closed = state(&first, "the end of the first", State::is_closed).await;
    let State::Closed { reason: Some(reason), .. } = closed else { panic!("{closed:?}") };
    match broker.kind() {
        BrokerKind::Embedded if is_v5() => {
            assert_eq!(reason.kind(), ErrorKind::Disconnected);
            assert_eq!(reason.reason_code(), Some(ReasonCode::SESSION_TAKEN_OVER));
        }
        // It says goodbye first, which before MQTT 5 only clients do.
        BrokerKind::Embedded => assert_eq!(reason.kind(), ErrorKind::Protocol),
        BrokerKind::Mosquitto => assert_eq!(reason.kind(), ErrorKind::Connection),
    }
    assert!(within(LIMIT, "the end of the stream", stream.recv()).await.is_none());
    second.publish("a", "x").await.unwrap();
});

broker_test!(
    the_last_will_is_published_for_a_connection_that_is_cut_and_not_for_one_that_is_closed,
    |broker| async move {
        let watcher = Agent::connect(broker.url()).await.unwrap();
        let mut stream = watcher.subscribe("will/#").await.unwrap();
        let proxy = Proxy::start(broker.addr()).await;
        let with_will = |id: &str| {
            let will = LastWill::new(format!("will/{id}"), "gone").qos(QoS::AtLeastOnce);
            options(&proxy.url()).last_will(will).reconnect(give_up).connect()
        };
        let closed = with_will("closed").await.unwrap();
        closed.close().await;
        let dropped = with_will("dropped").await.unwrap();
        drop(dropped);
        proxy.wait_for_live(0).await;
        let _cut = with_will("cut").await.unwrap();
        proxy.cut().await;
        let message = within(LIMIT, "the will", stream.recv()).await.unwrap().unwrap();
        assert_eq!((message.topic().as_str(), message.text()), ("will/cut", Ok("gone")));
        watcher.publish("will/end", "").await.unwrap();
        assert_eq!(stream.recv().await.unwrap().unwrap().topic(), "will/end");
    }
);

broker_test!(a_session_that_is_kept_is_resumed, |broker| async move {
    let session_present = |agent: &Agent| match *agent.state().borrow() {
        State::Connected { session_present, .. } => session_present,
        ref other => panic!("{other:?}"),
    };
    let kept = || options(&broker.url()).client_id("keeper").clean_session(false).connect();
    let first = kept().await.unwrap();
    assert!(!session_present(&first));
    let _stream = first.subscribe("a").await.unwrap();
    first.close().await;
    let second = kept().await.unwrap();
    assert!(session_present(&second));
    second.close().await;
    let clean = options(&broker.url()).client_id("keeper").connect().await.unwrap();
    assert!(!session_present(&clean));
});

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

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let error = Agent::connect_lazy("mqtt://localhost").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    let error = futures::executor::block_on(Agent::connect("mqtt://localhost")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
}

#[tokio::test]
async fn a_connect_that_is_dropped_leaves_nothing_behind() {
    let server = Scripted::listen().await;
    let mut connecting = Box::pin(options(&server.url()).connect());
    assert!(poll!(&mut connecting).is_pending());
    let mut peer = server.accept().await;
    peer.expect_connect().await;
    drop(connecting);
    assert_eq!(peer.closed().await, []);

    // The broker's answer is there when the caller leaves.
    let mut connecting = Box::pin(options(&server.url()).connect());
    assert!(poll!(&mut connecting).is_pending());
    let (mut peer, _) = server.accept_session(false).await;
    drop(connecting);
    assert!(matches!(peer.closed().await[..], [] | [Packet::Disconnect]));

    assert!(drop_after_polls(options(&server.url()).connect(), 0).await.is_none());
    server.expect_no_connection(millis(50)).await;
}

#[tokio::test]
async fn fresh_credentials_are_asked_for_at_each_connect() {
    let server = Scripted::listen().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let with_calls = calls.clone();
    let fresh = options(&server.url()).credentials_from(move || {
        let n = with_calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match n {
                1 => Err("no token today".into()),
                n => Ok(Login::new(format!("user-{n}"), format!("token-{n}"))),
            }
        }
    });
    let agent = fresh.connect_lazy().unwrap();
    let (peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.login, Some(WireLogin { username: "user-0".into(), password: "token-0".into() }));
    state(&agent, "a connection", State::is_connected).await;
    peer.reset();
    let (_peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.login, Some(WireLogin { username: "user-2".into(), password: "token-2".into() }));
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_failure_to_give_credentials_is_a_failure_to_connect() {
    let server = Scripted::listen().await;
    let failing = options(&server.url()).credentials_from(|| async { Err("no token today".into()) });
    let error = failing.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no token today");
    let slow = options(&server.url()).connect_timeout(millis(50)).credentials_from(std::future::pending);
    assert_eq!(slow.connect().await.unwrap_err().kind(), ErrorKind::Timeout);
    server.expect_no_connection(millis(20)).await;
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
async fn an_idle_line_is_asked_for_a_sign_of_life_and_a_silent_one_given_up() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url()).keep_alive(secs(1))).await;
    for _ in 0..2 {
        peer.expect_ping().await;
        peer.pingresp().await;
    }
    assert!(agent.is_connected());
    let last_byte = Instant::now();
    peer.expect_ping().await;
    let lost = state(&agent, "the loss", |state| !state.is_connected()).await;
    // The agent read it no earlier than it was sent; the tolerance is for clocks alone.
    assert!(last_byte.elapsed() > millis(1400), "{:?}", last_byte.elapsed());
    assert!(matches!(lost, State::Disconnected { reason, .. } if reason.kind() == ErrorKind::Connection));
    assert_eq!(peer.closed().await, []);
}

broker_test!(a_line_that_swallows_everything_is_found_out, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    for direction in [Direction::Both, Direction::Down, Direction::Up] {
        let agent = options(&proxy.url()).keep_alive(secs(1)).connect().await.unwrap();
        proxy.black_hole(direction, true);
        // Traffic of its own does not make the agent take the line for alive.
        let mut waiting = pin!(agent.publish("a", "x").timeout(secs(60)).into_future());
        assert!(poll!(&mut waiting).is_pending());
        state(&agent, "the loss", |state| !state.is_connected()).await;
        proxy.black_hole(direction, false);
        within(LIMIT, "the publish", waiting).await.unwrap();
        assert!(agent.stats().reconnects >= 1);
        agent.close().await;
    }
});

#[tokio::test]
async fn a_keep_alive_of_zero_asks_nothing() {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&server.url()).keep_alive(Duration::ZERO).connect());
    let (mut peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.keep_alive, 0);
    let agent = connecting.await.unwrap().unwrap();
    peer.expect_nothing(millis(100)).await;
    assert!(agent.is_connected());
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

#[tokio::test]
async fn a_will_and_a_login_are_sent_as_they_were_given() {
    let server = Scripted::listen().await;
    let will = LastWill::new("w", "gone").qos(QoS::ExactlyOnce).retain(true);
    let connecting = tokio::spawn(
        Options::from_url(&server.url())
            .unwrap()
            .last_will(will)
            .credentials("u", "p")
            .keep_alive(secs(7))
            .clean_session(false)
            .client_id("c")
            .connect(),
    );
    let (_peer, connect) = server.accept_session(true).await;
    let will = connect.last_will.unwrap();
    assert_eq!((will.topic.as_str(), &will.message[..]), ("w", &b"gone"[..]));
    assert!(will.retain && will.qos == WireQoS::ExactlyOnce && !connect.clean_session);
    assert_eq!(connect.keep_alive, 7);
    let agent = connecting.await.unwrap().unwrap();
    let mut watch = agent.state();
    assert!(matches!(*watch.borrow(), State::Connected { session_present: true, .. }));
    stats(&agent, "no reconnect", |stats| stats.reconnects == 0).await;
    drop(agent);
    watched(&mut watch, "the end", State::is_closed).await;
}

/// What a web server says to a CONNECT; longer than the length that its second letter stands for.
const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nServer: example\r\nConnection: close\r\n\r\n\
    <html><body>The plain request was sent to another port</body></html>";

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
