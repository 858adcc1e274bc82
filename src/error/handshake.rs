//! Why a handshake below MQTT failed.

use std::fmt;

/// Why there is no TLS connection. Its text says what to do.
///
/// ```no_run
/// # async fn example() {
/// use mqtt_agent::{Agent, ErrorKind, TlsFailure};
///
/// match Agent::connect("mqtts://localhost").await {
///     Err(error) if error.kind() == ErrorKind::Tls(TlsFailure::Expired) => eprintln!("call who renews it: {error}"),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// No authority that is trusted has signed the broker's certificate, or it has signed itself.
    UnknownAuthority,
    /// The broker's certificate has expired.
    Expired,
    /// The broker's certificate is not valid yet.
    NotValidYet,
    /// The broker's certificate is for another name.
    WrongName,
    /// There is something else wrong with the broker's certificate; the error's source tells.
    BadCertificate,
    /// The broker wants a certificate of the client, and was given none.
    ClientCertificateRequired,
    /// The broker does not accept the client's certificate.
    ClientCertificateRefused,
    /// The broker has ended the handshake without saying why: some do for want of a client's certificate, or of a
    /// common cipher suite.
    Refused,
    /// The broker speaks neither TLS 1.2 nor 1.3.
    Version,
    /// The peer answers, but not in TLS.
    NotTls,
    /// The peer closed the connection in the middle of the handshake, as a broker does that expects plain MQTT.
    HungUp,
    /// The peer speaks TLS, and was spoken to in plain MQTT.
    Required,
    /// The platform trusts no certificates at all.
    NoRoots,
    /// There is no crypto provider, or none that can be used.
    NoProvider,
    /// Anything else; the error's source tells.
    Other,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAuthority => {
                "the broker's certificate is signed by an unknown authority or by itself: if it is the right one, name \
                 the certificate of its authority by ca_file"
            }
            Self::Expired => "the broker's certificate has expired: renew it, or set the clock of this machine",
            Self::NotValidYet => "the broker's certificate is not valid yet: is the clock of this machine right?",
            Self::WrongName => {
                "the broker's certificate is for another name: connect to that name, or give it by server_name"
            }
            Self::BadCertificate => "the broker's certificate cannot be accepted: the error's source says why",
            Self::ClientCertificateRequired => {
                "the broker wants a client certificate: give one by cert_file and key_file"
            }
            Self::ClientCertificateRefused => {
                "the broker does not accept this client's certificate: is it still valid, and signed by an authority that \
                 the broker knows?"
            }
            Self::Refused => {
                "the broker refused the handshake: it may want a client certificate (cert_file and key_file), or share \
                 no cipher suite"
            }
            Self::Version => "the broker speaks neither TLS 1.2 nor TLS 1.3, and nothing else is safe: it needs an update",
            Self::NotTls => "the answer is not TLS: is this a port for plain connections (mqtt, ws)?",
            Self::HungUp => {
                "the peer closed the connection in the handshake: is this a port for plain connections (mqtt, ws)?"
            }
            Self::Required => "this port speaks TLS: use mqtts or wss",
            Self::NoRoots => "the platform trusts no certificates: install them (ca-certificates), or name the broker's ca_file",
            Self::NoProvider => "there is no crypto provider: enable the feature tls or tls-ring, or give one by crypto_provider",
            Self::Other => "the handshake failed: the error's source says why",
        })
    }
}

/// Why there is no WebSocket connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WebSocketFailure {
    /// The server answered with this HTTP status instead of 101. A redirect is not followed; the error's text names the
    /// place.
    Status(u16),
    /// The server did not choose the subprotocol `mqtt` (MQTT-6.0.0-4).
    Subprotocol,
    /// The answer is no WebSocket handshake; the error's source tells.
    Handshake,
}
