//! TLS, the same for all: version 1.3 and one cipher suite, which the brokers insist on.

use std::fs;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::null_broker::Line;

/// As mosquitto and OpenSSL call the one that [`provider`] has.
pub(crate) const CIPHER_SUITE: &str = "TLS_AES_128_GCM_SHA256";
/// As much as a client writes at once; rustls reads 4 KiB at a time.
const BUFFER: usize = 64 * 1024;

/// A broker's certificate, in files that live as long as the value.
pub(crate) struct Identity {
    directory: PathBuf,
    /// Of who has signed it: what a client must trust.
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Identity {
    /// For brokers on 127.0.0.1.
    pub(crate) fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("peers-{}-tls", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let write = |name: &str, pem: String| {
            let path = directory.join(name);
            fs::write(&path, pem).expect("a writable file");
            path
        };
        let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let mut ca_params = CertificateParams::new([]).expect("no names");
        // A name that is not the broker's too: OpenSSL takes a certificate with its issuer's name for its own issuer.
        ca_params.distinguished_name.push(DnType::CommonName, "peers");
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = ca_params.self_signed(&ca_key).expect("a certificate");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &Issuer::new(ca_params, ca_key)).expect("a certificate");
        Self {
            ca: write("ca.pem", ca.pem()),
            certificate: write("broker.pem", certificate.pem()),
            key: write("broker.key", key.serialize_pem()),
            directory,
        }
    }

    /// Makes of each socket what a broker reads and writes.
    pub(crate) fn opener(&self) -> impl Fn(TcpStream) -> io::Result<Encrypted> + Send + Sync + 'static {
        let certificate = CertificateDer::from_pem_file(&self.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("the suite is of this version").with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(vec![certificate], key).expect("they belong together"));
        move |socket| {
            let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            Ok(StreamOwned::new(connection, Socket(BufReader::with_capacity(BUFFER, socket))))
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Trusts what `ca` has signed.
pub(crate) fn client_config(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    Arc::new(builder.expect("the suite is of this version").with_root_certificates(roots).with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// A broker's end of a connection.
pub(crate) type Encrypted = StreamOwned<ServerConnection, Socket>;

impl Line for Encrypted {
    fn socket(&self) -> &TcpStream {
        self.sock.0.get_ref()
    }
}

/// Reads much at once.
pub(crate) struct Socket(BufReader<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}
