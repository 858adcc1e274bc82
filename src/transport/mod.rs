//! Byte streams to a broker: one boxed type, whatever is below it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;

mod endpoint;
mod host;
mod proxy;
mod settings;
mod tcp;
#[cfg(feature = "tls-no-provider")]
mod tls;
#[cfg(unix)]
mod unix;
#[cfg(feature = "websocket")]
mod websocket;

pub(crate) use endpoint::{parse, percent_decode};
pub use endpoint::{Endpoint, Scheme};
pub(crate) use proxy::Proxy;
pub(crate) use settings::{Pem, Settings};
#[cfg(feature = "tls-no-provider")]
pub(crate) use tls::server_name;
#[cfg(feature = "websocket")]
pub(crate) use websocket::header;

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) type Stream = Box<dyn Io>;

/// Makes streams by the agent's options, and keeps what the next one can use again.
pub(crate) struct Transport {
    settings: Settings,
    #[cfg(feature = "websocket")]
    max_packet_size: usize,
    #[cfg(feature = "tls-no-provider")]
    tls: tls::Configs,
}

impl Transport {
    /// `max_packet_size` bounds what a peer can make a stream hold, in bytes.
    #[cfg_attr(not(feature = "websocket"), allow(unused_variables))]
    pub(crate) fn new(settings: Settings, max_packet_size: usize) -> Self {
        Self {
            settings,
            #[cfg(feature = "websocket")]
            max_packet_size,
            #[cfg(feature = "tls-no-provider")]
            tls: tls::Configs::default(),
        }
    }

    /// A stream of MQTT to the endpoint, all handshakes below it done.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Stream, Error> {
        let mut stream = self.dial(endpoint).await?;
        if endpoint.scheme().is_tls() {
            stream = self.encrypt(endpoint, stream).await?;
        }
        if endpoint.scheme().is_websocket() {
            stream = self.upgrade(endpoint, stream).await?;
        }
        Ok(stream)
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<Stream, Error> {
        let Settings { address_timeout, proxy, connector, .. } = &self.settings;
        if let Some(connector) = connector {
            return connector(endpoint.clone()).await;
        }
        let Some(port) = endpoint.port() else {
            #[cfg(unix)]
            return unix::connect(endpoint).await;
            #[cfg(not(unix))]
            return endpoint.check().and_then(|()| Err(Error::connection(format!("{endpoint} has no port"))));
        };
        match proxy {
            Some(proxy) => proxy::connect(proxy.as_ref().map_err(Clone::clone)?, endpoint, *address_timeout).await,
            None => Ok(Box::new(tcp::connect(endpoint.host(), port, *address_timeout).await?)),
        }
    }

    #[cfg(feature = "tls-no-provider")]
    async fn encrypt(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream, Error> {
        self.tls.connect(&self.settings.tls, endpoint, stream).await
    }

    #[cfg(not(feature = "tls-no-provider"))]
    async fn encrypt(&self, endpoint: &Endpoint, _: Stream) -> Result<Stream, Error> {
        Err(Error::missing_feature(endpoint, "tls"))
    }

    #[cfg(feature = "websocket")]
    async fn upgrade(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream, Error> {
        websocket::connect(&self.settings.websocket_headers, self.max_packet_size, endpoint, stream).await
    }

    #[cfg(not(feature = "websocket"))]
    async fn upgrade(&self, endpoint: &Endpoint, _: Stream) -> Result<Stream, Error> {
        Err(Error::missing_feature(endpoint, "websocket"))
    }
}

/// Why a stream ended: what TLS says, or a layer by an error of ours, or `otherwise`. With TLS 1.3 the refusal of a
/// client's certificate comes only after the handshake.
pub(crate) fn lost(source: io::Error, otherwise: &'static str) -> Error {
    #[cfg(feature = "tls-no-provider")]
    let source = match tls::failure_of_stream(source) {
        Ok(failure) => return failure,
        Err(source) => source,
    };
    source.downcast::<Error>().unwrap_or_else(|source| Error::connection(otherwise).with_source(source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_a_layer_says_of_the_end_is_told_and_nothing_is_read_into_a_strangers_error() {
        let own = io::Error::other(Error::protocol("no MQTT"));
        assert_eq!(lost(own, "the connection was lost").kind(), ErrorKind::Protocol);
        let error = lost(io::ErrorKind::InvalidData.into(), "the connection was lost");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Connection, "the connection was lost"));
    }
}
