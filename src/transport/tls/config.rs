//! From the options to a configuration of rustls.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::WantsClientCert;
use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::TlsFailure;
use crate::transport::settings::{Pem, TlsSettings};
use crate::Error;

/// The texts of certificates and keys. What they are compared with tells whether a file has changed.
#[derive(PartialEq, Eq)]
pub(super) struct Material {
    ca: Vec<(String, Vec<u8>)>,
    cert: Option<(String, Vec<u8>)>,
    key: Option<(String, Vec<u8>)>,
}

impl Material {
    pub(super) fn read(settings: &TlsSettings) -> Result<Self, Error> {
        let one = |name, pem: &Option<Pem>| pem.as_ref().map(|pem| read(name, pem)).transpose();
        Ok(Self {
            ca: settings.ca.iter().map(|pem| read("ca", pem)).collect::<Result<_, _>>()?,
            cert: one("cert", &settings.cert)?,
            key: one("key", &settings.key)?,
        })
    }
}

/// A name for messages, and the text.
fn read(name: &str, pem: &Pem) -> Result<(String, Vec<u8>), Error> {
    match pem {
        Pem::Text(text) => Ok((format!("{name}_pem"), text.clone())),
        Pem::File(path) => {
            let name = format!("{name}_file {}", path.display());
            match std::fs::read(path) {
                Ok(text) => Ok((name, text)),
                Err(source) => Err(Error::invalid_options(format!("{name} cannot be read")).with_source(source)),
            }
        }
    }
}

pub(super) fn build(settings: &TlsSettings, material: &Material) -> Result<ClientConfig, Error> {
    let provider = provider(settings, of_feature)?;
    // Never `ClientConfig::builder()`: it panics where two crates have switched on a provider each.
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(
        |source| {
            Error::tls(TlsFailure::NoProvider, "the crypto provider knows no usable version of TLS").with_source(source)
        },
    )?;
    let builder = if settings.accept_invalid_certs {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
    } else {
        builder.with_root_certificates(roots(material)?)
    };
    let mut config = with_identity(builder, material)?;
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}

/// The one that was given, else the one the program has installed, else the crate's own.
fn provider(settings: &TlsSettings, own: fn() -> Option<CryptoProvider>) -> Result<Arc<CryptoProvider>, Error> {
    let given = settings.provider.as_ref().or(CryptoProvider::get_default()).cloned();
    given.or_else(|| own().map(Arc::new)).ok_or_else(|| {
        Error::tls(
            TlsFailure::NoProvider,
            "TLS has no crypto provider: enable the feature tls or tls-ring, give one by crypto_provider, or install one",
        )
    })
}

/// The provider that a feature of this crate has brought in.
fn of_feature() -> Option<CryptoProvider> {
    #[cfg(feature = "tls")]
    return Some(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "tls-ring", not(feature = "tls")))]
    return Some(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "tls", feature = "tls-ring")))]
    None
}

fn roots(material: &Material) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if material.ca.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        // Single ones that cannot be parsed are of no use to anyone, and no reason to do without the others.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let error = Error::tls(
                TlsFailure::NoRoots,
                "the platform trusts no certificates: install them (ca-certificates), or name the broker's ca_file",
            );
            return Err(match found.errors.into_iter().next() {
                Some(source) => error.with_source(source),
                None => error,
            });
        }
    }
    for (name, text) in &material.ca {
        for certificate in certificates(name, text)? {
            roots.add(certificate).map_err(|source| {
                Error::invalid_options(format!("{name} holds a certificate that cannot be used")).with_source(source)
            })?;
        }
    }
    Ok(roots)
}

fn with_identity(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    material: &Material,
) -> Result<ClientConfig, Error> {
    let (Some((cert_name, cert)), Some((key_name, key))) = (&material.cert, &material.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(cert_name, cert)?;
    // PKCS#8, PKCS#1 or SEC1.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| {
        Error::invalid_options(format!("{key_name} holds no private key in PEM, or an encrypted one"))
            .with_source(source)
    })?;
    builder.with_client_auth_cert(chain, key).map_err(|source| {
        Error::invalid_options(format!("{key_name} does not fit to {cert_name}, or is of an unknown kind"))
            .with_source(source)
    })
}

fn certificates(name: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|source| {
        Error::invalid_options(format!("{name} holds something that is no PEM")).with_source(source)
    })?;
    match certificates.is_empty() {
        true => Err(Error::invalid_options(format!("{name} holds no certificate in PEM"))),
        false => Ok(certificates),
    }
}

/// Asks only that the peer has the key of the certificate it shows, whosever that is.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn without_a_provider_there_is_an_error_that_says_where_to_get_one() {
        let error = provider(&TlsSettings::default(), || None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls(TlsFailure::NoProvider));
        assert!(error.to_string().contains("crypto_provider"), "{error}");
    }
}
