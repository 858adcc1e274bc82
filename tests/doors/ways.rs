//! Other ways to a broker: sockets in the file system, proxies, streams of one's own, and several brokers.

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use futures::future::join_all;
use mqtt_agent::{Error, ErrorKind, Options, Refusal, Scheme, State};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use tokio::io::{AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use crate::common::{give_up, options, refusing_address, state};
use crate::shared::{echo, over_duplex};
use crate::support::{
    millis, mosquitto_or_skip, secs, within, Authority, EmbeddedBroker, Front, MosquittoConfig, Peer, Scripted,
    TlsSide, LIMIT,
};

/// Small ones are copied into one write, large ones are parts of it, where the way takes a write in parts.
#[tokio::test]
async fn payloads_of_any_size_arrive_whole_and_in_order_by_every_way() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let addr = broker.addr();
    let tls = Front::tls(&TlsSide::new(&ca.broker("127.0.0.1")), addr).await;
    let websocket = Front::websocket(5_000, addr).await;
    let narrow = |width| options("mqtt://broker").connector(move |_| tunnel(width, addr));
    let ways = [
        ("tcp", options(&format!("mqtt://{addr}"))),
        ("tls", options(&tls.url("mqtts")).ca_pem(ca.pem())),
        ("websocket", options(&websocket.url("ws"))),
        ("narrow", narrow(97)),
        ("narrower", narrow(1)),
    ];
    for (way, options) in ways {
        let agent = options.connect().await.unwrap();
        let topic = format!("sizes/{way}");
        let mut stream = agent.subscribe(&topic).await.unwrap();
        let payloads = [4_096, 3, 0, 4_095, 4_097, 9_000, 20, 70_000, 5_000, 1].map(|size: usize| {
            let bytes = (0..size).map(|at| (at * 31 + size) as u8);
            bytes.collect::<Vec<_>>()
        });
        let published = payloads.iter().map(|payload| agent.publish(&topic, payload.clone()).into_future());
        let published = within(LIMIT, "all acknowledgements", join_all(published)).await;
        assert!(published.iter().all(Result::is_ok), "{way}: {published:?}");
        for payload in &payloads {
            let message = within(LIMIT, "the echo", stream.recv()).await.unwrap().unwrap();
            assert!(message.payload() == payload, "{way}: {} instead of {}", message.payload().len(), payload.len());
        }
    }
}

/// A way that takes so many bytes at a time.
async fn tunnel(width: usize, broker: SocketAddr) -> Result<DuplexStream, Box<dyn std::error::Error + Send + Sync>> {
    let (near, mut far) = tokio::io::duplex(width);
    assert!(near.is_write_vectored());
    let mut broker = TcpStream::connect(broker).await?;
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut broker).await });
    Ok(near)
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_in_the_file_system_leads_to_mosquitto() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mosquitto.sock");
    let url = format!("unix:{}", path.display());
    let missing = options(&url).connect().await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Connection);
    assert!(missing.to_string().contains(&url), "{missing}");
    let lines = vec![format!("listener 0 {}", path.display()), "allow_anonymous true".to_owned()];
    let Some(_broker) = mosquitto_or_skip(MosquittoConfig { lines, ..MosquittoConfig::default() }).await else {
        return;
    };
    let agent = options(&format!("unix://{}?client_id=me", path.display())).connect().await.unwrap();
    echo(&agent).await;
    assert!(matches!(&*agent.state().borrow(), State::Connected { endpoint, .. } if endpoint.to_string() == url));
}

#[tokio::test(start_paused = true)]
async fn a_connector_makes_the_streams_and_a_silent_one_is_found_by_the_clock() {
    let (options, mut connections) = over_duplex(Options::new("nowhere.example").port(7).keep_alive(secs(10)));
    let agent = options.reconnect(|_: &_| Some(secs(60))).connect_lazy().unwrap();
    let (endpoint, far) = connections.recv().await.unwrap();
    assert_eq!((endpoint.scheme(), endpoint.host(), endpoint.port()), (Scheme::Mqtt, "nowhere.example", Some(7)));
    let mut peer = Peer::new(far);
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::Success, false).await;
    state(&agent, "a connection", State::is_connected).await;
    let connected = tokio::time::Instant::now();
    peer.expect_ping().await;
    let lost = state(&agent, "the loss", |state| !state.is_connected()).await;
    assert!(connected.elapsed() <= secs(16), "{:?}", connected.elapsed());
    assert!(matches!(lost, State::Disconnected { .. }), "{lost:?}");
    let (_, far) = connections.recv().await.unwrap();
    assert!(connected.elapsed() >= secs(60));
    let mut peer = Peer::new(far);
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::Success, false).await;
    state(&agent, "a connection", State::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_fails_or_hangs_is_a_failed_attempt() {
    let calls = Arc::new(AtomicUsize::new(0));
    let with_calls = calls.clone();
    let failing = Options::new("broker").reconnect(|_: &_| Some(millis(10))).connector(move |_| {
        let call = with_calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err("no tunnel today".into()),
                _ => std::future::pending::<Result<DuplexStream, _>>().await,
            }
        }
    });
    let agent = failing.connect_lazy().unwrap();
    for (kind, cause) in [(ErrorKind::Connection, "no tunnel today"), (ErrorKind::Timeout, "")] {
        let failed = state(
            &agent,
            "a failure",
            |state| matches!(state, State::Disconnected { reason, .. } if reason.kind() == kind),
        );
        let State::Disconnected { reason, .. } = failed.await else { unreachable!() };
        let source = std::error::Error::source(&reason).map(ToString::to_string).unwrap_or_default();
        assert_eq!(source, cause);
    }
    assert!(calls.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn the_first_broker_that_accepts_is_connected_to() {
    let (_port, refusing) = refusing_address();
    let (full, broker) = (Scripted::listen().await, EmbeddedBroker::start().await);
    let options = options(&format!("mqtt://{refusing}")).failover([full.url(), broker.url()]);
    let (agent, ()) = tokio::join!(options.connect(), async {
        let mut peer = full.accept().await;
        peer.expect_connect().await;
        peer.connack(ConnectReturnCode::ServiceUnavailable, false).await;
    });
    let agent = agent.unwrap();
    assert!(
        matches!(&*agent.state().borrow(), State::Connected { endpoint, .. } if endpoint.to_string() == broker.url())
    );
    echo(&agent).await;
}

#[tokio::test]
async fn when_no_broker_accepts_the_error_is_that_of_the_last_and_the_policy_is_asked_once() {
    let (_port, refusing) = refusing_address();
    let last = Scripted::listen().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let with_asked = asked.clone();
    let agent = options(&format!("mqtt://{refusing}"))
        .failover([format!("mqtt://{refusing}"), last.url()])
        .reconnect(move |_: &_| (with_asked.fetch_add(1, Ordering::SeqCst) < 1).then_some(millis(10)))
        .connect_lazy()
        .unwrap();
    for _ in 0..2 {
        let mut peer = last.accept().await;
        peer.expect_connect().await;
        peer.connack(ConnectReturnCode::NotAuthorized, false).await;
    }
    let closed = state(&agent, "the end", State::is_closed).await;
    let expected = ErrorKind::Refused(Refusal::NotAuthorized);
    assert!(matches!(closed, State::Closed { reason: Some(reason), .. } if reason.kind() == expected));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_broker_whose_connections_die_young_is_left_for_the_next() {
    let (first, second) = (Scripted::listen().await, Scripted::listen().await);
    let agent = options(&first.url()).failover([second.url()]).connect_lazy().unwrap();
    for server in [&first, &second, &first] {
        let (mut peer, _) = server.accept_session(false).await;
        let is_there =
            |state: &State| matches!(state, State::Connected { endpoint, .. } if endpoint.to_string() == server.url());
        state(&agent, "a connection", is_there).await;
        peer.finish().await;
    }
}

#[tokio::test]
async fn brokers_are_tried_in_an_order_of_chance_where_that_is_asked_for() {
    let servers = [Scripted::listen().await, Scripted::listen().await, Scripted::listen().await];
    let mut firsts = std::collections::HashSet::new();
    // The chance that one is never the first of 60 is under one in ten billion.
    for _ in 0..60 {
        let [a, b, c] = &servers;
        let agent = options(&a.url()).failover([b.url(), c.url()]).shuffle(true).connect_lazy().unwrap();
        let accepting = [a, b, c].map(|server| Box::pin(server.accept()));
        let (_, first, _) = within(LIMIT, "a connection", futures::future::select_all(accepting)).await;
        firsts.insert(first);
        agent.close().await;
    }
    assert_eq!(firsts.len(), 3);
}

mod proxies {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    /// Reads until the end of the headers.
    async fn read_request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(request).unwrap()
    }

    /// Answers one connection by `serve`; the address to dial.
    async fn proxy<F, R, T>(serve: F) -> (String, JoinHandle<T>)
    where
        F: FnOnce(TcpStream) -> R + Send + 'static,
        R: std::future::Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
        (addr.to_string(), task)
    }

    async fn forward(mut stream: TcpStream, to: std::net::SocketAddr) {
        let mut broker = TcpStream::connect(to).await.unwrap();
        tokio::io::copy_bidirectional(&mut stream, &mut broker).await.ok();
    }

    #[tokio::test]
    async fn an_http_proxy_connects_to_the_broker_it_is_told() {
        let broker = EmbeddedBroker::start().await;
        let to = broker.addr();
        let (addr, _task) = proxy(move |mut stream| async move {
            let request = read_request(&mut stream).await;
            let lines: Vec<_> = request.lines().collect();
            assert_eq!(lines[0], "CONNECT broker.example:1883 HTTP/1.1");
            assert_eq!(lines[1], "Host: broker.example:1883");
            assert_eq!(lines[2], "Proxy-Authorization: Basic bWU6aHVudGVyMg==");
            // The answer comes in pieces.
            for part in ["HTTP/1.1 200 Connection es", "tablished\r\nVia: x\r\n", "\r\n"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            forward(stream, to).await;
        })
        .await;
        let url = format!("http://me:hunter2@{addr}");
        let options = options("mqtt://broker.example").proxy(&url);
        assert!(!format!("{options:?}").contains("hunter2"));
        echo(&options.connect().await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_socks_proxy_connects_to_the_broker_it_is_told() {
        let broker = EmbeddedBroker::start().await;
        let to = broker.addr();
        let (addr, _task) = proxy(move |mut stream| async move {
            let mut greeting = [0; 2];
            stream.read_exact(&mut greeting).await.unwrap();
            let mut methods = vec![0; greeting[1].into()];
            stream.read_exact(&mut methods).await.unwrap();
            assert!(methods.contains(&2), "{methods:?}");
            stream.write_all(&[5, 2]).await.unwrap();
            let mut login = [0; 12];
            stream.read_exact(&mut login).await.unwrap();
            assert_eq!(&login, b"\x01\x02me\x07hunter2");
            stream.write_all(&[1, 0]).await.unwrap();
            let mut request = [0; 5 + 14 + 2];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request[..], [&[5, 1, 0, 3, 14][..], b"broker.example", &1883_u16.to_be_bytes()].concat());
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            forward(stream, to).await;
        })
        .await;
        let options = options("mqtt://broker.example").proxy(&format!("socks5://me:hunter2@{addr}"));
        echo(&options.connect().await.unwrap()).await;
    }

    #[tokio::test]
    async fn tls_goes_through_a_proxy_to_the_broker() {
        use crate::support::{Authority, Front, TlsSide};
        let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
        let front = Front::tls(&TlsSide::new(&ca.broker("broker.example")), broker.addr()).await;
        let to = front.addr();
        let (addr, _task) = proxy(move |mut stream| async move {
            assert!(read_request(&mut stream).await.starts_with("CONNECT broker.example:8883 "));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            forward(stream, to).await;
        })
        .await;
        let options = options("mqtts://broker.example").ca_pem(ca.pem()).proxy(&format!("http://{addr}"));
        echo(&options.connect().await.unwrap()).await;
        assert_eq!(front.shaken()[0].server_name.as_deref(), Some("broker.example"));
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_talks_nonsense_is_told() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(40_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(100));
        for (answer, named) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "403"),
            ("HTTP/1.1 302 Found\r\nLocation: x\r\n\r\n", "302"),
            ("HTTP/1.1 200 OK\r\n\r\n\x20\x02\x00\x00", "cannot have sent"),
            ("SSH-2.0-x\r\n", "HTTP"),
            ("HTTP/1.1 200 OK\r\n", "closed"),
            (&endless, "16384"),
            (&many, "HTTP"),
        ] {
            let answer = answer.to_owned();
            let error = refused("http", move |mut stream| async move {
                read_request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.ok();
            })
            .await;
            assert!(error.to_string().contains(named), "{error:?}");
        }
        for answer in [&[5, 0xff][..], &[4, 0], &[5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0], &[5]] {
            let error = refused("socks5", move |mut stream| async move {
                let mut greeting = [0; 3];
                stream.read_exact(&mut greeting).await.unwrap();
                stream.write_all(answer).await.ok();
                stream.shutdown().await.ok();
                stream.read_to_end(&mut Vec::new()).await.ok();
            })
            .await;
            assert!(std::error::Error::source(&error).is_some(), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_never_answers_costs_the_attempt_its_time_only() {
        for scheme in ["http", "socks5"] {
            let (addr, task) = proxy(|mut stream| async move { stream.read_to_end(&mut Vec::new()).await }).await;
            let options = options("mqtt://broker.example").proxy(&format!("{scheme}://{addr}"));
            let error = within(LIMIT, "a timeout", options.connect_timeout(millis(50)).connect()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
            task.await.unwrap().unwrap();
        }
    }

    async fn refused<F, R>(scheme: &str, serve: F) -> Error
    where
        F: FnOnce(TcpStream) -> R + Send + 'static,
        R: std::future::Future<Output = ()> + Send + 'static,
    {
        let (addr, task) = proxy(serve).await;
        let options = options("mqtt://broker.example").reconnect(give_up).proxy(&format!("{scheme}://{addr}"));
        let error = within(LIMIT, "a refusal", options.connect()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Proxy, "{error:?}");
        task.await.unwrap();
        error
    }
}
