//! What the options say of the way to a broker.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls-no-provider")]
use tokio_rustls::rustls::{crypto::CryptoProvider, ClientConfig};

use super::proxy::Proxy;
use super::{Endpoint, Stream};
use crate::Error;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) address_timeout: Duration,
    pub(crate) tls: TlsSettings,
    pub(crate) websocket_headers: Vec<(String, String)>,
    pub(crate) proxy: Option<Result<Proxy, Error>>,
    pub(crate) connector: Option<Connector>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address_timeout: Duration::from_secs(4),
            tls: TlsSettings::default(),
            websocket_headers: Vec::new(),
            proxy: None,
            connector: None,
        }
    }
}

/// Makes the stream below TLS and WebSocket.
pub(crate) type Connector =
    Arc<dyn Fn(Endpoint) -> Pin<Box<dyn Future<Output = Result<Stream, Error>> + Send>> + Send + Sync>;

#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    /// Trusted instead of what the platform trusts.
    pub(crate) ca: Vec<Pem>,
    pub(crate) cert: Option<Pem>,
    pub(crate) key: Option<Pem>,
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Vec<String>,
    pub(crate) accept_invalid_certs: bool,
    #[cfg(feature = "tls-no-provider")]
    pub(crate) provider: Option<Arc<CryptoProvider>>,
    #[cfg(feature = "tls-no-provider")]
    pub(crate) config: Option<Arc<ClientConfig>>,
}

/// Certificates or a key, in a file that is read anew for each connection, or at hand.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

impl TlsSettings {
    /// The options that are set and only mean something to TLS, by the names of their setters.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names = self.names_of_parts();
        if self.has_config() {
            names.push("tls_config");
        }
        if self.server_name.is_some() {
            names.push("server_name");
        }
        names
    }

    /// Those of them that would be part of a configuration.
    pub(crate) fn names_of_parts(&self) -> Vec<&'static str> {
        let name = |pem: Option<&Pem>, file, text| match pem {
            Some(Pem::File(_)) => Some(file),
            Some(Pem::Text(_)) => Some(text),
            None => None,
        };
        let named = [
            name(self.ca.first(), "ca_file", "ca_pem"),
            name(self.cert.as_ref(), "cert_file", "cert_pem"),
            name(self.key.as_ref(), "key_file", "key_pem"),
            Some("alpn").filter(|_| !self.alpn.is_empty()),
            Some("danger_accept_invalid_certs").filter(|_| self.accept_invalid_certs),
            Some("crypto_provider").filter(|_| self.has_provider()),
        ];
        named.into_iter().flatten().collect()
    }

    #[cfg(feature = "tls-no-provider")]
    pub(crate) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    #[cfg(not(feature = "tls-no-provider"))]
    pub(crate) fn has_config(&self) -> bool {
        false
    }

    #[cfg(feature = "tls-no-provider")]
    fn has_provider(&self) -> bool {
        self.provider.is_some()
    }

    #[cfg(not(feature = "tls-no-provider"))]
    fn has_provider(&self) -> bool {
        false
    }
}

/// The names of what is set: values may be keys.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.websocket_headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Settings")
            .field("address_timeout", &self.address_timeout)
            .field("tls", &self.tls.names())
            .field("websocket_headers", &headers)
            .field("proxy", &self.proxy)
            .field("connector", &self.connector.is_some())
            .finish()
    }
}
