//! WebSocket: frames split anywhere, and handshakes that are none.

use std::future::IntoFuture;

use futures::future::join_all;
use mqtt_agent::{Endpoint, Error, ErrorKind, Options, QoS, State, WebSocketFailure};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::common::{options, state};
use crate::shared::echo;
use crate::support::{
    file, mosquitto_or_skip, within, Authority, EmbeddedBroker, Front, Identity, Mosquitto, MosquittoConfig, Peer,
    Scripted, TlsSide, LIMIT,
};

#[tokio::test]
async fn messages_come_back_however_frames_are_split() {
    let broker = EmbeddedBroker::start().await;
    for chunk in [1, 7, 100_000] {
        let front = Front::websocket(chunk, broker.addr()).await;
        let agent = options(&front.url("ws")).connect().await.unwrap();
        let mut stream = agent.subscribe("echo").qos(QoS::ExactlyOnce).await.unwrap();
        let publish = |n: usize| agent.publish("echo", vec![b'x'; n * 50]).qos(QoS::ExactlyOnce).into_future();
        let published = within(LIMIT, "all acknowledgements", join_all((0..20).map(publish))).await;
        assert!(published.iter().all(Result::is_ok), "{chunk}: {published:?}");
        for n in 0..20 {
            let message = within(LIMIT, "the echo", stream.recv()).await.unwrap().unwrap();
            assert_eq!(message.payload().len(), n * 50, "{chunk}");
        }
    }
}

#[tokio::test]
async fn a_large_message_goes_both_ways() {
    let broker = EmbeddedBroker::start().await;
    let front = Front::websocket(100_000, broker.addr()).await;
    let agent = options(&front.url("ws")).connect().await.unwrap();
    let large = vec![b'x'; 3_000_000];
    let mut stream = agent.subscribe("echo").await.unwrap();
    within(LIMIT, "the acknowledgement", agent.publish("echo", large.clone()).into_future()).await.unwrap();
    let message = within(LIMIT, "the echo", stream.recv()).await.unwrap().unwrap();
    assert!(message.payload() == &large[..]);
}

#[tokio::test]
async fn path_query_and_headers_arrive_as_they_are_and_options_do_not() {
    let broker = EmbeddedBroker::start().await;
    let front = Front::websocket(1000, broker.addr()).await;
    let url = format!("{}/a/mqtt?client_id=me&X-Sig=a%2Fb&x=1&keep_alive=9", front.url("ws"));
    let agent = options(&url).websocket_header("Authorization", "Bearer hunter2").connect().await.unwrap();
    let shaken = &front.shaken()[0];
    assert_eq!(shaken.path, "/a/mqtt?X-Sig=a%2Fb&x=1");
    let header = |name: &str| shaken.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str());
    assert_eq!(header("host"), Some(front.addr().to_string().as_str()));
    assert_eq!(header("authorization"), Some("Bearer hunter2"));
    assert_eq!(header("sec-websocket-protocol"), Some("mqtt"));
    let text = format!("{agent:?} {:?}", agent.state().borrow());
    assert!(!text.contains("hunter2") && !text.contains("X-Sig"), "{text}");

    // An endpoint has no options: all of its query is the server's.
    let endpoint = Endpoint::from_url(&format!("{}/mqtt?client_id=me", front.url("ws"))).unwrap();
    let _agent = Options::from(endpoint).connect().await.unwrap();
    assert_eq!(front.shaken()[1].path, "/mqtt?client_id=me");
}

#[tokio::test]
async fn wss_is_websocket_over_tls() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let inner = Front::websocket(50, broker.addr()).await;
    let outer = Front::tls(&TlsSide::new(&ca.broker("127.0.0.1")), inner.addr()).await;
    let url = format!("{}/mqtt", outer.url("wss"));
    echo(&options(&url).ca_pem(ca.pem()).connect().await.unwrap()).await;
    assert_eq!(inner.shaken()[0].path, "/mqtt");
    let error = options(&url).connect().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls(_)), "{error:?}");
}

#[tokio::test]
async fn mosquitto_speaks_websocket() {
    let Some(broker) = mosquitto(vec![]).await else { return };
    echo(&options(&format!("ws://{}/mqtt", broker.addr())).connect().await.unwrap()).await;
    let plain = options(&broker.url()).connect().await.unwrap_err();
    assert!(matches!(plain.kind(), ErrorKind::Connection | ErrorKind::Protocol), "{plain:?}");
}

#[tokio::test]
async fn mosquitto_speaks_websocket_over_tls() {
    let ca = Authority::new("ca");
    let Identity { cert, key } = ca.broker("127.0.0.1");
    let (cert, key) = (file(&cert), file(&key));
    let files = [("certfile", &cert), ("keyfile", &key)];
    let lines = files.map(|(name, file)| format!("{name} {}", file.path().display())).to_vec();
    let Some(broker) = mosquitto(lines).await else { return };
    let url = format!("wss://{}/mqtt", broker.addr());
    echo(&options(&url).ca_pem(ca.pem()).connect().await.unwrap()).await;
}

async fn mosquitto(mut listener: Vec<String>) -> Option<Mosquitto> {
    listener.push("protocol websockets".to_owned());
    // It does not start with listeners for WebSocket alone.
    let dir = tempfile::tempdir().unwrap();
    let lines = vec![format!("listener 0 {}", dir.path().join("plain").display()), "allow_anonymous true".to_owned()];
    mosquitto_or_skip(MosquittoConfig { lines, listener, ..MosquittoConfig::default() }).await
}

#[tokio::test]
async fn an_answer_that_is_no_handshake_is_told() {
    use WebSocketFailure::{Handshake, Status, Subprotocol};
    let cases: [(&str, WebSocketFailure, &str); 8] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Status(200), "200"),
        ("HTTP/1.1 302 Found\r\nLocation: https://h/login?t=hunter2\r\n\r\n", Status(302), "https://h/login"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Status(404), "/mqtt"),
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", Status(401), "websocket_header"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", Handshake, "answer"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Handshake, "answer"),
        ("\x20\x02\x00\x00 this is MQTT", Handshake, "answer"),
        ("SSH-2.0-x\r\n\r\n", Handshake, "answer"),
    ];
    for (answer, expected, named) in cases {
        let error = answered(|_| answer.as_bytes().to_vec()).await;
        assert_eq!(error.kind(), ErrorKind::WebSocket(expected), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    for protocol in ["", "Sec-WebSocket-Protocol: mqttv3.1\r\n"] {
        let error = answered(|key| accepting(key, protocol)).await;
        assert_eq!(error.kind(), ErrorKind::WebSocket(Subprotocol), "{protocol:?}: {error:?}");
    }
}

#[tokio::test]
async fn endless_headers_come_to_an_end() {
    let error = answered(|_| {
        let header = format!("X: {}\r\n", "y".repeat(1000));
        [b"HTTP/1.1 101 Switching Protocols\r\n".to_vec(), header.repeat(20_000).into_bytes()].concat()
    })
    .await;
    // The connection is closed while the peer still sends.
    assert!(matches!(error.kind(), ErrorKind::WebSocket(WebSocketFailure::Handshake)), "{error:?}");
}

#[tokio::test]
async fn frames_that_carry_no_mqtt_end_the_connection_and_the_agent_goes_on() {
    let connack = [0x82, 4, 0x20, 2, 0, 0];
    let bad: [(&str, &[u8]); 5] = [
        ("text", b"\x81\x02hi"),
        ("a frame of a gigabyte", &[0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3]),
        ("a frame with a reserved opcode", &[0x83, 1, 0]),
        ("a frame with a mask", &[0x82, 0x81, 1, 2, 3, 4, 5]),
        ("the end", &[0x88, 0]),
    ];
    let server = Scripted::listen().await;
    let agent = options(&format!("ws://{}/mqtt", server.addr())).connect_lazy().unwrap();
    for (what, bytes) in bad {
        let mut peer = server.accept().await;
        let key = request_key(&mut peer).await;
        peer.send_raw(&accepting(&key, "Sec-WebSocket-Protocol: mqtt\r\n")).await;
        // Its frame with CONNECT.
        peer.recv_raw(10).await;
        peer.send_raw(&connack).await;
        state(&agent, "a connection", State::is_connected).await;
        peer.send_raw(bytes).await;
        let lost = state(&agent, what, |state| !state.is_connected()).await;
        let State::Disconnected { reason, .. } = lost else { panic!("{what}: {lost:?}") };
        let expected = if what == "the end" { ErrorKind::Connection } else { ErrorKind::Protocol };
        assert_eq!(reason.kind(), expected, "{what}: {reason:?}");
    }
}

/// The failure of an agent whose handshake is answered so, given the key of its request.
async fn answered(answer: impl FnOnce(&str) -> Vec<u8>) -> Error {
    let server = Scripted::listen().await;
    let connecting = tokio::spawn(options(&format!("ws://{}/a", server.addr())).connect());
    let mut peer = server.accept().await;
    let key = request_key(&mut peer).await;
    let answer = answer(&key);
    let sending = tokio::spawn(async move {
        peer.try_send_raw(&answer).await;
        peer
    });
    let error = within(LIMIT, "a refusal", connecting).await.unwrap().unwrap_err();
    sending.await.unwrap();
    error
}

async fn request_key(peer: &mut Peer) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.extend(peer.recv_raw(1).await);
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    key.to_owned()
}

fn accepting(key: &str, protocol: &str) -> Vec<u8> {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    )
    .into_bytes()
}
