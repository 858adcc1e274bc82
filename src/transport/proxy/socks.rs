//! SOCKS5 (RFC 1928), with a user name and password where there are any (RFC 1929).

use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::Proxy;
use crate::transport::{Endpoint, Stream};
use crate::Error;

pub(super) async fn connect(stream: TcpStream, proxy: &Proxy, endpoint: &Endpoint) -> Result<Stream, Error> {
    let target = (endpoint.host(), endpoint.port().unwrap_or_default());
    let opened = match &proxy.login {
        Some((user, password)) => Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await,
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    match opened {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => {
            Err(Error::proxy(format!("the proxy {proxy} did not connect to {endpoint}")).with_source(source))
        }
    }
}
