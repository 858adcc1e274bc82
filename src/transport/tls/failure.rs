//! What rustls reports, as a kind to match on and a sentence that says what to do.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as RustlsError, PeerIncompatible};

use super::rustls_error;
use crate::error::TlsFailure;
use crate::transport::Endpoint;
use crate::Error;

pub(super) fn failure_of_handshake(endpoint: &Endpoint, source: io::Error) -> Error {
    let failure = match rustls_error(&source) {
        Some(error) => classify(error),
        // The stream below has ended, one way or another.
        None => TlsFailure::HungUp,
    };
    Error::tls(failure, format!("no TLS with {endpoint}: {failure}")).with_source(source)
}

/// A failure of TLS on a connection that was made, or the error as it was.
pub(crate) fn failure_of_stream(source: io::Error) -> Result<Error, io::Error> {
    let Some(error) = rustls_error(&source) else { return Err(source) };
    let failure = classify(error);
    Ok(Error::tls(failure, format!("the TLS connection to the broker was lost: {failure}")).with_source(source))
}

fn classify(error: &RustlsError) -> TlsFailure {
    match error {
        RustlsError::InvalidCertificate(error) => classify_certificate(error),
        RustlsError::AlertReceived(alert) => classify_alert(*alert),
        RustlsError::InvalidMessage(_) => TlsFailure::NotTls,
        RustlsError::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => TlsFailure::Version,
        _ => TlsFailure::Other,
    }
}

fn classify_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::UnknownIssuer => TlsFailure::UnknownAuthority,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFailure::NotValidYet,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsFailure::WrongName,
        _ => TlsFailure::BadCertificate,
    }
}

fn classify_alert(alert: AlertDescription) -> TlsFailure {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            TlsFailure::ClientCertificateRequired
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => TlsFailure::ClientCertificateRefused,
        AlertDescription::ProtocolVersion => TlsFailure::Version,
        AlertDescription::HandshakeFailure => TlsFailure::Refused,
        _ => TlsFailure::Other,
    }
}
