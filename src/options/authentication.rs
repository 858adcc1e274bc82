//! Enhanced authentication: an exchange with the broker, answered by the user (MQTT 5, section 4.12).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::Options;
use crate::{field, Error};

/// The client's side of one authentication exchange, such as SCRAM or a challenge to be signed.
///
/// Made anew for each connection by the function given to [`Options::authentication`], which has an example.
pub trait Exchange: Send {
    /// The next step. `challenge` is None at first, for the data that CONNECT carries; then what each AUTH of the broker
    /// carries; and at last what its CONNACK carries, if anything, where only an error matters: it refuses the broker.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped, and the exchange with it, when the attempt's
    /// [`connect_timeout`](Options::connect_timeout) is over or the agent ends.
    ///
    /// # Errors
    ///
    /// An error ends the attempt, as [`ErrorKind::Authentication`](crate::ErrorKind::Authentication) with it as the
    /// source.
    fn step(&mut self, challenge: Option<Bytes>) -> ExchangeFuture<'_>;
}

/// What [`Exchange::step`] returns: the data for the broker, at most 65,535 bytes, or why there is none.
pub type ExchangeFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>>;

#[derive(Clone)]
pub(crate) struct Authentication {
    pub(crate) method: String,
    start: Arc<dyn Fn() -> Box<dyn Exchange> + Send + Sync>,
}

/// An exchange under way.
pub(crate) struct Running {
    exchange: Box<dyn Exchange>,
}

impl Options {
    /// Authenticates by an exchange of packets (AUTH) with this method, as an addition to the user name and password.
    /// `start` is called for each connection. The attempt's [`connect_timeout`](Self::connect_timeout) includes the
    /// exchange. Needs [`Version::V5`](crate::Version::V5): [`Version::Auto`](crate::Version::Auto) does not fall back
    /// with it. Default: none.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use mqtt_agent::{Exchange, ExchangeFuture, Options, Version};
    ///
    /// struct Answer;
    ///
    /// impl Exchange for Answer {
    ///     fn step(&mut self, challenge: Option<Bytes>) -> ExchangeFuture<'_> {
    ///         Box::pin(async move {
    ///             match challenge {
    ///                 None => Ok("hello".into()),
    ///                 Some(challenge) => Ok(challenge), // sign it here
    ///             }
    ///         })
    ///     }
    /// }
    ///
    /// let options = Options::new("localhost").version(Version::V5).authentication("ECHO", || Answer);
    /// ```
    #[must_use]
    pub fn authentication<F, E>(mut self, method: impl Into<String>, start: F) -> Self
    where
        F: Fn() -> E + Send + Sync + 'static,
        E: Exchange + 'static,
    {
        let start = Arc::new(move || Box::new(start()) as Box<dyn Exchange>);
        self.mqtt5.authentication = Some(Authentication { method: method.into(), start });
        self
    }
}

impl Authentication {
    pub(crate) fn start(&self) -> Running {
        Running { exchange: (self.start)() }
    }
}

impl Running {
    /// The next data for the broker, which fit a packet.
    pub(crate) async fn answer(&mut self, challenge: Option<Bytes>) -> Result<Bytes, Error> {
        let data = self.step(challenge).await?;
        field::check_bytes("authentication data of this side", &data).map_err(Error::authentication)?;
        Ok(data)
    }

    /// The last word of the broker, to which there is no answer.
    pub(crate) async fn conclude(&mut self, data: Bytes) -> Result<(), Error> {
        self.step(Some(data)).await.map(drop)
    }

    async fn step(&mut self, challenge: Option<Bytes>) -> Result<Bytes, Error> {
        self.exchange.step(challenge).await.map_err(|source| {
            Error::authentication("the authentication exchange failed on this side").with_source(super::Boxed(source))
        })
    }
}
