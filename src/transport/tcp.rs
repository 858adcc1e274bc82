//! TCP.

use std::io;
use std::time::Duration;

use tokio::net::{lookup_host, TcpStream};
use tokio::time::timeout;

use crate::Error;

pub(super) async fn connect(host: &str, port: u16, address_timeout: Duration) -> Result<TcpStream, Error> {
    let addresses = lookup_host((host, port)).await.map_err(|source| {
        Error::connection(format!("the host name {host:?} cannot be resolved")).with_source(source)
    })?;
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(address_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A lone packet must not wait for the acknowledgement of the one before it.
                stream.set_nodelay(true).map_err(|source| unreachable_host(host, port, source))?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
        tracing::debug!(%address, error = %failure, "cannot connect to this address");
    }
    Err(unreachable_host(host, port, failure))
}

fn unreachable_host(host: &str, port: u16, source: io::Error) -> Error {
    Error::connection(format!("cannot connect to {host}:{port}")).with_source(source)
}
