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

mod keep_alive;
mod losses;

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
    assert!(!watch.has_changed().unwrap(), "it is connected before it is watched");
    stats(&agent, "no reconnect", |stats| stats.reconnects == 0).await;
    drop(agent);
    watched(&mut watch, "the end", State::is_closed).await;
}

/// What a web server says to a CONNECT; longer than the length that its second letter stands for.
const HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nServer: example\r\nConnection: close\r\n\r\n\
    <html><body>The plain request was sent to another port</body></html>";
