//! Options from outside the program, what does not go together, and secrets that stay where they are.

use std::error::Error as _;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};

use mqtt_agent::{Agent, Error, ErrorKind, Login, Options, State};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use tokio::io::DuplexStream;
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{options, state};
use crate::shared::alone;
use crate::support::{file, millis, within, Scripted, LIMIT};

#[tokio::test]
async fn what_does_not_go_together_is_refused_and_named_from_both_sides() {
    let wss = "wss://u:hunter2@second:1/a?sig=hunter2";
    let duplex = |_| async { Ok::<DuplexStream, _>(tokio::io::duplex(1).0) };
    let cases: Vec<(Options, [&str; 2])> = vec![
        (options("mqtt://h").ca_file("/ca.pem"), ["ca_file", "mqtt://h:1883"]),
        (options("ws://h/a").ca_pem("x"), ["ca_pem", "ws://h:80/a"]),
        (options("mqtt://h").cert_file("/c").key_file("/k"), ["cert_file", "mqtt://h:1883"]),
        (options("unix:/s").server_name("x"), ["server_name", "unix:/s"]),
        (options("mqtt://h").alpn(["x"]), ["alpn", "mqtt://h:1883"]),
        (options("mqtt://h").danger_accept_invalid_certs(true), ["danger_accept_invalid_certs", "mqtt://h:1883"]),
        (options("mqtt://h").websocket_header("X", "hunter2"), ["websocket_header \"X\"", "mqtt://h:1883"]),
        (options("mqtt://h").websocket_header("X", "hunter2").failover(["unix:/s"]), ["websocket_header", "mqtt://h"]),
        (options("mqtt://h").failover(["mqtt://u:hunter2@second"]), ["endpoint", "user name"]),
        (options("mqtt://h").failover(["mqtt://second?client_id=a"]), ["endpoint", "options"]),
        (options("mqtt://h").proxy("http://u:hunter2@p?x"), ["proxy", "query"]),
        (options("mqtt://h").proxy("https://u:hunter2@p"), ["proxy", "scheme"]),
        (options("mqtt://h").proxy("hunter2"), ["proxy", "URL"]),
        (options("mqtt://h").failover([wss.replace("u:hunter2@", "")]), ["mqtt://h:1883", "wss://second:1/a"]),
        (options("mqtts://h").cert_file("/c"), ["cert_file", "key_file"]),
        (options("mqtts://h").key_pem("hunter2"), ["cert_file", "key_file"]),
        (options("mqtts://h").ca_file("/c").danger_accept_invalid_certs(true), ["ca_file", "danger_accept"]),
        (options("mqtts://h").server_name("not a name"), ["certificate", "not a name"]),
        (options("ws://h").websocket_header("a b", "hunter2"), ["websocket_header", "a b"]),
        (options("ws://h").websocket_header("X", "hunter2\n"), ["websocket_header", "X"]),
        (options("ws://h").websocket_header("Host", "hunter2"), ["websocket_header", "handshake"]),
        (options("ws://h").websocket_header("Sec-WebSocket-Key", "hunter2"), ["websocket_header", "handshake"]),
        (options("unix:/s").proxy("http://p"), ["proxy", "unix:/s"]),
        (options("mqtt://h").proxy("http://p").connector(duplex), ["proxy", "connector"]),
    ];
    for (options, named) in cases {
        let error = within(LIMIT, named[0], options.clone().connect()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{named:?}: {error:?}");
        assert!(named.iter().all(|name| error.to_string().contains(name)), "{named:?}: {error}");
        assert!(!format!("{options:?} {error:?}").contains("hunter2"), "{error:?}");
        assert_eq!(options.connect_lazy().unwrap_err().to_string(), error.to_string());
    }
}

#[tokio::test]
async fn a_configuration_of_tls_goes_with_no_part_of_one() {
    use mqtt_agent::rustls::crypto::ring;
    use mqtt_agent::rustls::{ClientConfig, RootCertStore};
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    let both = options("mqtts://h").tls_config(config.clone()).ca_file("/ca.pem");
    let error = both.connect().await.unwrap_err();
    assert!(error.to_string().contains("ca_file and tls_config"), "{error}");
    let plain = options("mqtt://h").tls_config(config).connect().await.unwrap_err();
    assert!(plain.to_string().contains("tls_config is set, but mqtt://h:1883"), "{plain}");
}

/// Variables belong to a whole process, so they are set for one of its own.
#[tokio::test]
async fn the_environment_says_where_to_connect_and_as_whom() {
    let server = Scripted::listen().await;
    let password = file("hunter2\n");
    let child = alone("config::child_with_variables")
        .env("DOOR_HOST", "127.0.0.1")
        .env("DOOR_PORT", server.addr().port().to_string())
        .env("DOOR_USERNAME", "me")
        .env("DOOR_PASSWORD_FILE", password.path())
        .env("DOOR_CLIENT_ID", "web-1")
        .env("DOOR_KEEP_ALIVE", "7")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (mut peer, connect) = server.accept_session(false).await;
    let login = connect.login.unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("me", "hunter2"));
    assert_eq!((connect.client_id.as_str(), connect.keep_alive), ("web-1", 7));
    peer.closed().await;
    assert!(tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap().status.success());
}

#[tokio::test]
#[ignore = "a part of another test"]
async fn child_with_variables() {
    Options::from_env("DOOR").unwrap().connect().await.unwrap().close().await;
}

#[tokio::test]
async fn a_password_file_is_read_before_each_connect() {
    let server = Scripted::listen().await;
    let password = file("first\r\n");
    let agent = options(&server.url()).password_file("me", password.path()).connect_lazy().unwrap();
    let (peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.login.unwrap().password, "first");
    std::fs::write(password.path(), "second").unwrap();
    peer.reset();
    let (peer, connect) = server.accept_session(false).await;
    assert_eq!(connect.login.unwrap().password, "second");
    let path = password.path().display().to_string();
    drop(password);
    peer.reset();
    let told = |state: &State| matches!(state, State::Disconnected { reason, .. } if said(reason).contains(&path));
    state(&agent, "the missing file", told).await;
}

/// What a subscriber writes, for all to read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Everything an error says, and those behind it.
fn said(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[test]
fn no_text_anywhere_holds_a_secret() {
    // Alone, because other tests log too, and decide for this one what is logged.
    let output = alone("config::child_that_tells_all").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
#[ignore = "a part of another test"]
async fn child_that_tells_all() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut texts: Vec<String> = Vec::new();
    let show = |value: &dyn Debug| format!("{value:?} {value:#?}");

    let server = Scripted::listen().await;
    let place = server.addr();
    let by_url = || options(&format!("mqtt://me:hunter2@{place}"));
    let by_setter = || options(&server.url()).credentials("me", "hunter2");
    let by_function = || options(&server.url()).credentials_from(|| async { Ok(Login::new("me", "hunter2")) });
    for options in [by_url(), by_setter(), by_function()] {
        texts.push(show(&options));
        // Accepted, then lost, then refused.
        let agent = options.connect_lazy().unwrap();
        let (peer, connect) = server.accept_session(false).await;
        assert_eq!(connect.login.unwrap().password, "hunter2");
        state(&agent, "a connection", State::is_connected).await;
        texts.push(show(&agent));
        peer.reset();
        let mut peer = server.accept().await;
        peer.expect_connect().await;
        peer.connack(ConnectReturnCode::BadUserNamePassword, false).await;
        let refused = |state: &State| matches!(state, State::Disconnected { reason, .. } if matches!(reason.kind(), ErrorKind::Refused(_)));
        let refused = state(&agent, "the refusal", refused).await;
        let State::Disconnected { reason, .. } = &refused else { unreachable!() };
        texts.extend([show(&refused), said(reason), show(&agent)]);
        agent.close().await;
        while tokio::time::timeout(millis(20), server.accept()).await.is_ok() {}
    }

    let failing = [
        by_setter().proxy(&format!("http://me:hunter2@{place}")),
        by_setter().proxy(&format!("socks5://me:hunter2@{place}")),
        options(&format!("ws://me:hunter2@{place}/a?token=hunter2")).websocket_header("Authorization", "hunter2"),
        options(&format!("wss://me:hunter2@{place}/a?token=hunter2")),
        options(&format!("mqtts://me:hunter2@{place}")),
        options(&format!("mqtts://me:hunter2@{place}")).ca_pem("hunter2"),
        options(&format!("mqtts://me:hunter2@{place}")).cert_pem("hunter2").key_pem("hunter2"),
        options("mqtt://me:hunter2@host.invalid"),
        options(&format!("unix:/nowhere/{}", place.port())).credentials("me", "hunter2"),
        by_setter().connector(|_| async { Err::<DuplexStream, _>("no tunnel".into()) }),
        by_setter().client_id("a\0"),
    ];
    for options in failing {
        texts.push(show(&options));
        let answering = async {
            loop {
                let Ok(mut peer) = server.try_accept().await else { return };
                peer.try_send_raw(b"HTTP/1.1 407 no\r\nLocation: /?hunter2\r\n\r\n").await;
                peer.finish().await;
            }
        };
        let error = tokio::select! {
            connected = within(LIMIT, "a failure", options.connect()) => connected.unwrap_err(),
            () = answering => unreachable!(),
        };
        texts.push(said(&error));
    }
    for url in ["x://me:hunter2@h", "mqtt://me:hunter2@h:x", "mqtt://me:hunter2@h?hunter=2", "ws://me:hunter2@h#a"] {
        texts.push(said(&Agent::builder(url).unwrap_err()));
    }

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for said in ["connected", "the connection was lost", "cannot connect"] {
        assert!(log.contains(said), "the log is not that of the agent: {log}");
    }
    texts.push(log);
    // In the forms in which it goes over the wire too.
    for secret in ["hunter2", "bWU6aHVudGVyMg", "104, 117, 110, 116, 101, 114, 50"] {
        for text in &texts {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
