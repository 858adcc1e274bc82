//! The way to a broker below TLS, and the headers of WebSocket.

use std::future::Future;
use std::sync::Arc;

use super::{Boxed, Options};
use crate::transport::{Endpoint, Proxy, Stream};
use crate::Error;

impl Options {
    /// A header for the WebSocket handshake, such as `Authorization`. May be called again for more; its value never
    /// appears in a text. Only for `ws` and `wss`: with another scheme, and for what is no header, the agent is not
    /// made. Default: none.
    ///
    /// ```
    /// # fn main() -> Result<(), mqtt_agent::Error> {
    /// let options = mqtt_agent::Options::from_url("wss://localhost/mqtt")?.websocket_header("X-Api-Key", "secret");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn websocket_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.transport.websocket_headers.push((name.into(), value.into()));
        self
    }

    /// A proxy to go through, `http://[user:password@]host:port` (HTTP CONNECT) or `socks5://[user:password@]host:port`,
    /// which resolves the name of the broker. Needs the feature `proxy`; a URL that cannot be used is reported when the
    /// agent is made. The environment's `http_proxy` is not looked at. Default: none.
    ///
    /// ```
    /// # fn main() -> Result<(), mqtt_agent::Error> {
    /// let options = mqtt_agent::Options::from_url("mqtts://localhost")?.proxy("socks5://localhost:1080");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn proxy(mut self, url: &str) -> Self {
        self.transport.proxy = Some(Proxy::from_url(url));
        self
    }

    /// An async function that makes the connections, in place of TCP: through a tunnel, over a serial line, within the
    /// process. It is called for each attempt with the endpoint to connect to. TLS and WebSocket go on top of its stream
    /// where the endpoint's scheme says so. Its error counts as a failed attempt; the attempt's
    /// [`connect_timeout`](Self::connect_timeout) includes it. Default: none.
    ///
    /// ```
    /// use mqtt_agent::{Endpoint, Options};
    /// use tokio::net::TcpStream;
    ///
    /// let options = Options::new("broker").connector(|endpoint: Endpoint| async move {
    ///     println!("connecting to {endpoint}");
    ///     Ok(TcpStream::connect(("localhost", 1883)).await?)
    /// });
    /// ```
    #[must_use]
    pub fn connector<F, R, S>(mut self, connect: F) -> Self
    where
        F: Fn(Endpoint) -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        self.transport.connector = Some(Arc::new(move |endpoint: Endpoint| {
            let text = format!("cannot connect to {endpoint}: the connector failed");
            let connecting = connect(endpoint);
            Box::pin(async move {
                match connecting.await {
                    Ok(stream) => Ok(Box::new(stream) as Stream),
                    Err(source) => Err(Error::connection(text).with_source(Boxed(source))),
                }
            })
        }));
        self
    }
}
