//! Whom to trust, and how to show who this client is.

use std::path::PathBuf;

use super::Options;
use crate::transport::Pem;

#[cfg(feature = "tls-no-provider")]
use std::sync::Arc;
#[cfg(feature = "tls-no-provider")]
use tokio_rustls::rustls::{crypto::CryptoProvider, ClientConfig};

/// TLS, for `mqtts` and `wss`. The broker's certificate is always checked, chain and name. With anything but such an
/// endpoint each of these is an error. Files are read anew for each connection, so renewed ones are used from then on; one
/// that cannot be read or used is an [`InvalidOptions`](crate::ErrorKind::InvalidOptions) error of that attempt.
impl Options {
    /// A file in PEM with the certificates of the authorities to trust, instead of those that the platform trusts; also
    /// for a broker's certificate that has signed itself. May be called again for more. Default: none.
    ///
    /// ```
    /// # fn main() -> Result<(), mqtt_agent::Error> {
    /// let options = mqtt_agent::Options::from_url("mqtts://localhost")?
    ///     .ca_file("/etc/mqtt/ca.pem")
    ///     .cert_file("/etc/mqtt/web-1.pem") // where the broker wants to know who comes
    ///     .key_file("/etc/mqtt/web-1.key");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport.tls.ca.push(Pem::File(path.into()));
        self
    }

    /// The same, with the text at hand.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.transport.tls.ca.push(Pem::Text(pem.into()));
        self
    }

    /// A file in PEM with the client's certificate, and those of the authorities between it and one that the broker
    /// knows. Needs a [`key_file`](Self::key_file). Default: none.
    #[must_use]
    pub fn cert_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport.tls.cert = Some(Pem::File(path.into()));
        self
    }

    /// The same, with the text at hand.
    #[must_use]
    pub fn cert_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.transport.tls.cert = Some(Pem::Text(pem.into()));
        self
    }

    /// A file in PEM with the key of the client's certificate: PKCS#8, PKCS#1 or SEC1, not encrypted. Default: none.
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.transport.tls.key = Some(Pem::File(path.into()));
        self
    }

    /// The same, with the text at hand.
    #[must_use]
    pub fn key_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.transport.tls.key = Some(Pem::Text(pem.into()));
        self
    }

    /// The name that is asked for (SNI) and that the broker's certificate must be for. Default: the host of the URL.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.transport.tls.server_name = Some(name.into());
        self
    }

    /// The protocols to offer by ALPN, such as `x-amzn-mqtt-ca` for AWS IoT at port 443. Default: none.
    #[must_use]
    pub fn alpn<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.transport.tls.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether to talk to whoever answers, whatever certificate it shows. **Dangerous**: anybody on the way can then read
    /// the password and every message, and change them. For a broker that has signed its own certificate, give that as a
    /// [`ca_file`](Self::ca_file) instead. Default: false.
    #[must_use]
    pub fn danger_accept_invalid_certs(mut self, accept: bool) -> Self {
        self.transport.tls.accept_invalid_certs = accept;
        self
    }

    /// A configuration of one's own, which is used as it is; [`rustls`](crate::rustls) is re-exported for it. Together
    /// with an option that would be a part of it, such as [`ca_file`](Self::ca_file), it is an error when the agent is
    /// made. Default: made from the options here, with TLS 1.2 and 1.3 and the resumption of sessions.
    #[cfg(feature = "tls-no-provider")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls", feature = "tls-ring", feature = "tls-no-provider"))))]
    #[must_use]
    pub fn tls_config(mut self, config: Arc<ClientConfig>) -> Self {
        self.transport.tls.config = Some(config);
        self
    }

    /// The cryptography that TLS uses. Default: what the program has installed for the whole process, else aws-lc-rs
    /// (feature `tls`), else ring (feature `tls-ring`). With `tls-no-provider` alone there is no other than these two
    /// ways to choose one.
    #[cfg(feature = "tls-no-provider")]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "tls", feature = "tls-ring", feature = "tls-no-provider"))))]
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.transport.tls.provider = Some(provider);
        self
    }
}
