//! How an agent connects and what it may hold: by setters, checked before anything is dialled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::reconnect::{Backoff, ReconnectPolicy};
use crate::terms::Version;
use crate::transport::{Endpoint, Settings};
use crate::{random, Agent, Error};

mod authentication;
mod check;
mod env;
mod last_will;
mod login;
mod mqtt5;
mod network;
#[cfg(feature = "serde")]
mod serde;
mod settings;
mod tls;
#[cfg(feature = "trace-context")]
mod trace_context;
mod url;

pub(crate) use authentication::Authentication;
pub use authentication::{Exchange, ExchangeFuture};
pub(crate) use check::{check_capacity, fits_v31};
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
    pub(crate) endpoint: Endpoint,
    pub(crate) failover: Vec<Result<Endpoint, Error>>,
    pub(crate) shuffle: bool,
    pub(crate) transport: Settings,
    pub(crate) version: Version,
    pub(crate) mqtt5: Mqtt5,
    pub(crate) client_id: Option<String>,
    pub(crate) credentials: Credentials,
    pub(crate) clean_session: bool,
    pub(crate) keep_alive: Duration,
    pub(crate) last_will: Option<LastWill>,
    pub(crate) connect_timeout: Duration,
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
    pub(crate) holds: Option<usize>,
    #[cfg(feature = "trace-context")]
    trace_context: Option<trace_context::TraceContext>,
}

/// What a call does while there is no connection.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Offline;
///
/// agent.publish("metrics/load", "0.7").offline(Offline::Queue).await?; // sent when there is a connection
/// agent.publish("door/1/cmd", "open").offline(Offline::Fail).await?; // now or not at all
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
    /// For a broker at this host, a name or an address alone, that is spoken to in plain TCP. TLS, WebSocket and sockets
    /// in the file system begin with a URL: see [`from_url`](Self::from_url).
    pub fn new(host: impl Into<String>) -> Self {
        Self::from(Endpoint::plain(host))
    }

    /// The TCP port. Default: that of the scheme, 1883 for `mqtt`, 8883 for `mqtts`, 80 for `ws`, 443 for `wss`.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.endpoint.set_port(port);
        self
    }

    /// Further brokers to turn to where the first cannot be reached or refuses: all with the same client identifier,
    /// credentials and options. Each attempt to connect tries them in order, each within its own
    /// [`connect_timeout`](Self::connect_timeout), until one accepts; its error is that of the last. The
    /// [`reconnect`](Self::reconnect) policy is asked after all have failed. After a loss the first is tried first, but
    /// for one that held for less than [`Lost::STABLE`](crate::Lost::STABLE): then it is the one after that.
    ///
    /// [`State::Connected`](crate::State::Connected) tells which one it is. Default: none.
    ///
    /// ```
    /// # fn main() -> Result<(), mqtt_agent::Error> {
    /// let options = mqtt_agent::Options::from_url("mqtts://localhost")?.failover(["mqtts://localhost:8884"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn failover<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: TryInto<Endpoint>,
        <I::Item as TryInto<Endpoint>>::Error: Into<Error>,
    {
        self.failover.extend(endpoints.into_iter().map(|endpoint| endpoint.try_into().map_err(Into::into)));
        self
    }

    /// Whether each attempt to connect tries the brokers in an order of its own, so that a fleet of clients spreads over
    /// them. Default: false.
    #[must_use]
    pub fn shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// The protocol version. Default: 3.1.1, which every broker and most devices speak. [`Version::V5`] adds properties,
    /// reasons, and sessions that outlive a connection; [`Version::Auto`] takes it where the broker does. What an agent
    /// speaks is in [`Terms::version`](crate::Terms::version).
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The client identifier, of at most 65,535 bytes; MQTT 3.1 allows 1 to 23 characters. A broker throws out the
    /// client that is connected under an identifier when another comes with it (MQTT-3.1.4-2). Default: 23 random
    /// letters and digits, fresh for each agent, so that two processes never push each other out. Fix it to resume a
    /// session in a new process, with [`clean_session(false)`](Self::clean_session).
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
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
    /// and a half of these is given up, as the broker gives up a client (MQTT-3.1.2-24). Seconds from 1 to 65,535, of
    /// which fractions do not count; zero switches it off. An MQTT 5 broker may ask for another
    /// ([`Terms::keep_alive`](crate::Terms::keep_alive)). Default: 30 s.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// What the broker publishes when this client vanishes; not after a [`drain`](Agent::drain) or a
    /// [`close`](Agent::close) (MQTT-3.1.2-10). Default: nothing.
    #[must_use]
    pub fn last_will(mut self, last_will: LastWill) -> Self {
        self.last_will = Some(last_will);
        self
    }

    /// The limit for one attempt to connect to one broker, from the name look-up to the CONNACK, all handshakes
    /// included; more than zero. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// The limit for the TCP handshake with one of the addresses of the host, or of the proxy, before the next is tried;
    /// more than zero. Default: 4 s.
    #[must_use]
    pub fn address_timeout(mut self, address_timeout: Duration) -> Self {
        self.transport.address_timeout = address_timeout;
        self
    }

    /// How long a write may make no progress before the connection is given up; more than zero. Default: 20 s.
    #[must_use]
    pub fn write_timeout(mut self, write_timeout: Duration) -> Self {
        self.write_timeout = write_timeout;
        self
    }

    /// The deadline of each call that does not set its own, counted from when it is awaited; and how long an agent whose
    /// last handle was dropped has to send what it accepted. Default: 10 s.
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
    /// at QoS 1 and 2, acknowledged; at least 1. One more is refused with
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull). Calls that are awaited do not count: their callers bound
    /// them. Default: 100,000.
    #[must_use]
    pub fn max_queued(mut self, max_queued: usize) -> Self {
        self.max_queued = max_queued;
        self
    }

    /// The same in bytes of topics and payloads, at least 1; a single message may be larger. Default: 64 MiB.
    #[must_use]
    pub fn max_queued_bytes(mut self, max_queued_bytes: usize) -> Self {
        self.max_queued_bytes = max_queued_bytes;
        self
    }

    /// The largest message taken from the broker, in bytes of its packet after the fixed header. A larger one is
    /// acknowledged, thrown away and counted (see [`Stats::oversized`](crate::Stats::oversized)); ending the connection
    /// instead would make a broker with a persistent session send it again for ever. With MQTT 5 the broker is told, and
    /// throws larger ones away itself (MQTT-3.1.2-25): then nobody counts them. (A frame of WebSocket has to be held
    /// until it is whole: one of over 1 MiB more than this does end the connection.) Default: 16 MiB.
    #[must_use]
    pub fn max_packet_size(mut self, max_packet_size: usize) -> Self {
        self.max_packet_size = max_packet_size;
        self
    }

    /// The most filters in one SUBSCRIBE or UNSUBSCRIBE, at least 1; managed brokers set quotas (AWS IoT: 8). Default:
    /// 256.
    #[must_use]
    pub fn max_filters_per_subscribe(mut self, max_filters_per_subscribe: usize) -> Self {
        self.max_filters_per_subscribe = max_filters_per_subscribe;
        self
    }

    /// How many messages a stream holds for a subscriber that is slow, before it loses the oldest, 1 to 1,048,576;
    /// rounded up to a power of two. [`Subscribe::capacity`](crate::Subscribe::capacity) sets it for one. Default:
    /// 1,024.
    #[must_use]
    pub fn stream_capacity(mut self, stream_capacity: usize) -> Self {
        self.stream_capacity = stream_capacity;
        self
    }

    /// How long a request's reply filter stays subscribed after the last request that used it, so that the next one
    /// costs a single round trip. Zero gives it up at once. Default: 30 s.
    #[must_use]
    pub fn reply_linger(mut self, reply_linger: Duration) -> Self {
        self.reply_linger = reply_linger;
        self
    }

    /// What to do when the connection is lost or cannot be made: a [`Backoff`], or a closure that is asked each time
    /// (see [`ReconnectPolicy`]). Default: [`Backoff::default`], for ever.
    #[must_use]
    pub fn reconnect(mut self, policy: impl ReconnectPolicy) -> Self {
        self.reconnect = Arc::new(policy);
        self
    }

    /// For the session of a subscription that acknowledges late: how many messages may wait for that.
    pub(crate) fn holding(mut self, holds: impl Into<Option<usize>>) -> Self {
        self.holds = holds.into();
        self
    }

    /// Connects, and returns once the broker has accepted (CONNACK); the same as [`Agent::connect`] with these options.
    ///
    /// # Cancel safety
    ///
    /// As [`Agent::connect`].
    ///
    /// # Errors
    ///
    /// As [`Agent::connect`].
    pub async fn connect(self) -> Result<Agent, Error> {
        Agent::connect(self).await
    }

    /// Returns at once and connects in the background; the same as [`Agent::connect_lazy`] with these options.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::{Agent, State};
    /// use std::time::Duration;
    ///
    /// let agent = Agent::builder("mqtt://localhost")?.connect_lazy()?;
    /// // A call may be made at once. To wait for the connection itself, put a limit on it:
    /// let mut state = agent.state();
    /// let connected = tokio::time::timeout(Duration::from_secs(30), state.wait_for(State::is_connected)).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Agent::connect_lazy`].
    pub fn connect_lazy(self) -> Result<Agent, Error> {
        Agent::connect_lazy(self)
    }

    /// The identifier to connect with: the one given, or a random one that every broker must accept (MQTT-3.1.3-5).
    pub(crate) fn effective_client_id(&self) -> String {
        self.client_id.clone().unwrap_or_else(|| random::name(23))
    }

    /// The packet identifier to begin with. A broker that kept a session may hold identifiers of QoS 2 messages of an
    /// earlier process, and would take a new message under one of them for a repetition; chance keeps clear of them.
    pub(crate) fn first_packet_id(&self) -> u16 {
        if self.clean_session {
            1
        } else {
            random::rng().u16(1..)
        }
    }

    /// The subscription identifier to begin with: what a broker queued for an earlier process with the same session
    /// carries that one's identifiers, and chance keeps clear of them.
    pub(crate) fn first_identifier(&self) -> u32 {
        if self.clean_session {
            1
        } else {
            random::rng().u32(1..=268_435_455)
        }
    }

    /// All of them, the first one first.
    pub(crate) fn endpoints(&self) -> Result<Vec<&Endpoint>, Error> {
        let further = self.failover.iter().map(|endpoint| endpoint.as_ref().map_err(Clone::clone));
        std::iter::once(Ok(&self.endpoint)).chain(further).collect()
    }
}

impl From<Endpoint> for Options {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            failover: Vec::new(),
            shuffle: false,
            transport: Settings::default(),
            version: Version::default(),
            mqtt5: Mqtt5::default(),
            client_id: None,
            credentials: Credentials::None,
            clean_session: true,
            keep_alive: Duration::from_secs(30),
            last_will: None,
            connect_timeout: Duration::from_secs(10),
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
            holds: None,
            #[cfg(feature = "trace-context")]
            trace_context: None,
        }
    }
}

/// The clock cannot count beyond some centuries; this is as good as never.
pub(crate) const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoint", &self.endpoint)
            .field("failover", &self.failover)
            .field("transport", &self.transport)
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
    fn what_is_no_host_is_refused_and_never_shown() {
        for text in ["mqtt://u:hunter2@h", "hunter2:1884", "[hunter2::1]", "hunter2\r\nX: y", "hunter2/a", ""] {
            let options = Options::new(text).port(2883);
            let error = options.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{text}");
            assert!(!format!("{options:?} {} {error:?}", options.endpoint).contains("hunter2"), "{error:?}");
        }
        let error = Options::from_url("unix:/run/broker.sock").unwrap().port(1883).check().unwrap_err();
        assert!(error.to_string().contains("port is set"), "{error}");
        Options::new("::1").check().unwrap();
    }

    #[test]
    fn a_list_of_brokers_can_be_lent() {
        let list = vec!["mqtt://second".to_owned(), "mqtt://third".to_owned()];
        assert_eq!(Options::new("first").failover(&list).endpoints().unwrap().len(), 3);
    }

    #[test]
    fn an_invalid_will_is_refused_before_connecting() {
        let options = Options::new("localhost").last_will(LastWill::new("a/#", "x"));
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::InvalidTopic);
        let options = Options::new("localhost").last_will(LastWill::new("a", vec![0; 65_536]));
        assert_eq!(options.check().unwrap_err().kind(), ErrorKind::InvalidOptions);
    }
}
