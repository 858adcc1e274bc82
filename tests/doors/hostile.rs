//! A peer that breaks the protocol, by mistake or on purpose, costs its connection and nothing else: the reason is in the
//! state, the agent connects again, and works.

use std::future::IntoFuture;

use mqtt_agent::{Agent, Error, ErrorKind, Options, QoS, State};
use rumqttc::mqttbytes::QoS as WireQoS;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::common::{linked, options, state, stats};
use crate::script::{granted, message, numbered};
use crate::shared::over_duplex;
use crate::support::{millis, within, Peer, Scripted, LIMIT};

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

/// What no broker may send once it has accepted the connection, in MQTT 3.1.1. Another version has a table of its own:
/// MQTT 5 adds what only it has, such as topic aliases that nobody has announced.
const AFTER_CONNACK: [(&str, &[u8]); 41] = [
    ("a second CONNACK", CONNACK),
    ("a CONNECT", b"\x10\x0e\0\x04MQTT\x04\x02\0\x1e\0\x02me"),
    ("a SUBSCRIBE", b"\x82\x06\0\x01\0\x01a\0"),
    ("an UNSUBSCRIBE", b"\xa2\x05\0\x01\0\x01a"),
    ("a PINGREQ", &[0xc0, 0]),
    ("a DISCONNECT", &[0xe0, 0]),
    ("type 0", &[0x00, 0]),
    ("type 15", &[0xf0, 0]),
    ("flags on a PUBACK", &[0x41, 2, 0, 1]),
    ("flags on a PUBREC", &[0x52, 2, 0, 1]),
    ("no flags on a PUBREL", &[0x60, 2, 0, 1]),
    ("flags on a PUBCOMP", &[0x78, 2, 0, 1]),
    ("flags on a SUBACK", &[0x91, 3, 0, 1, 0]),
    ("flags on an UNSUBACK", &[0xb1, 2, 0, 1]),
    ("flags on a PINGRESP", &[0xd1, 0]),
    ("a PINGRESP with a body", &[0xd0, 1, 0]),
    ("a length without end", &[0x30, 0xff, 0xff, 0xff, 0xff, 0xff]),
    ("a length of five bytes", &[0x30, 0x80, 0x80, 0x80, 0x80, 0]),
    ("a PUBACK without an identifier", &[0x40, 0]),
    ("a PUBACK with half an identifier", &[0x40, 1, 0]),
    ("a PUBACK of nothing", &[0x40, 2, 0, 0]),
    ("a PUBREC of nothing", &[0x50, 2, 0, 0]),
    ("a PUBREL of nothing", &[0x62, 2, 0, 0]),
    ("a PUBCOMP of nothing", &[0x70, 2, 0, 0]),
    ("a SUBACK of nothing", &[0x90, 3, 0, 0, 0]),
    ("an UNSUBACK of nothing", &[0xb0, 2, 0, 0]),
    ("a SUBACK without an identifier", &[0x90, 0]),
    ("a SUBACK with an unknown code", &[0x90, 3, 0, 1, 0x42]),
    ("an UNSUBACK that is too long", &[0xb0, 3, 0, 1, 0]),
    ("a SUBACK of 256 MiB", &[0x90, 0xff, 0xff, 0xff, 0x7f]),
    ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
    ("QoS 1 and identifier 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
    ("QoS 1 without an identifier", &[0x32, 3, 0, 1, b'a']),
    ("a PUBLISH of nothing", &[0x30, 0]),
    ("an empty topic", &[0x30, 2, 0, 0]),
    ("a topic longer than its packet", &[0x30, 3, 0, 9, b'a']),
    ("a topic with #", &[0x30, 3, 0, 1, b'#']),
    ("a topic with +", &[0x30, 5, 0, 3, b'a', b'/', b'+']),
    ("a topic with a NUL", &[0x30, 5, 0, 3, b'a', 0, b'b']),
    ("a topic that is no UTF-8", &[0x30, 4, 0, 2, 0xc3, 0x28]),
    ("a topic with a surrogate", &[0x30, 5, 0, 3, 0xed, 0xa0, 0x80]),
];

/// What is no answer to CONNECT.
const IN_PLACE_OF_CONNACK: [(&str, &[u8], ErrorKind); 11] = [
    ("a PUBLISH", b"\x30\x03\0\x01a", ErrorKind::Protocol),
    ("a SUBACK", &[0x90, 3, 0, 1, 0], ErrorKind::Protocol),
    ("a PUBACK", &[0x40, 2, 0, 1], ErrorKind::Protocol),
    ("a PINGRESP", &[0xd0, 0], ErrorKind::Protocol),
    ("a CONNECT", b"\x10\x0e\0\x04MQTT\x04\x02\0\x1e\0\x02me", ErrorKind::Protocol),
    ("a CONNACK that is too short", &[0x20, 1, 0], ErrorKind::Protocol),
    ("a CONNACK that is too long", &[0x20, 3, 0, 0, 0], ErrorKind::Protocol),
    ("a CONNACK with flags", &[0x21, 2, 0, 0], ErrorKind::Protocol),
    ("a session that was to be forgotten", &[0x20, 2, 1, 0], ErrorKind::Protocol),
    ("half a CONNACK", &[0x20, 2], ErrorKind::Connection),
    ("text", &[b'x'; 200], ErrorKind::Protocol),
];

/// An agent that stays disconnected for long enough to be looked at.
fn watched(server: &Scripted) -> Options {
    options(&server.url()).reconnect(|_: &_| Some(millis(30)))
}

#[tokio::test]
async fn what_no_broker_may_send_ends_the_connection_and_the_agent_goes_on() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, watched(&server)).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    for (what, bytes) in AFTER_CONNACK {
        peer.send_raw(bytes).await;
        assert_eq!(reason(&agent, what).await.kind(), ErrorKind::Protocol, "{what}");
        (peer, _) = server.accept_session(false).await;
        peer.expect_subscribe().await;
        state(&agent, "a connection", State::is_connected).await;
    }
    works(&agent, &mut peer).await;
    peer.publish(message("a", "good")).await;
    let received = within(LIMIT, "a message", stream.recv()).await.unwrap().unwrap();
    assert_eq!(received.text(), Ok("good"), "what was malformed is nobody's message");
}

#[tokio::test]
async fn what_is_no_answer_to_connect_ends_the_attempt_and_the_agent_goes_on() {
    let server = Scripted::listen().await;
    let agent = watched(&server).connect_lazy().unwrap();
    for (what, bytes, kind) in IN_PLACE_OF_CONNACK {
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.send_raw(bytes).await;
        peer.finish().await;
        assert_eq!(reason(&agent, what).await.kind(), kind, "{what}");
    }
    let (mut peer, _) = server.accept_session(false).await;
    works(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_connack_that_never_comes_whole_costs_the_attempt_its_time_only() {
    let server = Scripted::listen().await;
    let agent = watched(&server).connect_timeout(millis(50)).connect_lazy().unwrap();
    for part in 0..CONNACK.len() {
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.send_raw(&CONNACK[..part]).await;
        assert_eq!(reason(&agent, "a timeout").await.kind(), ErrorKind::Timeout, "{part} bytes");
        assert_eq!(peer.closed().await, []);
    }
    let (mut peer, _) = server.accept_session(false).await;
    works(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_packet_that_is_cut_off_anywhere_is_nobodys_message() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut stream = granted(&mut peer, agent.subscribe("a/b").into_future()).await.unwrap();
    let whole = b"\x32\x0b\0\x03a/b\0\x07text";
    for cut in 1..whole.len() {
        peer.send_raw(&whole[..cut]).await;
        peer.finish().await;
        (peer, _) = server.accept_session(false).await;
        peer.expect_subscribe().await;
    }
    peer.send_raw(whole).await;
    assert_eq!(within(LIMIT, "a message", stream.recv()).await.unwrap().unwrap().text(), Ok("text"));
    assert_eq!(peer.expect_puback().await, 7);
    assert_eq!(agent.stats().received, 1);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_its_question_ends_the_connection_and_the_question_is_asked_again() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, watched(&server)).await;
    let subscribing = tokio::spawn(agent.subscribe(["a", "b"]).into_future());
    for codes in [&[0][..], &[0, 0, 0], &[]] {
        let id = peer.expect_subscribe().await.pkid.to_be_bytes();
        peer.send_raw(&[&[0x90, 2 + codes.len() as u8], &id[..], codes].concat()).await;
        assert_eq!(reason(&agent, "a loss").await.kind(), ErrorKind::Protocol, "{codes:?}");
        (peer, _) = server.accept_session(false).await;
    }
    let id = peer.expect_subscribe().await.pkid.to_be_bytes();
    peer.send_raw(&[&[0x90, 4], &id[..], &[0, 0]].concat()).await;
    let stream = within(LIMIT, "the subscription", subscribing).await.unwrap().unwrap();
    assert_eq!(stream.granted().len(), 2);
}

#[tokio::test]
async fn publishes_without_a_pause_keep_nobody_from_being_heard() {
    let server = Scripted::listen().await;
    let (agent, peer) = linked(&server, options(&server.url())).await;
    let (mut reader, mut writer) = peer.split();
    let flood = tokio::spawn(async move {
        let block = b"\x30\x08\0\x05floodx".repeat(1000);
        while writer.try_send_raw(&block).await {}
    });
    stats(&agent, "a flood", |stats| stats.received > 10_000).await;
    for n in 0..10 {
        let publish = agent.publish("a", n.to_string()).qos(QoS::AtMostOnce).into_future();
        within(LIMIT, "a publish", publish).await.unwrap();
        assert_eq!(reader.expect_publish().await.payload, n.to_string());
    }
    within(LIMIT, "the end", agent.close()).await;
    drop(reader);
    within(LIMIT, "the end of the flood", flood).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_wants_acknowledgements_and_never_reads_them_is_given_up() {
    let (options, mut connections) = over_duplex(options("mqtt://broker").write_timeout(millis(50)));
    let agent = options.reconnect(|_: &_| Some(millis(30))).connect_lazy().unwrap();
    let mut accept = async || {
        let mut peer = Peer::new(connections.recv().await.unwrap().1);
        peer.expect_connect().await;
        peer.send_raw(CONNACK).await;
        peer
    };
    let mut peer = accept().await;
    let flood = async {
        let block = b"\x32\x06\0\x01a\0\x01x".repeat(1000);
        while peer.try_send_raw(&block).await {}
    };
    let (lost, ()) = tokio::join!(reason(&agent, "a loss"), within(LIMIT, "the end", flood));
    assert!(lost.to_string().contains("write timeout"), "{lost:?}");
    works(&agent, &mut accept().await).await;
}

#[tokio::test]
async fn handshakes_of_qos_2_that_are_never_finished_or_out_of_order_do_no_harm() {
    let server = Scripted::listen().await;
    let (agent, mut peer) = linked(&server, options(&server.url())).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").capacity(4096).into_future()).await.unwrap();
    // Twice each, as a peer would that has lost its memory; the second time is a repetition.
    for _ in 0..2 {
        for id in 1..=1000 {
            peer.publish(numbered("a", "x", WireQoS::ExactlyOnce, id)).await;
            assert_eq!(peer.expect_pubrec().await, id);
        }
    }
    // Releases of what was never sent, then of all, in no order.
    for id in (1..=2000).rev() {
        peer.pubrel(id).await;
        assert_eq!(peer.expect_pubcomp().await, id);
    }
    for _ in 0..1000 {
        assert_eq!(stream.recv().await.unwrap().unwrap().text(), Ok("x"));
    }
    works(&agent, &mut peer).await;
    assert_eq!(agent.stats().received, 1000);
}

/// Why the agent is not connected any more.
async fn reason(agent: &Agent, what: &str) -> Error {
    match state(agent, what, |state| matches!(state, State::Disconnected { .. })).await {
        State::Disconnected { reason, .. } => reason,
        other => panic!("{what}: {other:?}"),
    }
}

async fn works<S: AsyncRead + AsyncWrite + Unpin>(agent: &Agent, peer: &mut Peer<S>) {
    let call = tokio::spawn(agent.publish("works", "x").into_future());
    let id = peer.expect_publish().await.pkid;
    peer.puback(id).await;
    within(LIMIT, "the publish", call).await.unwrap().unwrap();
}
