//! What speaks TLS or WebSocket in front of something that speaks plain MQTT.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::{SinkExt, StreamExt};
use tokio::io::{copy_bidirectional, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, ALL_VERSIONS};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::Message;

use super::certificates::{Authority, Identity};

/// How a front speaks TLS.
pub struct TlsSide<'a> {
    pub identity: &'a Identity,
    /// Refuses clients without a certificate of this authority.
    pub clients: Option<&'a Authority>,
    pub versions: &'static [&'static SupportedProtocolVersion],
    pub alpn: &'static [&'static str],
}

impl<'a> TlsSide<'a> {
    pub fn new(identity: &'a Identity) -> Self {
        Self { identity, clients: None, versions: ALL_VERSIONS, alpn: &[] }
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(self.versions);
        let builder = builder.expect("usable versions");
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM")).expect("a root");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(self.identity.cert.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(self.identity.key.as_bytes()).expect("PEM");
        let mut config = builder.with_single_cert(chain, key).expect("a usable identity");
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// One handshake that succeeded.
#[derive(Clone, Debug, Default)]
pub struct Shaken {
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    pub version: Option<String>,
    pub resumed: bool,
    /// Of a WebSocket request.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// Ends with all its connections when dropped.
pub struct Front {
    addr: SocketAddr,
    shaken: Arc<Mutex<Vec<Shaken>>>,
    _task: JoinSet<()>,
}

impl Front {
    pub async fn tls(side: &TlsSide<'_>, to: SocketAddr) -> Self {
        let acceptor = TlsAcceptor::from(side.config());
        Self::start(move |stream, shaken| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                shaken.lock().expect("a lock").push(Shaken {
                    server_name: session.server_name().map(str::to_owned),
                    alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
                    version: session.protocol_version().map(|version| format!("{version:?}")),
                    resumed: session.handshake_kind() == Some(tokio_rustls::rustls::HandshakeKind::Resumed),
                    ..Shaken::default()
                });
                let Ok(mut broker) = TcpStream::connect(to).await else { return };
                copy_bidirectional(&mut stream, &mut broker).await.ok();
            }
        })
        .await
    }

    /// Splits what it sends into messages of so many bytes.
    pub async fn websocket(chunk: usize, to: SocketAddr) -> Self {
        Self::start(move |stream, shaken| websocket(stream, shaken, chunk, to)).await
    }

    async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<Mutex<Vec<Shaken>>>) -> R + Send + 'static,
        R: std::future::Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let addr = listener.local_addr().expect("a bound listener");
        let shaken = Arc::new(Mutex::new(Vec::new()));
        let seen = shaken.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a connected socket");
                connections.spawn(serve(stream, seen.clone()));
            }
        });
        Self { addr, shaken, _task: task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    /// The handshakes so far.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.shaken.lock().expect("a lock").clone()
    }
}

async fn websocket(stream: TcpStream, shaken: Arc<Mutex<Vec<Shaken>>>, chunk: usize, to: SocketAddr) {
    #[allow(clippy::result_large_err)] // The callback's type is the library's.
    let callback = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let header = |(name, value): (&tokio_tungstenite::tungstenite::http::HeaderName, &_)| {
            let value: &tokio_tungstenite::tungstenite::http::HeaderValue = value;
            (name.to_string(), value.to_str().unwrap_or_default().to_owned())
        };
        let path = request.uri().to_string();
        let headers = request.headers().iter().map(header).collect();
        shaken.lock().expect("a lock").push(Shaken { path, headers, ..Shaken::default() });
        response.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().expect("a header"));
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, callback).await else { return };
    let Ok(mut broker) = TcpStream::connect(to).await else { return };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if broker.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            read = broker.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                // A ping between the parts of a packet is none of MQTT's business.
                let ping = Message::Ping("x".into());
                let parts = buffer[..count].chunks(chunk).map(|part| Message::Binary(part.to_vec().into()));
                for message in parts.chain([ping]) {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
