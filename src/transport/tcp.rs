//! TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{lookup_host, TcpStream};
use tokio::time::timeout;

use super::host;
use crate::telemetry::TARGET;
use crate::Error;

pub(super) async fn connect(host: &str, port: u16, address_timeout: Duration) -> Result<TcpStream, Error> {
    let addresses = lookup_host((host, port)).await.map_err(|source| {
        let text = format!("the host name {host:?} cannot be resolved: is it right, and does DNS know it here?");
        Error::connection(text).with_source(source)
    })?;
    connect_to_any(addresses, address_timeout).await.map_err(|source| unreachable_host(host, port, source))
}

/// In the order of the resolver, IPv6 and IPv4 alike; an address that does not answer costs its own time only.
async fn connect_to_any(
    addresses: impl Iterator<Item = SocketAddr>,
    address_timeout: Duration,
) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(address_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A lone packet must not wait for the acknowledgement of the one before it.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
        tracing::debug!(name: "mqtt.address_failed", target: TARGET, %address, error = %failure, "cannot connect");
    }
    Err(failure)
}

fn unreachable_host(host: &str, port: u16, source: io::Error) -> Error {
    let place = host::with_port(host, port);
    Error::connection(format!("cannot connect to {place}: does a broker listen there?")).with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_address_that_refuses_does_not_keep_the_next_from_being_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed: SocketAddr = ([0, 0, 0, 0, 0, 0, 0, 1], open.port()).into();
        let stream = connect_to_any([closed, open].into_iter(), SECOND).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn when_none_answers_the_error_is_that_of_the_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let error = connect_to_any([closed].into_iter(), SECOND).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = connect_to_any([].into_iter(), SECOND).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
