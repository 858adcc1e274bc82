//! TLS: who is trusted, who is not, and what is said then.

use std::future::IntoFuture;
use std::sync::Arc;

use mqtt_agent::rustls::crypto::{ring, CryptoProvider};
use mqtt_agent::rustls::pki_types::pem::PemObject;
use mqtt_agent::rustls::pki_types::CertificateDer;
use mqtt_agent::rustls::version::{TLS12, TLS13};
use mqtt_agent::rustls::{ClientConfig, RootCertStore};
use mqtt_agent::{Agent, Error, ErrorKind, Options, State, TlsFailure};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::common::{options, state};
use crate::shared::{alone, echo};
use crate::support::{
    file, mosquitto_or_skip, self_signed, within, Authority, EmbeddedBroker, Front, Identity, KeyForm, Mosquitto,
    MosquittoConfig, Peer, Proxy, Scripted, TlsSide, LIMIT,
};

#[tokio::test]
async fn a_message_comes_back_through_both_versions_of_tls() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let identity = ca.broker("localhost");
    for (version, name) in [(&TLS12, "TLSv1_2"), (&TLS13, "TLSv1_3")] {
        let versions = Box::leak(Box::new([version]));
        let front = Front::tls(&TlsSide { versions, ..TlsSide::new(&identity) }, broker.addr()).await;
        let url = format!("mqtts://localhost:{}", front.addr().port());
        let agent = options(&url).ca_pem(ca.pem()).connect().await.unwrap();
        echo(&agent).await;
        let shaken = &front.shaken()[0];
        assert_eq!((shaken.server_name.as_deref(), shaken.version.as_deref()), (Some("localhost"), Some(name)));
        assert_eq!(shaken.alpn, None);
        let connected = agent.state().borrow().clone();
        let State::Connected { endpoint, .. } = connected else { panic!("{connected:?}") };
        assert_eq!(endpoint.to_string(), url);
    }
}

/// TLS keeps what the stream below does not take at once; it must not stay there.
#[tokio::test]
async fn a_message_that_fills_a_narrow_stream_many_times_arrives_whole() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let acceptor = TlsAcceptor::from(TlsSide::new(&ca.broker("broker")).config());
    let addr = broker.addr();
    let narrow = options("mqtts://broker").ca_pem(ca.pem()).connector(move |_| {
        let acceptor = acceptor.clone();
        async move {
            let (near, far) = tokio::io::duplex(512);
            tokio::spawn(async move {
                let mut far = acceptor.accept(far).await.unwrap();
                let mut broker = TcpStream::connect(addr).await.unwrap();
                tokio::io::copy_bidirectional(&mut far, &mut broker).await.ok();
            });
            Ok(near)
        }
    });
    let agent = narrow.connect().await.unwrap();
    within(LIMIT, "the acknowledgement", agent.publish("a", vec![b'x'; 40_000]).into_future()).await.unwrap();
}

#[tokio::test]
async fn a_server_name_and_protocols_are_what_the_options_say() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let identity = ca.broker("broker.example");
    let front = Front::tls(&TlsSide { alpn: &["mqtt"], ..TlsSide::new(&identity) }, broker.addr()).await;
    let named = options(&front.url("mqtts")).ca_pem(ca.pem()).server_name("broker.example").alpn(["h2", "mqtt"]);
    echo(&named.connect().await.unwrap()).await;
    let shaken = &front.shaken()[0];
    assert_eq!((shaken.server_name.as_deref(), shaken.alpn.as_deref()), (Some("broker.example"), Some("mqtt")));
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_of_the_first() {
    let (front, ca, _broker) = front_with_broker().await;
    let line = Proxy::start(front.addr()).await;
    let ca_file = file(ca.pem());
    let url = format!("mqtts://{}", line.addr());
    let agent = options(&url).ca_file(ca_file.path()).connect().await.unwrap();
    echo(&agent).await;
    line.cut().await;
    state(&agent, "the loss", |state| !state.is_connected()).await;
    state(&agent, "a connection", State::is_connected).await;
    echo(&agent).await;
    let resumed: Vec<_> = front.shaken().iter().map(|shaken| shaken.resumed).collect();
    assert_eq!(resumed, [false, true]);
}

#[tokio::test]
async fn a_file_is_read_anew_for_each_connection() {
    let (front, ca, _broker) = front_with_broker().await;
    let ca_file = file(Authority::new("another").pem());
    let agent = options(&front.url("mqtts")).ca_file(ca_file.path()).connect_lazy().unwrap();
    let refused = |state: &State| matches!(state, State::Disconnected { reason, .. } if failure(reason).is_some());
    state(&agent, "a refusal", refused).await;
    std::fs::write(ca_file.path(), ca.pem()).unwrap();
    state(&agent, "a connection", State::is_connected).await;
}

#[tokio::test]
async fn two_crypto_providers_in_one_process_are_no_matter() {
    // The tests link both, so rustls by itself could not tell which to take, and would panic.
    assert!(CryptoProvider::get_default().is_none());
    let (front, ca, _broker) = front_with_broker().await;
    echo(&options(&front.url("mqtts")).ca_pem(ca.pem()).connect().await.unwrap()).await;
    let provider = Arc::new(ring::default_provider());
    echo(&options(&front.url("mqtts")).ca_pem(ca.pem()).crypto_provider(provider).connect().await.unwrap()).await;
    assert!(CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn a_configuration_of_ones_own_is_used_as_it_is() {
    let (front, ca, _broker) = front_with_broker().await;
    let config = |trusted: &Authority| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS12]).unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    echo(&options(&front.url("mqtts")).tls_config(config(&ca)).connect().await.unwrap()).await;
    assert_eq!(front.shaken()[0].version.as_deref(), Some("TLSv1_2"));
    let another = options(&front.url("mqtts")).tls_config(config(&Authority::new("another")));
    assert_eq!(refusal(another).await, TlsFailure::UnknownAuthority);
}

#[tokio::test]
async fn what_is_wrong_with_a_brokers_certificate_is_told_and_dangerously_passed_over() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let cases = [
        (ca.broker_between("127.0.0.1", 2000, 2001), TlsFailure::Expired),
        (ca.broker_between("127.0.0.1", 2900, 2901), TlsFailure::NotValidYet),
        (ca.broker("another.example"), TlsFailure::WrongName),
        (ca.broker("127.0.0.2"), TlsFailure::WrongName),
        (Authority::new("another").broker("127.0.0.1"), TlsFailure::UnknownAuthority),
        (self_signed("127.0.0.1"), TlsFailure::UnknownAuthority),
    ];
    for (identity, expected) in cases {
        let front = Front::tls(&TlsSide::new(&identity), broker.addr()).await;
        let trusting = options(&front.url("mqtts")).ca_pem(ca.pem());
        assert_eq!(refusal(trusting).await, expected);
        // The agent behind it goes on trying.
        let agent = options(&front.url("mqtts")).ca_pem(ca.pem()).connect_lazy().unwrap();
        let told =
            |state: &State| matches!(state, State::Disconnected { reason, .. } if failure(reason) == Some(expected));
        state(&agent, "the refusal in the state", told).await;
        assert_eq!(front.shaken().len(), 0);
        let dangerous = options(&front.url("mqtts")).danger_accept_invalid_certs(true);
        echo(&dangerous.connect().await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_accepted_by_those_who_know_it() {
    let (broker, identity) = (EmbeddedBroker::start().await, self_signed("127.0.0.1"));
    let front = Front::tls(&TlsSide::new(&identity), broker.addr()).await;
    echo(&options(&front.url("mqtts")).ca_pem(identity.cert.as_str()).connect().await.unwrap()).await;
    assert_eq!(refusal(options(&front.url("mqtts"))).await, TlsFailure::UnknownAuthority);
}

#[tokio::test]
async fn a_client_shows_its_certificate_with_a_key_in_any_form() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let identity = ca.broker("127.0.0.1");
    let front = Front::tls(&TlsSide { clients: Some(&ca), ..TlsSide::new(&identity) }, broker.addr()).await;
    for form in [KeyForm::Pkcs8, KeyForm::Pkcs1, KeyForm::Sec1] {
        let client = ca.client_with("me", form);
        let (cert, key) = (file(&client.cert), file(&client.key));
        let by_file = options(&front.url("mqtts")).ca_pem(ca.pem()).cert_file(cert.path()).key_file(key.path());
        echo(&by_file.connect().await.unwrap_or_else(|error| panic!("{form:?}: {error:?}"))).await;
    }
}

#[tokio::test]
async fn a_client_without_the_certificate_that_is_asked_for_is_told_so() {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let identity = ca.broker("127.0.0.1");
    let stranger = Authority::new("another").client("stranger");
    for version in [&TLS12, &TLS13] {
        let versions = Box::leak(Box::new([version]));
        let side = TlsSide { clients: Some(&ca), versions, ..TlsSide::new(&identity) };
        let front = Front::tls(&side, broker.addr()).await;
        let trusting = || options(&front.url("mqtts")).ca_pem(ca.pem());
        assert_eq!(refusal(trusting()).await, TlsFailure::ClientCertificateRequired, "{version:?}");
        let with_another = trusting().cert_pem(stranger.cert.as_str()).key_pem(stranger.key.as_str());
        assert_eq!(refusal(with_another).await, TlsFailure::ClientCertificateRefused, "{version:?}");
    }
}

#[tokio::test]
async fn mosquitto_is_spoken_to_by_those_who_show_their_certificate() {
    let ca = Authority::new("ca");
    let Some(broker) = mosquitto(&ca, &["require_certificate true", "use_identity_as_username true"]).await else {
        return;
    };
    let client = ca.client("me");
    let trusting = || options(&format!("mqtts://{}", broker.0.addr())).ca_pem(ca.pem());
    let agent = trusting().cert_pem(client.cert.as_str()).key_pem(client.key.as_str()).connect().await.unwrap();
    echo(&agent).await;
    assert!(broker.0.log().contains("u'me'"), "{}", broker.0.log());
    assert_eq!(refusal(trusting()).await, TlsFailure::ClientCertificateRequired);
    let stranger = Authority::new("another").client("stranger");
    let refused = trusting().cert_pem(stranger.cert.as_str()).key_pem(stranger.key.as_str());
    assert_eq!(refusal(refused).await, TlsFailure::ClientCertificateRefused);
}

#[tokio::test]
async fn mosquitto_with_passwords_and_rules_is_spoken_to_over_tls() {
    let ca = Authority::new("ca");
    let rules = file("user me\ntopic readwrite open/#\ntopic read closed/#\n");
    let rules_line = format!("acl_file {}", rules.path().display());
    let login = Some(("me".to_owned(), "hunter2".to_owned()));
    let Some(broker) = mosquitto_with(&ca, login, &[rules_line.as_str()]).await else { return };
    let url = format!("mqtts://me:hunter2@{}", broker.0.addr());
    let agent = options(&url).ca_pem(ca.pem()).connect().await.unwrap();
    let mut stream = agent.subscribe(["open/a", "closed/a"]).await.unwrap();
    // [MQTT-3.3.5-2]: acknowledged and thrown away.
    agent.publish("closed/a", "x").await.unwrap();
    agent.publish("open/a", "y").await.unwrap();
    let message = within(LIMIT, "the allowed one", stream.recv()).await.unwrap().unwrap();
    assert_eq!((message.topic().as_str(), message.text().unwrap()), ("open/a", "y"));
    let wrong = options(&url).credentials("me", "hunter3").ca_pem(ca.pem()).connect().await.unwrap_err();
    assert!(matches!(wrong.kind(), ErrorKind::Refused(_)), "{wrong:?}");
}

#[tokio::test]
async fn tls_to_a_plain_port_is_told() {
    let broker = EmbeddedBroker::start().await;
    let failure = refusal(options(&format!("mqtts://{}", broker.addr()))).await;
    assert!(matches!(failure, TlsFailure::HungUp | TlsFailure::NotTls), "{failure:?}");
    if let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await {
        let failure = refusal(options(&format!("mqtts://{}", broker.addr()))).await;
        assert!(matches!(failure, TlsFailure::HungUp | TlsFailure::NotTls), "{failure:?}");
    }
    for answer in [&b"\x20\x02\x00\x00"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n"] {
        assert_eq!(answered(answer).await, TlsFailure::NotTls, "{answer:?}");
    }
}

#[tokio::test]
async fn plain_to_a_tls_port_is_told() {
    let (front, ca, _broker) = front_with_broker().await;
    assert_eq!(refusal(options(&front.url("mqtt"))).await, TlsFailure::Required);
    let Some(broker) = mosquitto(&ca, &[]).await else { return };
    let error = within(LIMIT, "a refusal", options(&broker.0.url()).connect()).await.unwrap_err();
    // OpenSSL does not always send an alert to those who do not speak TLS.
    let told = failure(&error) == Some(TlsFailure::Required) || error.to_string().contains("a port for TLS");
    assert!(told, "{error:?}");
}

#[tokio::test]
async fn an_older_protocol_is_refused() {
    // ServerHello: version 3.2, which is TLS 1.1, a random, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
    let hello = [&[2, 0, 0, 38, 3, 2][..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let record = [&[22, 3, 2, 0, hello.len() as u8][..], &hello].concat();
    assert_eq!(answered(&record).await, TlsFailure::Version);
    // The alert of a server that knows no version in common.
    assert_eq!(answered(&[21, 3, 1, 0, 2, 2, 70]).await, TlsFailure::Version);
}

#[tokio::test]
async fn tls_that_fails_is_never_replaced_by_plain_mqtt() {
    let server = Scripted::listen().await;
    let agent = options(&format!("mqtts://{}", server.addr())).credentials("me", "hunter2").connect_lazy().unwrap();
    for _ in 0..3 {
        let mut peer = server.accept().await;
        // A handshake record with a ClientHello, and nothing after it.
        let start = peer.recv_raw(6).await;
        assert_eq!((start[0], start[5]), (22, 1));
        peer.recv_raw(usize::from(u16::from_be_bytes([start[3], start[4]])) - 1).await;
        peer.send_raw(&[21, 3, 1, 0, 2, 2, 40]).await;
        assert_eq!(peer.closed().await, []);
    }
    state(
        &agent,
        "the refusal",
        |state| matches!(state, State::Disconnected { reason, .. } if failure(reason) == Some(TlsFailure::Refused)),
    )
    .await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let ca = Authority::new("ca");
    let (client, other) = (ca.client("me"), ca.client("other"));
    let key = file(&client.key);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let with = |options: Options| options.ca_pem(ca.pem()).cert_pem(client.cert.as_str());
    let server = Scripted::listen().await;
    let base = || options(&format!("mqtts://{}", server.addr()));
    for (broken, named) in [
        (base().ca_file("/nowhere/ca.pem"), "ca_file /nowhere/ca.pem"),
        (base().ca_file(key.path()), "no certificate"),
        (base().ca_pem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"), "ca_pem"),
        (base().ca_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"), "ca_pem"),
        (with(base()).key_file("/nowhere/key.pem"), "key_file /nowhere/key.pem"),
        (with(base()).key_pem(encrypted), "encrypted"),
        (with(base()).key_pem(other.key.as_str()), "does not fit"),
    ] {
        let error = within(LIMIT, named, broken.connect()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{error:?}");
        assert!(error.to_string().contains(named), "{named}: {error:?}");
        let debug = format!("{error:?}");
        assert!(!debug.contains(client.key.lines().nth(1).unwrap()), "{debug}");
    }
}

/// What a platform trusts is read from the environment, so each case has a process of its own.
#[test]
fn the_platforms_certificates_are_trusted_by_default_and_may_be_none() {
    let ca = Authority::new("ca");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(EmbeddedBroker::start());
    let front = runtime.block_on(Front::tls(&TlsSide::new(&ca.broker("127.0.0.1")), broker.addr()));
    let (trusted, empty) = (file(ca.pem()), file(""));
    let child = |certificates: &std::path::Path| {
        let output = alone("tls::child_of_the_platform")
            .env("SSL_CERT_FILE", certificates)
            .env_remove("SSL_CERT_DIR")
            .env("CHILD_URL", front.url("mqtts"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let output = child(trusted.path());
    assert!(output.contains("child: connected"), "{output}");
    for without in [empty.path(), std::path::Path::new("/nowhere/ca.pem")] {
        let output = child(without);
        assert!(output.contains("child: Tls(NoRoots)"), "{output}");
    }
}

#[tokio::test]
#[ignore = "a part of another test"]
async fn child_of_the_platform() {
    match Agent::connect(std::env::var("CHILD_URL").unwrap()).await {
        Ok(_) => println!("child: connected"),
        Err(error) => println!("child: {:?}", error.kind()),
    }
}

/// A front in TLS that is trusted by those who trust the authority.
async fn front_with_broker() -> (Front, Authority, EmbeddedBroker) {
    let (broker, ca) = (EmbeddedBroker::start().await, Authority::new("ca"));
    let front = Front::tls(&TlsSide::new(&ca.broker("127.0.0.1")), broker.addr()).await;
    (front, ca, broker)
}

/// Mosquitto with a certificate for its address, and the files it needs.
async fn mosquitto(ca: &Authority, lines: &[&str]) -> Option<(Mosquitto, [tempfile::NamedTempFile; 3])> {
    mosquitto_with(ca, None, lines).await
}

async fn mosquitto_with(
    ca: &Authority,
    login: Option<(String, String)>,
    lines: &[&str],
) -> Option<(Mosquitto, [tempfile::NamedTempFile; 3])> {
    let Identity { cert, key } = ca.broker("127.0.0.1");
    let files = [file(ca.pem()), file(&cert), file(&key)];
    let names = ["cafile", "certfile", "keyfile"];
    let mut listener: Vec<_> =
        names.iter().zip(&files).map(|(name, file)| format!("{name} {}", file.path().display())).collect();
    listener.extend(lines.iter().map(ToString::to_string));
    let broker = mosquitto_or_skip(MosquittoConfig { login, listener, ..MosquittoConfig::default() }).await?;
    Some((broker, files))
}

/// The failure of an agent that wants TLS of a peer which answers so.
async fn answered(bytes: &[u8]) -> TlsFailure {
    let server = Scripted::listen().await;
    let connecting = options(&format!("mqtts://{}", server.addr())).ca_pem(Authority::new("ca").pem()).connect();
    let (error, _peer) = tokio::join!(connecting, async {
        let mut peer: Peer = server.accept().await;
        peer.recv_raw(5).await;
        peer.send_raw(bytes).await;
        peer
    });
    let error = error.unwrap_err();
    failure(&error).unwrap_or_else(|| panic!("{error:?}"))
}

async fn refusal(options: Options) -> TlsFailure {
    let error = within(LIMIT, "a refusal", options.connect()).await.unwrap_err();
    assert!(error.to_string().len() > 30, "{error}");
    failure(&error).unwrap_or_else(|| panic!("{error:?}"))
}

fn failure(error: &Error) -> Option<TlsFailure> {
    match error.kind() {
        ErrorKind::Tls(failure) => Some(failure),
        _ => None,
    }
}
