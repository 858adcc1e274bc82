//! Certificates made for one test.

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256,
};
use tempfile::NamedTempFile;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
}

/// The forms of a key in PEM.
#[derive(Clone, Copy, Debug)]
pub enum KeyForm {
    Pkcs8,
    /// RSA.
    Pkcs1,
    /// Elliptic curves.
    Sec1,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named(name, vec![]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For a broker of this name or address.
    pub fn broker(&self, name: &str) -> Identity {
        self.sign(&named("broker", vec![name.to_owned()]), &KeyPair::generate().expect("a key"))
    }

    /// For a broker, valid in these years only.
    pub fn broker_between(&self, name: &str, from: i32, until: i32) -> Identity {
        let mut params = named("broker", vec![name.to_owned()]);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        self.sign(&params, &KeyPair::generate().expect("a key"))
    }

    pub fn client(&self, name: &str) -> Identity {
        self.client_with(name, KeyForm::Pkcs8)
    }

    pub fn client_with(&self, name: &str, form: KeyForm) -> Identity {
        let key = match form {
            KeyForm::Pkcs1 => KeyPair::generate_for(&PKCS_RSA_SHA256),
            KeyForm::Pkcs8 | KeyForm::Sec1 => KeyPair::generate(),
        };
        let key = key.expect("a key");
        let mut params = named(name, vec![]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let identity = self.sign(&params, &key);
        let key = match form {
            KeyForm::Pkcs8 => identity.key,
            KeyForm::Pkcs1 => pem("RSA PRIVATE KEY", inner_key(&key.serialize_der())),
            KeyForm::Sec1 => pem("EC PRIVATE KEY", inner_key(&key.serialize_der())),
        };
        Identity { key, ..identity }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Identity {
        let cert = params.signed_by(key, &self.issuer).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// A broker's certificate that no authority has signed.
pub fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let cert = named("broker", vec![name.to_owned()]).self_signed(&key).expect("a certificate");
    Identity { cert: cert.pem(), key: key.serialize_pem() }
}

/// A file that lives as long as the value.
pub fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("a writable file");
    file
}

fn named(name: &str, alternatives: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(alternatives).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The key that PKCS#8 wraps (RFC 5208: version, algorithm, then the octets of the key).
fn inner_key(pkcs8: &[u8]) -> &[u8] {
    let (_, sequence, _) = element(pkcs8);
    let (_, _, rest) = element(sequence);
    let (_, _, rest) = element(rest);
    let (tag, key, _) = element(rest);
    assert_eq!(tag, 4, "an octet string");
    key
}

/// One element of DER: its tag, its content and what follows.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (header, length) = match usize::from(der[1]) {
        short @ 0..0x80 => (2, short),
        long => {
            let bytes = &der[2..2 + (long & 0x7f)];
            (2 + bytes.len(), bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
    };
    (der[0], &der[header..header + length], &der[header + length..])
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
