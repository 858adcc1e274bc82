//! Byte streams to a broker: one boxed type, whatever is below it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;

mod tcp;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Stream = Box<dyn Io>;

/// Connects to the first of the host's addresses that answers, each within `address_timeout`.
pub(crate) async fn connect(host: &str, port: u16, address_timeout: Duration) -> Result<Stream, Error> {
    Ok(Box::new(tcp::connect(host, port, address_timeout).await?))
}
