//! Where a broker is, as it is told to a client's process.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// Where TLS is spoken, a file with who has signed the broker's certificate.
    pub(crate) ca: Option<PathBuf>,
}

impl Endpoint {
    /// None if these are not the words of [`words`](Self::words).
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let (address, ca) = match *words {
            [address] => (address, None),
            [address, ca] => (address, Some(PathBuf::from(ca))),
            _ => return None,
        };
        Some(Self { address: address.parse().ok()?, ca })
    }

    pub(crate) fn words(&self) -> Vec<String> {
        let ca = self.ca.iter().map(|ca| ca.display().to_string());
        std::iter::once(self.address.to_string()).chain(ca).collect()
    }

    pub(crate) fn host(&self) -> String {
        self.address.ip().to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}
