//! Versions, terms, sessions, reasons and authentication.

use std::future::IntoFuture;

use bytes::Bytes;
use mqtt_agent::{
    Agent, ErrorKind, Exchange, ExchangeFuture, LastWill, Properties, QoS, ReasonCode, Refusal, State, Terms, Version,
};

use crate::common::{linked, options, state, state_when_answered};
use crate::support::{broker_test, secs, within, Broker, BrokerKind, Proxy, Scripted, LIMIT};

fn terms(agent: &Agent) -> Terms {
    match &*agent.state().borrow() {
        State::Connected { terms, .. } => Terms::clone(terms),
        other => panic!("not connected: {other:?}"),
    }
}

broker_test!(auto_speaks_mqtt_5_where_the_broker_does, |broker| async move {
    let agent = options(&broker.url()).version(Version::Auto).connect().await.unwrap();
    assert_eq!(terms(&agent).version, Version::V5);
    agent.publish("a", "x").user_property("a", "b").await.unwrap();
});

#[tokio::test]
async fn auto_falls_back_on_each_answer_that_means_an_unknown_version() {
    for answer in [&[0x20, 3, 0, 0x84, 0][..], &[0x20, 2, 0, 1], &[]] {
        let server = Scripted::listen().await;
        let connecting = options(&server.url()).version(Version::Auto).connect();
        let (agent, _peer) = tokio::join!(connecting, async {
            let mut first = server.accept().await;
            first.expect_connect().await;
            first.send_raw(answer).await;
            first.finish().await;
            let (peer, connect) = server.accept_session(false).await;
            assert_eq!(connect.protocol, rumqttc::mqttbytes::Protocol::V4);
            peer
        });
        let agent = agent.unwrap();
        assert_eq!(terms(&agent).version, Version::V311, "{answer:02x?}");
        let error = agent.publish("a", "x").content_type("text/plain").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let error = agent.subscribe("a").no_local(true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn callers_that_hear_of_a_connection_find_it_in_the_state() {
    let server = Scripted::listen().await;
    let agent = options(&server.url()).version(Version::Auto).connect_lazy().unwrap();
    // Without a topic for its reply it needs MQTT 5.
    let call = agent.request("a", "x").into_future();
    let cause = async {
        let mut first = server.accept().await;
        first.expect_connect().await;
        first.send_raw(&[0x20, 2, 0, 1]).await;
        first.finish().await;
        server.accept_session(false).await
    };
    let (state, answer) = state_when_answered(&agent, call, cause).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(state.is_connected(), "{state:?}");
}

#[tokio::test]
async fn auto_does_not_fall_back_on_a_refusal_of_another_kind() {
    let server = Scripted::listen().await;
    let (refused, ()) = tokio::join!(options(&server.url()).version(Version::Auto).connect(), async {
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.send_raw(&[0x20, 3, 0, 0x87, 0]).await;
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(Refusal::NotAuthorized));
    assert_eq!(error.reason_code(), Some(ReasonCode::NOT_AUTHORIZED));
}

#[tokio::test]
async fn a_refusal_says_why_and_where_to_go() {
    let server = Scripted::listen().await;
    let (refused, ()) = tokio::join!(options(&server.url()).connect(), async {
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.send_raw(&[&[0x20, 16, 0, 0x9d, 13, 0x1f, 0, 4][..], b"soon", &[0x1c, 0, 3], b"b:1"].concat()).await;
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(Refusal::ServerMoved));
    assert_eq!(error.server_reference(), Some("b:1"));
    assert!(error.to_string().contains("soon"), "{error}");
}

broker_test!(the_identifier_that_the_broker_assigns_is_kept_for_the_next_connection, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).client_id("").session_expiry(secs(60)).connect().await.unwrap();
    let assigned = terms(&agent).client_id;
    assert!(!assigned.is_empty());
    proxy.cut().await;
    state(&agent, "the loss", |state| !state.is_connected()).await;
    let resumed = state(&agent, "a connection", State::is_connected).await;
    assert!(matches!(resumed, State::Connected { session_present: true, .. }), "{resumed:?}");
    assert_eq!(terms(&agent).client_id, assigned);
});

broker_test!(with_a_session_expiry_a_cut_line_loses_nothing_without_a_fixed_name, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).session_expiry(secs(60)).connect().await.unwrap();
    let sender = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a").qos(QoS::ExactlyOnce).await.unwrap();
    proxy.refuse(true);
    proxy.cut().await;
    state(&agent, "the loss", |state| !state.is_connected()).await;
    for n in 0..10 {
        sender.publish("a", n.to_string()).qos(QoS::ExactlyOnce).await.unwrap();
    }
    proxy.refuse(false);
    for n in 0..10 {
        let message = within(LIMIT, "what was queued", stream.recv()).await.unwrap().unwrap();
        assert_eq!(message.text().unwrap(), n.to_string());
    }
    assert!(matches!(*agent.state().borrow(), State::Connected { session_present: true, .. }));
});

#[tokio::test]
async fn the_first_connection_starts_clean_and_the_next_resumes() {
    let server = Scripted::listen().await;
    let agent = options(&server.url()).session_expiry(secs(60)).connect_lazy().unwrap();
    let (peer, first) = server.accept_session(false).await;
    assert!(first.clean_session);
    state(&agent, "a connection", State::is_connected).await;
    peer.reset();
    let (_peer, second) = server.accept_session(true).await;
    assert!(!second.clean_session);
    state(&agent, "a connection", State::is_connected).await;
    agent.close().await;
}

#[tokio::test]
async fn the_broker_is_told_the_largest_packet_with_its_fixed_header() {
    let server = Scripted::listen().await;
    let connecting = options(&server.url()).max_packet_size(1000).connect();
    let (_refused, connect) = tokio::join!(connecting, async { server.accept().await.recv_raw_packet().await });
    let [high, low] = 1005_u16.to_be_bytes();
    assert!(connect.windows(5).any(|property| property == [0x27, 0, 0, high, low]), "{connect:02x?}");
}

broker_test!(the_terms_of_the_broker_can_be_read, |broker| async move {
    let agent = options(&broker.url()).client_id("me").connect().await.unwrap();
    let terms = terms(&agent);
    assert_eq!((terms.version, terms.client_id.as_str()), (Version::V5, "me"));
    if broker.kind() == BrokerKind::Mosquitto {
        assert_eq!(terms.topic_alias_maximum, 10);
    }
});

#[tokio::test]
async fn the_response_information_is_asked_for_and_shown() {
    let server = Scripted::listen().await;
    let connecting = options(&server.url()).request_response_information(true).connect();
    let (agent, _peer) = tokio::join!(connecting, async {
        let mut peer = server.accept().await;
        let connect = peer.recv_raw_packet().await;
        assert!(connect.windows(2).any(|property| property == [0x19, 1]), "{connect:02x?}");
        peer.send_raw(&[&[0x20, 9, 0, 0, 6, 0x1a, 0, 3][..], b"re/"].concat()).await;
        peer
    });
    assert_eq!(terms(&agent.unwrap()).response_information.as_deref(), Some("re/"));
}

#[tokio::test]
async fn a_broker_that_stops_says_so() {
    let mut broker = Broker::start(BrokerKind::Embedded).await.unwrap();
    let agent = options(&broker.url()).connect().await.unwrap();
    let (lost, ()) = tokio::join!(state(&agent, "the loss", |state| !state.is_connected()), broker.stop());
    let State::Disconnected { reason, .. } = lost else { panic!("{lost:?}") };
    assert_eq!(reason.kind(), ErrorKind::Disconnected);
    assert_eq!(reason.reason_code(), Some(ReasonCode::SERVER_SHUTTING_DOWN));
}

#[tokio::test]
async fn the_reason_of_a_goodbye_reaches_the_state_and_the_errors_in_each_of_its_forms() {
    let forms: [(&[u8], ReasonCode); 4] = [
        (&[0xe0, 0], ReasonCode::SUCCESS),
        (&[0xe0, 1, 0x8e], ReasonCode::SESSION_TAKEN_OVER),
        (&[0xe0, 2, 0x98, 0], ReasonCode::ADMINISTRATIVE_ACTION),
        (&[0xe0, 8, 0x97, 6, 0x1f, 0, 3, b'a', b'd', b'e'], ReasonCode::QUOTA_EXCEEDED),
    ];
    for (bytes, code) in forms {
        let server = Scripted::listen().await;
        let (agent, mut peer) = linked(&server, options(&server.url()).reconnect(crate::common::give_up)).await;
        peer.send_raw(bytes).await;
        let closed = state(&agent, "the end", State::is_closed).await;
        let State::Closed { reason: Some(reason), .. } = closed else { panic!("{closed:?}") };
        assert_eq!((reason.kind(), reason.reason_code()), (ErrorKind::Disconnected, Some(code)));
    }
}

/// Answers a challenge with itself reversed, and trusts a broker that says "welcome" in the end.
struct Reversing;

impl Exchange for Reversing {
    fn step(&mut self, challenge: Option<Bytes>) -> ExchangeFuture<'_> {
        Box::pin(async move {
            match challenge.as_deref() {
                None => Ok("hello".into()),
                Some(b"welcome") => Ok(Bytes::new()),
                Some(b"impostor") => Err("this is not the broker".into()),
                Some(challenge) => Ok(challenge.iter().rev().copied().collect::<Vec<_>>().into()),
            }
        })
    }
}

fn auth(data: &str) -> Vec<u8> {
    let length = data.len() as u8;
    [&[0xf0, length + 11, 0x18, length + 9, 0x15, 0, 3][..], b"REV", &[0x16, 0, length], data.as_bytes()].concat()
}

fn welcome(data: &str) -> Vec<u8> {
    let length = data.len() as u8;
    [&[0x20, length + 6, 0, 0, length + 3, 0x16, 0, length][..], data.as_bytes()].concat()
}

#[tokio::test]
async fn an_authentication_goes_to_and_fro_until_both_sides_are_content() {
    let server = Scripted::listen().await;
    let connecting = options(&server.url()).authentication("REV", || Reversing).connect();
    let (agent, _peer) = tokio::join!(connecting, async {
        let mut peer = server.accept().await;
        let connect = peer.recv_raw_packet().await;
        assert!(connect.windows(5).any(|data| data == b"hello"), "{connect:02x?}");
        for (challenge, answer) in [("abc", "cba"), ("12345", "54321")] {
            peer.send_raw(&auth(challenge)).await;
            let expected = auth(answer);
            assert_eq!(peer.recv_raw(expected.len()).await, expected);
        }
        peer.send_raw(&welcome("welcome")).await;
        peer
    });
    agent.unwrap();
}

#[tokio::test]
async fn a_broker_that_cannot_prove_itself_is_left() {
    let server = Scripted::listen().await;
    let connecting = options(&server.url()).authentication("REV", || Reversing).connect();
    let (refused, ()) = tokio::join!(connecting, async {
        let mut peer = server.accept().await;
        peer.recv_raw_packet().await;
        peer.send_raw(&welcome("impostor")).await;
        peer.closed().await;
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("not the broker"));
}

/// Takes these steps, and has none after them.
struct Steps(std::vec::IntoIter<usize>);

impl Exchange for Steps {
    fn step(&mut self, _: Option<Bytes>) -> ExchangeFuture<'_> {
        let length = self.0.next().expect("a step");
        Box::pin(async move { Ok(vec![b'x'; length].into()) })
    }
}

fn stepping(server: &Scripted, lengths: &[usize]) -> mqtt_agent::Options {
    let lengths = lengths.to_vec();
    options(&server.url()).authentication("REV", move || Steps(lengths.clone().into_iter()))
}

#[tokio::test]
async fn authentication_data_that_do_not_fit_a_packet_are_refused_on_this_side() {
    let server = Scripted::listen().await;
    let error = stepping(&server, &[65_536]).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authentication);
    let mut first = server.accept().await;
    assert!(first.closed().await.is_empty(), "nothing was sent");
    let (refused, ()) = tokio::join!(stepping(&server, &[65_535, 65_536]).connect(), async {
        let mut peer = server.accept().await;
        peer.recv_raw_packet().await;
        peer.send_raw(&auth("abc")).await;
        assert!(peer.closed().await.is_empty(), "nothing more was sent");
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Authentication);
    // What comes with the CONNACK is not answered, however long that would be.
    let (agent, _peer) = tokio::join!(stepping(&server, &[1, 65_536]).connect(), async {
        let mut peer = server.accept().await;
        peer.recv_raw_packet().await;
        peer.send_raw(&welcome("welcome")).await;
        peer
    });
    agent.unwrap();
}

#[tokio::test]
async fn an_exchange_that_panics_is_a_failed_attempt() {
    let server = Scripted::listen().await;
    let (refused, ()) = tokio::join!(stepping(&server, &[1]).connect(), async {
        let mut peer = server.accept().await;
        peer.recv_raw_packet().await;
        peer.send_raw(&auth("abc")).await;
        peer.closed().await;
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn an_auth_that_nobody_asked_for_ends_the_connection() {
    let server = Scripted::listen().await;
    let (refused, ()) = tokio::join!(options(&server.url()).connect(), async {
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.send_raw(&auth("abc")).await;
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Protocol);
}

broker_test!(a_will_brings_its_properties, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    let properties = Properties::default().with_content_type("text/plain").with_user_property("why", "gone");
    let will = LastWill::new("gone", "x").properties(properties);
    let dying = options(&proxy.url()).reconnect(crate::common::give_up).last_will(will).connect().await.unwrap();
    let agent = options(&broker.url()).connect().await.unwrap();
    let mut stream = agent.subscribe("gone").await.unwrap();
    proxy.cut().await;
    let message = within(LIMIT, "the will", stream.recv()).await.unwrap().unwrap();
    assert_eq!(message.properties().content_type.as_deref(), Some("text/plain"));
    assert_eq!(message.properties().user_property("why"), Some("gone"));
    drop(dying);
});
