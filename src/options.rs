//! How an agent connects and what it may hold: from a URL, by setters, checked before anything is dialled.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::reconnect::{Backoff, ReconnectPolicy};
use crate::wire::{self, Version};
use crate::{Agent, Error, QoS, Topic};

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

/// The message the broker publishes for this client when its connection ends without a DISCONNECT
/// (MQTT 3.1.1, section 3.1.2.5).
#[derive(Clone)]
pub struct LastWill {
    topic: Result<Topic, Error>,
    payload: Bytes,
    qos: QoS,
    retain: bool,
}

impl LastWill {
    /// A will with QoS 1, not retained. A topic that is not valid is reported when the agent connects.
    pub fn new<T>(topic: T, payload: impl Into<Bytes>) -> Self
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        Self {
            topic: topic.try_into().map_err(Into::into),
            payload: payload.into(),
            qos: QoS::default(),
            retain: false,
        }
    }

    /// The quality of service it is published with.
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Whether the broker keeps it as the topic's retained message.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    pub(crate) fn to_publish(&self) -> Result<wire::Publish, Error> {
        Ok(wire::Publish {
            topic: self.topic.clone()?,
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
        })
    }
}

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(crate) username: String,
    pub(crate) password: Option<String>,
}

impl Login {
    /// With a user name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Some(password.into()) }
    }

    /// With a user name alone.
    pub fn username(username: impl Into<String>) -> Self {
        Self { username: username.into(), password: None }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

type LoginFuture = Pin<Box<dyn Future<Output = Result<Login, Error>> + Send>>;

#[derive(Clone)]
pub(crate) enum Credentials {
    None,
    Fixed(Login),
    /// Asked before each CONNECT.
    Fresh(Arc<dyn Fn() -> LoginFuture + Send + Sync>),
}

impl Options {
    /// For a broker at this host, port 1883.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: 1883,
            version: Version::default(),
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
        }
    }

    /// From a URL: `mqtt://[user[:password]@]host[:port][?option=value&…]`, user name and password percent-encoded.
    ///
    /// The options in the query have the names of the setters: `client_id`, `version` (`3.1`, `3.1.1`),
    /// `clean_session` (`true`, `false`), `keep_alive`, `connect_timeout`, `timeout` (seconds, fractions allowed),
    /// `max_in_flight`, `max_queued`, `max_packet_size`, `stream_capacity`, `offline` (`fail`, `wait`, `queue`).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) for a text that is no URL, an unknown scheme, an
    /// unknown option or a value that does not fit. The text never repeats the URL, which may hold a password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = Url::parse(url)
            .map_err(|source| Error::invalid_options("this is no URL: write mqtt://host:port").with_source(source))?;
        match url.scheme() {
            "mqtt" | "tcp" => {}
            other => {
                return Err(Error::invalid_options(format!("the scheme {other:?} is unknown: use mqtt:// (or tcp://)")))
            }
        }
        let host = url.host().ok_or_else(|| Error::invalid_options("the URL names no host"))?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(Error::invalid_options("an mqtt:// URL has no path or fragment: topics go into the calls"));
        }
        // Without the brackets that a URL puts around an IPv6 address.
        let mut options = Self::new(match host {
            url::Host::Ipv6(address) => address.to_string(),
            host => host.to_string(),
        });
        options.port = url.port().unwrap_or(options.port);
        if !url.username().is_empty() {
            options.credentials = Credentials::Fixed(Login {
                username: percent_decode("user name", url.username())?,
                password: url.password().map(|password| percent_decode("password", password)).transpose()?,
            });
        } else if url.password().is_some() {
            return Err(Error::invalid_options("the URL has a password but no user name"));
        }
        for (name, value) in url.query_pairs() {
            options = options.query(&name, &value)?;
        }
        Ok(options)
    }

    fn query(self, name: &str, value: &str) -> Result<Self, Error> {
        let seconds = || {
            parse::<f64>(name, value).and_then(|seconds| {
                Duration::try_from_secs_f64(seconds)
                    .map_err(|_| Error::invalid_options(format!("{name}: {value:?} is no number of seconds")))
            })
        };
        Ok(match name {
            "client_id" => self.client_id(value),
            "version" => match value {
                "3.1" => self.version(Version::V31),
                "3.1.1" | "4" => self.version(Version::V311),
                _ => return Err(Error::invalid_options(format!("version: {value:?} is neither 3.1.1 nor 3.1"))),
            },
            "clean_session" => self.clean_session(parse(name, value)?),
            "keep_alive" => self.keep_alive(seconds()?),
            "connect_timeout" => self.connect_timeout(seconds()?),
            "timeout" => self.timeout(seconds()?),
            "max_in_flight" => self.max_in_flight(parse(name, value)?),
            "max_queued" => self.max_queued(parse(name, value)?),
            "max_packet_size" => self.max_packet_size(parse(name, value)?),
            "stream_capacity" => self.stream_capacity(parse(name, value)?),
            "offline" => match value {
                "fail" => self.offline(Offline::Fail),
                "wait" => self.offline(Offline::Wait),
                "queue" => self.offline(Offline::Queue),
                _ => return Err(Error::invalid_options(format!("offline: {value:?} is not fail, wait or queue"))),
            },
            _ => return Err(Error::invalid_options(format!("the option {name:?} is unknown"))),
        })
    }

    /// The TCP port. Default: 1883.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The protocol version. Default: 3.1.1.
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

    /// How many QoS 1 and 2 publishes may be unacknowledged at once, 1 to 65,000. Default: 65,000.
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
        if let Credentials::Fixed(login) = &self.credentials {
            login.check()?;
        }
        if let Some(will) = &self.last_will {
            will.to_publish()?;
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
        if self.max_in_flight == 0 || self.max_in_flight > 65_000 {
            return refuse("max_in_flight must be 1 to 65,000");
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

    /// `host:port` for messages to people.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Login {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.username.is_empty() {
            // MQTT 3.1.1 forbids a password without a user name, and brokers refuse an empty one.
            return Err(Error::invalid_options("the user name is empty"));
        }
        check_field("user name", &self.username)?;
        check_field("password", self.password.as_deref().unwrap_or_default())
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

fn parse<T: FromStr>(name: &str, value: &str) -> Result<T, Error> {
    value.parse().map_err(|_| Error::invalid_options(format!("{name}: {value:?} is not a value it can have")))
}

fn percent_decode(what: &str, text: &str) -> Result<String, Error> {
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|source| {
        Error::invalid_options(format!("the {what} in the URL is not percent-encoded UTF-8")).with_source(source)
    })
}

impl FromStr for Options {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<&str> for Options {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<String> for Options {
    type Error = Error;

    fn try_from(url: String) -> Result<Self, Error> {
        Self::from_url(&url)
    }
}

impl TryFrom<&String> for Options {
    type Error = Error;

    fn try_from(url: &String) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

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

impl fmt::Debug for LastWill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastWill").field("topic", &self.topic).field("qos", &self.qos).finish_non_exhaustive()
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

    fn refusal(url: &str) -> String {
        let error = Options::from_url(url).and_then(|options| options.check()).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::InvalidOptions, "{url}");
        error.to_string()
    }

    #[test]
    fn a_url_sets_what_it_names() {
        let url = "mqtt://us%40er:p%2B+a%26ss@[::1]:2883?client_id=web-1&version=3.1&keep_alive=7.0&timeout=0.5\
                   &clean_session=false&max_in_flight=9&max_queued=8&max_packet_size=7&stream_capacity=6&offline=fail";
        let options = Options::from_url(url).unwrap();
        assert_eq!(options.address(), "::1:2883");
        let Credentials::Fixed(login) = &options.credentials else { panic!("no credentials") };
        assert_eq!((login.username.as_str(), login.password.as_deref()), ("us@er", Some("p++a&ss")));
        assert_eq!(options.client_id.as_deref(), Some("web-1"));
        assert_eq!(options.version, Version::V31);
        assert_eq!(options.keep_alive, Duration::from_secs(7));
        assert_eq!(options.timeout, Duration::from_millis(500));
        assert!(!options.clean_session);
        assert_eq!(options.offline, Offline::Fail);
        assert_eq!((options.max_in_flight, options.max_queued), (9, 8));
        assert_eq!((options.max_packet_size, options.stream_capacity), (7, 6));
        options.check().unwrap();
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_with_a_reason() {
        assert!(refusal("localhost:1883").contains("scheme"));
        assert!(refusal("not a url").contains("mqtt://host:port"));
        assert!(refusal("amqp://localhost").contains("amqp"));
        assert!(refusal("mqtt://").contains("host"));
        assert!(refusal("mqtt://localhost:70000").contains("URL"));
        assert!(refusal("mqtt://localhost:0").contains("port 0"));
        assert!(refusal("mqtt://localhost/a/topic").contains("path"));
        assert!(refusal("mqtt://localhost?cleint_id=x").contains("cleint_id"));
        assert!(refusal("mqtt://localhost?keep_alive=soon").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=-1").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=0.5").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?keep_alive=65536").contains("keep_alive"));
        assert!(refusal("mqtt://localhost?max_in_flight=0").contains("max_in_flight"));
        assert!(refusal("mqtt://localhost?max_queued=0").contains("max_queued"));
        assert!(refusal("mqtt://localhost?stream_capacity=0").contains("stream_capacity"));
        assert!(refusal("mqtt://localhost?clean_session=false").contains("client_id"));
        assert!(refusal("mqtt://localhost?version=3.1&client_id=").contains("23"));
        assert!(refusal("mqtt://:secret@localhost").contains("user name"));
        assert!(refusal(&format!("mqtt://localhost?client_id={}", "x".repeat(65_536))).contains("65,535"));
    }

    #[test]
    fn no_refusal_repeats_a_password() {
        for url in ["mqtt://u:hunter2@localhost:99999", "mqtt://u:hunter2@localhost?x=1", "x://u:hunter2@localhost"] {
            let error = Options::from_url(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let options = Options::from_url("mqtt://u:hunter2@localhost").unwrap();
        assert!(!format!("{options:?} {:?}", Login::new("u", "hunter2")).contains("hunter2"));
    }

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
