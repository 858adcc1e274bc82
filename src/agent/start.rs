//! How an agent comes to be: checked options, an actor on a runtime, and perhaps a first connection to wait for.

use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Agent, Shared};
use crate::actor::{Actor, First};
use crate::allowance::Allowance;
use crate::command::Reply;
use crate::options::Options;
use crate::runtime::Runtime;
use crate::siblings::Beside;
use crate::stats::Counters;
use crate::Error;

impl Agent {
    /// Connects to a broker, given as a URL or as [`Options`], and returns once the broker has accepted (CONNACK).
    ///
    /// From then on the agent reconnects by itself whenever the connection is lost.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mqtt_agent::Error> {
    /// let agent = mqtt_agent::Agent::connect("mqtt://localhost").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt; nothing is left behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) before anything is dialled, or for a file that
    /// cannot be used; [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) outside of a Tokio runtime.
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) with the broker's reason,
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection) if it cannot be reached,
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) after the [`connect_timeout`](Options::connect_timeout). On the
    /// way to it [`Tls`](crate::ErrorKind::Tls), [`WebSocket`](crate::ErrorKind::WebSocket) and
    /// [`Proxy`](crate::ErrorKind::Proxy), each with a text that says what to do;
    /// [`Authentication`](crate::ErrorKind::Authentication) where an exchange fails
    /// ([`Options::authentication`]), and [`Protocol`](crate::ErrorKind::Protocol) where what answers is no broker. The
    /// first failure is returned; only [`connect_lazy`](Self::connect_lazy) tries again.
    pub async fn connect<O>(options: O) -> Result<Self, Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        let (first, connected) = Reply::channel();
        let first = First { reply: first, is_patient: false };
        let agent = Self::start(options.try_into().map_err(Into::into)?, Some(first))?;
        connected.await.unwrap_or_else(|_| Err(Error::closed()))?;
        Ok(agent)
    }

    /// Returns at once and connects in the background, trying again until it succeeds: for a service that starts
    /// before its broker does. Calls meanwhile do what their [`Offline`](crate::Offline) says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions);
    /// [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) outside of a Tokio runtime.
    pub fn connect_lazy<O>(options: O) -> Result<Self, Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        Self::start(options.try_into().map_err(Into::into)?, None)
    }

    /// Options to set, from a URL: see [`Options::from_url`].
    ///
    /// # Errors
    ///
    /// As [`Options::from_url`].
    pub fn builder(url: &str) -> Result<Options, Error> {
        Options::from_url(url)
    }

    fn start(options: Options, first: Option<First>) -> Result<Self, Error> {
        options.check()?;
        let runtime = Handle::try_current().map_err(|_| Error::no_runtime())?;
        Ok(Self::start_on(runtime, options, first))
    }

    /// An agent on the runtime of this one, from whatever thread.
    pub(crate) fn start_beside(&self, options: Options, first: First) -> Result<Self, Error> {
        options.check()?;
        let runtime = self.shared.runtime.of_agent();
        let _context = runtime.enter();
        Ok(Self::start_on(runtime.clone(), options, Some(first)))
    }

    fn start_on(runtime: Handle, options: Options, first: Option<First>) -> Self {
        let options = Arc::new(options);
        let counters = Arc::new(Counters::default());
        let allowance = Arc::new(Allowance::new(options.max_queued, options.max_queued_bytes));
        let siblings = Arc::default();
        let beside = Box::new(Beside::of(&siblings));
        let (actor, lanes) = Actor::pair(options.clone(), counters.clone(), allowance.clone(), first, beside);
        runtime.spawn(actor.run());
        let (requests, nonce) = (AtomicU64::new(0), crate::random::rng().u64(..));
        let runtime = Runtime::new(runtime);
        Self { shared: Arc::new(Shared { lanes, allowance, options, counters, requests, siblings, runtime, nonce }) }
    }
}
