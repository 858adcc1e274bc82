//! How an agent connects and what it may hold: by setters, checked before anything is dialled.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::reconnect::{Backoff, ReconnectPolicy};
use crate::terms::Version;
use crate::{Agent, Error};

mod authentication;
mod last_will;
mod login;
mod mqtt5;
#[cfg(feature = "trace-context")]
mod trace_context;
mod url;

pub(crate) use authentication::Authentication;
pub use authentication::{Exchange, ExchangeFuture};
pub use last_will::LastWill;
pub(crate) use login::Credentials;
pub use login::Login;
use mqtt5::Mqtt5;
#[cfg(feature = "trace-context")]
pub(crate) use trace_context::TRACEPARENT;

/// Options of an [`Agent`]. Each has a default that suits a web server with one connection per broker.
///
/// ```no_run
/// # async fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{Agent, LastWill, QoS};
/// use std::time::Duration;
///
/// let agent = Agent::builder("mqtt://user:secret@localhost:1883")?
///     .keep_alive(Duration::from_secs(20))
///     .last_will(LastWill::new("web/1/state", "gone").qos(QoS::AtLeastOnce).retain(true))
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) version: Version,
    pub(crate) mqtt5: Mqtt5,
    pub(crate) client_id: Option<String>,
    pub(crate) credentials: Credentials,
    pub(crate) clean_session: bool,
    pub(crate) keep_alive: Duration,
    pub(crate) last_will: Option<LastWill>,
    pub(crate) connect_timeout: Duration,
    pub(crate) address_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) offline: Offline,
    pub(crate) max_in_flight: u16,
    pub(crate) max_queued: usize,
    pub(crate) max_queued_bytes: usize,
    pub(crate) max_packet_size: usize,
    pub(crate) max_filters_per_subscribe: usize,
    pub(crate) stream_capacity: usize,
    pub(crate) reply_linger: Duration,
    pub(crate) reconnect: Arc<dyn ReconnectPolicy>,
    #[cfg(feature = "trace-context")]
    trace_context: Option<trace_context::TraceContext>,
}

/// What a call does while there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Offline {
    /// Fail at once with [`ErrorKind::Offline`](crate::ErrorKind::Offline), also when the connection is lost before the
    /// message was sent or the subscription confirmed.
    Fail,
    /// Wait for a connection until the call's deadline. A caller that gives up takes the message back: it is never
    /// sent later.
    #[default]
    Wait,
    /// Hand the message over: the call returns [`Delivery::Queued`](crate::Delivery::Queued) and the agent sends it
    /// once it is connected, whatever becomes of the caller and its deadline; at most
    /// [`max_queued`](Options::max_queued) of them. For anything but a publish this is [`Wait`](Self::Wait).
    Queue,
}

impl Options {
    /// For a broker at this host, port 1883.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 1883,
            version: Version::default(),
            mqtt5: Mqtt5::default(),
            client_id: None,
            credentials: Credentials::None,
            clean_session: true,
            keep_alive: Duration::from_secs(30),
            last_will: None,
            connect_timeout: Duration::from_secs(10),
            address_timeout: Duration::from_secs(4),
            write_timeout: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
            offline: Offline::default(),
            max_in_flight: 65_000,
            max_queued: 100_000,
            max_queued_bytes: 64 << 20,
            max_packet_size: 16 << 20,
            max_filters_per_subscribe: 256,
            stream_capacity: 1024,
            reply_linger: Duration::from_secs(30),
            reconnect: Arc::new(Backoff::default()),
            #[cfg(feature = "trace-context")]
            trace_context: None,
        }
    }

    /// The TCP port. Default: 1883.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The protocol version. Default: 3.1.1, which every broker and most devices speak. [`Version::V5`] adds properties,
    /// reasons, and sessions that outlive a connection; [`Version::Auto`] takes it where the broker does.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The client identifier. Default: 23 random letters and digits, fresh for each agent, so that two processes never
    /// push each other out. Fix it to resume a session in a new process, with
    /// [`clean_session(false)`](Self::clean_session).
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// User name and password, fixed.
    #[must_use]
    pub fn credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Credentials::Fixed(Login::new(username, password));
        self
    }

    /// User name and password from an async function that is called before each CONNECT: for tokens that expire.
    /// Its error counts as a failed attempt to connect. The attempt's [`connect_timeout`](Self::connect_timeout)
    /// includes it.
    ///
    /// ```
    /// use mqtt_agent::{Login, Options};
    ///
    /// # async fn fresh_token() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let options = Options::new("localhost").credentials_from(|| async {
    ///     let token = fresh_token().await?;
    ///     Ok(Login::new("web", token))
    /// });
    /// ```
    #[must_use]
    pub fn credentials_from<F, R>(mut self, login: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Login, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.credentials = Credentials::Fresh(Arc::new(move || {
            let login = login();
            Box::pin(async move {
                login.await.map_err(|source| {
                    Error::connection("no credentials: the function that gives them failed").with_source(Boxed(source))
                })
            })
        }));
        self
    }

    /// Whether the broker forgets this client at each connect (true), or keeps its subscriptions and queues its
    /// messages while it is away (false; needs a fixed [`client_id`](Self::client_id)). Default: true.
    ///
    /// What a broker has queued comes right after the connection is made, and what no subscriber wants then is
    /// acknowledged and gone. To take it in a new process, make the agent by [`Agent::connect_lazy`] and subscribe at
    /// once: the subscriber is in place before the broker has answered.
    #[must_use]
    pub fn clean_session(mut self, clean_session: bool) -> Self {
        self.clean_session = clean_session;
        self
    }

    /// How long the line may be silent before the peer is asked for a sign of life; a peer that stays silent for one
    /// and a half of these is given up. Whole seconds from 1 to 65,535; zero switches it off. Default: 30 s.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// What the broker publishes when this client vanishes. Default: nothing.
    #[must_use]
    pub fn last_will(mut self, last_will: LastWill) -> Self {
        self.last_will = Some(last_will);
        self
    }

    /// The limit for one attempt to connect, from the name look-up to the CONNACK. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// The limit for the TCP handshake with one of the host's addresses, before the next is tried. Default: 4 s.
    #[must_use]
    pub fn address_timeout(mut self, address_timeout: Duration) -> Self {
        self.address_timeout = address_timeout;
        self
    }

    /// How long a write may make no progress before the connection is given up. Default: 20 s.
    #[must_use]
    pub fn write_timeout(mut self, write_timeout: Duration) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// The deadline of each call that does not set its own. Default: 10 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What calls do while there is no connection, unless they say otherwise. Default: [`Offline::Wait`].
    #[must_use]
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    /// How many QoS 1 and 2 publishes may be unacknowledged at once, 1 to 65,535. Default: 65,000, which leaves packet
    /// identifiers for SUBSCRIBE and UNSUBSCRIBE.
    #[must_use]
    pub fn max_in_flight(mut self, max_in_flight: u16) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }

    /// How many messages that were handed over ([`Agent::try_publish`], [`Offline::Queue`]) may wait to be sent and,
    /// at QoS 1 and 2, acknowledged. One more is refused. Calls that are awaited do not count: their callers bound
    /// them. Default: 100,000.
    #[must_use]
    pub fn max_queued(mut self, max_queued: usize) -> Self {
        self.max_queued = max_queued;
        self
    }

    /// The same in bytes of topics and payloads; a single message may be larger. Default: 64 MiB.
    #[must_use]
    pub fn max_queued_bytes(mut self, max_queued_bytes: usize) -> Self {
        self.max_queued_bytes = max_queued_bytes;
        self
    }

    /// The largest message taken from the broker, in bytes of its packet after the fixed header. A larger one is
    /// acknowledged, thrown away and counted (see [`Stats::oversized`](crate::Stats::oversized)); ending the connection
    /// instead would make a broker with a persistent session send it again for ever. Default: 16 MiB.
    #[must_use]
    pub fn max_packet_size(mut self, max_packet_size: usize) -> Self {
        self.max_packet_size = max_packet_size;
        self
    }

    /// The most filters in one SUBSCRIBE or UNSUBSCRIBE; managed brokers set quotas (AWS IoT: 8). Default: 256.
    #[must_use]
    pub fn max_filters_per_subscribe(mut self, max_filters_per_subscribe: usize) -> Self {
        self.max_filters_per_subscribe = max_filters_per_subscribe;
        self
    }

    /// How many messages a stream holds for a subscriber that is slow, before it loses the oldest; rounded up to a
    /// power of two. Default: 1,024.
    #[must_use]
    pub fn stream_capacity(mut self, stream_capacity: usize) -> Self {
        self.stream_capacity = stream_capacity;
        self
    }

    /// How long a request's reply filter stays subscribed after the last request that used it, so that the next one
    /// costs a single round trip. Default: 30 s.
    #[must_use]
    pub fn reply_linger(mut self, reply_linger: Duration) -> Self {
        self.reply_linger = reply_linger;
        self
    }

    /// What to do when the connection is lost or cannot be made. Default: [`Backoff::default`], for ever.
    #[must_use]
    pub fn reconnect(mut self, policy: impl ReconnectPolicy) -> Self {
        self.reconnect = Arc::new(policy);
        self
    }

    /// Connects; the same as [`Agent::connect`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Agent::connect`].
    pub async fn connect(self) -> Result<Agent, Error> {
        Agent::connect(self).await
    }

    /// Connects in the background; the same as [`Agent::connect_lazy`] with these options.
    ///
    /// # Errors
    ///
    /// As [`Agent::connect_lazy`].
    pub fn connect_lazy(self) -> Result<Agent, Error> {
        Agent::connect_lazy(self)
    }

    /// Refuses what cannot work, before anything is dialled.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |why: &'static str| Err(Error::invalid_options(why));
        if self.host.is_empty() {
            return refuse("the host is empty");
        }
        if self.port == 0 {
            return refuse("port 0 cannot be connected to");
        }
        self.check_client_id()?;
        self.mqtt5.check(self.version)?;
        if let Credentials::Fixed(login) = &self.credentials {
            login.check()?;
        }
        if let Some(will) = &self.last_will {
            will.check(self.version)?;
            if will.payload.len() > MAX_FIELD {
                return refuse("the last will's payload is over 65,535 bytes");
            }
        }
        if self.keep_alive > Duration::from_secs(u16::MAX.into()) {
            return refuse("keep_alive is over 65,535 seconds");
        }
        if !self.keep_alive.is_zero() && self.keep_alive < Duration::from_secs(1) {
            return refuse("keep_alive is under a second; zero switches it off");
        }
        if self.max_in_flight == 0 {
            return refuse("max_in_flight must be at least 1");
        }
        let at_least_one = [
            ("max_queued", self.max_queued),
            ("max_queued_bytes", self.max_queued_bytes),
            ("max_packet_size", self.max_packet_size),
            ("max_filters_per_subscribe", self.max_filters_per_subscribe),
            ("stream_capacity", self.stream_capacity),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(Error::invalid_options(format!("{name} must be at least 1")));
            }
        }
        check_capacity(self.stream_capacity)
            .map_err(|why| Error::invalid_options(format!("stream_capacity: {why}")))?;
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("address_timeout", self.address_timeout),
            ("write_timeout", self.write_timeout),
        ];
        for (name, value) in timeouts {
            if value.is_zero() {
                return Err(Error::invalid_options(format!("{name} must be more than zero")));
            }
        }
        Ok(())
    }

    fn check_client_id(&self) -> Result<(), Error> {
        match self.client_id.as_deref() {
            None if self.clean_session => Ok(()),
            None => Err(Error::invalid_options("clean_session(false) needs a client_id to find the session again by")),
            Some(id) => {
                check_field("client_id", id)?;
                if id.is_empty() && !self.clean_session {
                    return Err(Error::invalid_options("an empty client_id needs clean_session(true) [MQTT-3.1.3-7]"));
                }
                if self.version == Version::V31 && !(1..=23).contains(&id.chars().count()) {
                    return Err(Error::invalid_options("MQTT 3.1 allows client_ids of 1 to 23 characters only"));
                }
                Ok(())
            }
        }
    }

    /// The identifier to connect with: the one given, or a random one that every broker must accept (MQTT-3.1.3-5).
    pub(crate) fn effective_client_id(&self) -> String {
        const LENGTH: usize = 23;
        self.client_id.clone().unwrap_or_else(|| std::iter::repeat_with(fastrand::alphanumeric).take(LENGTH).collect())
    }

    /// The packet identifier to begin with. A broker that kept a session may hold identifiers of QoS 2 messages of an
    /// earlier process, and would take a new message under one of them for a repetition; chance keeps clear of them.
    pub(crate) fn first_packet_id(&self) -> u16 {
        if self.clean_session {
            1
        } else {
            fastrand::u16(1..)
        }
    }

    /// The subscription identifier to begin with: what a broker queued for an earlier process with the same session
    /// carries that one's identifiers, and chance keeps clear of them.
    pub(crate) fn first_identifier(&self) -> u32 {
        if self.clean_session {
            1
        } else {
            fastrand::u32(1..=268_435_455)
        }
    }

    /// `host:port` for messages to people.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The largest string or binary field of a packet, in bytes (MQTT 3.1.1, section 1.5.3).
const MAX_FIELD: usize = 65_535;

fn check_field(name: &str, value: &str) -> Result<(), Error> {
    if value.len() > MAX_FIELD {
        return Err(Error::invalid_options(format!("the {name} is over 65,535 bytes")));
    }
    if value.contains('\0') {
        return Err(Error::invalid_options(format!("the {name} contains a NUL")));
    }
    Ok(())
}

/// The channel of a stream takes its slots at once, so a capacity has an upper bound too.
pub(crate) fn check_capacity(capacity: usize) -> Result<(), &'static str> {
    match capacity {
        0 => Err("a stream must hold at least 1 message"),
        1..=MAX_CAPACITY => Ok(()),
        _ => Err("a stream may hold 1,048,576 messages at most"),
    }
}

pub(crate) const MAX_CAPACITY: usize = 1 << 20;

/// The clock cannot count beyond some centuries; this is as good as never.
pub(crate) const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address())
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_session", &self.clean_session)
            .field("keep_alive", &self.keep_alive)
            .field("timeout", &self.timeout)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// A boxed error as an error by itself.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Boxed(Box<dyn std::error::Error + Send + Sync>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn default_client_ids_differ_and_suit_every_version() {
        let options = Options::new("localhost");
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| options.effective_client_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 23 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    }

    #[test]
    fn an_invalid_will_is_refused_before_connecting() {
        let options = Options::new("localhost").last_will(LastWill::new("a/#", "x"));
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::InvalidTopic);
        let options = Options::new("localhost").last_will(LastWill::new("a", vec![0; 65_536]));
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::InvalidOptions);
    }
}
