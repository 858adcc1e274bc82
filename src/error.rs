//! One error for the whole crate: a kind to match on, a sentence to read, and what became of the message.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::reason::ReasonCode;
use crate::Message;

#[cfg(feature = "axum")]
mod axum;
mod handshake;
mod make;
mod problem;

pub use handshake::{TlsFailure, WebSocketFailure};
pub use problem::Problem;

/// What went wrong in a call, a connection or a stream.
///
/// Match on [`kind`](Self::kind); where a message was to be sent, [`outcome`](Self::outcome) tells whether it may
/// be sent again without the risk of doing it twice. The text never contains a password, nor a payload but for the
/// beginning of what the other side of a request said in place of an answer ([`ErrorKind::Remote`]).
///
/// ```
/// use mqtt_agent::{ErrorKind, Topic};
///
/// let error = Topic::new("devices/+/led").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidTopic);
/// ```
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
struct Inner {
    kind: ErrorKind,
    outcome: Outcome,
    text: Cow<'static, str>,
    messages: Vec<Message>,
    reason: Option<ReasonCode>,
    server_reference: Option<Box<str>>,
    remote: Option<Box<RemoteError>>,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// Why an operation failed. The text of the [`Error`] says what to do about the case at hand; where a message was to be
/// sent, [`Error::outcome`] says whether it may be sent again.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::ErrorKind;
///
/// match agent.publish("devices/42/led", "on").await {
///     Ok(_) => {}
///     Err(error) => match error.kind() {
///         ErrorKind::Offline | ErrorKind::Timeout => eprintln!("the broker is away: {error}"),
///         ErrorKind::PublishRefused => eprintln!("not allowed: {:?}", error.reason_code()),
///         ErrorKind::Closed => return Err(error), // this agent will not come back
///         _ => eprintln!("{error}"),
///     },
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is no topic name: empty, too long, with a wildcard or a NUL.
    InvalidTopic,
    /// The text is no topic filter: empty, too long, a misplaced wildcard, an incomplete `$share`.
    InvalidFilter,
    /// The URL or an option of the agent cannot be used; nothing was connected.
    InvalidOptions,
    /// An argument of this call cannot be used; nothing was sent.
    InvalidArgument,
    /// The packet would be larger than the protocol (256 MiB) or the broker
    /// ([`Terms::maximum_packet_size`](crate::Terms::maximum_packet_size)) allows; nothing was sent.
    TooLarge,
    /// The broker answered CONNECT with a refusal. [`Agent::connect`](crate::Agent::connect) fails with it; a connected
    /// agent tries again, as its [`ReconnectPolicy`](crate::ReconnectPolicy) says.
    Refused(Refusal),
    /// The broker refused a filter; the error's text names it, and [`Error::reason_code`] says why where the broker did.
    SubscribeRefused,
    /// The broker did not end a subscription; the error's text names the filter.
    UnsubscribeRefused,
    /// The broker refused the message; [`Error::reason_code`] says why (MQTT 5, section 3.4.2.1; some brokers say it to
    /// clients of 3.1.1 too).
    PublishRefused,
    /// The broker said that nobody is subscribed to the request's topic (MQTT 5, reason code 0x10; few brokers do).
    NoResponders,
    /// The one who was asked answered with an error: [`Error::remote`] has what it said, and [`Error::messages`] the
    /// reply itself.
    Remote,
    /// Another call on the same reply filter waits for a reply with the same key; nothing was sent. See
    /// [`Correlation`](crate::rpc::Correlation).
    KeyInUse,
    /// The payload is not what it was to be read as; [`Error::messages`] has the message.
    Decode,
    /// The connection cannot carry what was asked for: a property on a version before MQTT 5, or something that this
    /// broker says it does not offer. Nothing was sent.
    Unsupported,
    /// The deadline of the call passed. [`Error::outcome`] tells whether its message was sent.
    Timeout,
    /// There is no connection now, and the call was told not to wait for one.
    Offline,
    /// The agent holds as many messages that were handed over as it may (see
    /// [`Options::max_queued`](crate::Options::max_queued)); this one was not taken. Later there is room again; a
    /// publish that is awaited needs none.
    QueueFull,
    /// The broker could not be reached, or the connection to it broke: as the reason in the
    /// [`State`](crate::State), and as the error of what is not sent again, a message at QoS 0.
    Connection,
    /// TLS could not be set up, or broke.
    Tls(TlsFailure),
    /// The WebSocket handshake failed.
    WebSocket(WebSocketFailure),
    /// The proxy refused to connect to the broker, or did not speak its protocol.
    Proxy,
    /// The broker ended the connection and said why: see [`Error::reason_code`] (the DISCONNECT of MQTT 5).
    Disconnected,
    /// The function that answers the broker in an authentication exchange failed, or the broker did.
    Authentication,
    /// The peer sent something that is not MQTT, or not allowed at that point. The connection is ended.
    Protocol,
    /// A stream lost this many messages because they were not taken in time: read it faster, or raise its
    /// [`capacity`](crate::Subscribe::capacity). It goes on.
    Lagged(u64),
    /// The agent has ended: it was closed or drained, its last handle was dropped, its policy gave up
    /// ([`State::Closed`](crate::State::Closed) has the reason), or its runtime ended. It does not come back.
    Closed,
    /// There is no Tokio runtime here to run the agent, or no thread for a blocking one.
    NoRuntime,
    /// No broker of this name is registered; the error's text names it.
    UnknownBroker,
    /// There is a global agent already: see [`global`](crate::global).
    AlreadySet,
    /// A blocking call was made on the thread that runs its agent, where it would wait for itself.
    OwnThread,
}

/// The broker's reason for refusing a connection: the CONNACK return code (MQTT 3.1.1, table 3.1; MQTT 5, section
/// 3.2.2.2). The more common ones have a name; [`Error::reason_code`] has them all.
///
/// ```no_run
/// # async fn example() {
/// use mqtt_agent::{Agent, ErrorKind, Refusal};
///
/// match Agent::connect("mqtt://user:secret@localhost").await.map_err(|error| error.kind()) {
///     Err(ErrorKind::Refused(Refusal::BadUserNameOrPassword | Refusal::NotAuthorized)) => eprintln!("who are you?"),
///     Err(kind) => eprintln!("{kind:?}"),
///     Ok(_agent) => {}
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The broker does not speak the protocol version asked for.
    UnacceptableProtocolVersion,
    /// The client identifier is well formed but not allowed.
    IdentifierRejected,
    /// The MQTT service is unavailable.
    ServerUnavailable,
    /// The user name or the password is malformed or wrong.
    BadUserNameOrPassword,
    /// The client is not authorised to connect.
    NotAuthorized,
    /// The broker is busy: try again later.
    ServerBusy,
    /// The client is banned by an administrator.
    Banned,
    /// The authentication method is not supported, or not the one that was used before.
    BadAuthenticationMethod,
    /// A quota is exceeded.
    QuotaExceeded,
    /// Another broker should be used for now: [`Error::server_reference`] may name it.
    UseAnotherServer,
    /// Another broker should be used from now on: [`Error::server_reference`] may name it.
    ServerMoved,
    /// Too many connections in too short a time.
    ConnectionRateExceeded,
    /// A reason without a name here.
    Other(ReasonCode),
}

impl From<ReasonCode> for Refusal {
    fn from(code: ReasonCode) -> Self {
        match code {
            ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => Self::UnacceptableProtocolVersion,
            ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => Self::IdentifierRejected,
            ReasonCode::SERVER_UNAVAILABLE => Self::ServerUnavailable,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD => Self::BadUserNameOrPassword,
            ReasonCode::NOT_AUTHORIZED => Self::NotAuthorized,
            ReasonCode::SERVER_BUSY => Self::ServerBusy,
            ReasonCode::BANNED => Self::Banned,
            ReasonCode::BAD_AUTHENTICATION_METHOD => Self::BadAuthenticationMethod,
            ReasonCode::QUOTA_EXCEEDED => Self::QuotaExceeded,
            ReasonCode::USE_ANOTHER_SERVER => Self::UseAnotherServer,
            ReasonCode::SERVER_MOVED => Self::ServerMoved,
            ReasonCode::CONNECTION_RATE_EXCEEDED => Self::ConnectionRateExceeded,
            other => Self::Other(other),
        }
    }
}

/// What the one who was asked said in place of an answer; see [`ErrorKind::Remote`].
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) {
/// let call = agent.request("dev/42/rpc", "open").reply_to("dev/42/res").await;
/// if let Some(remote) = call.as_ref().err().and_then(|error| error.remote()) {
///     println!("the device says {:?}: {}", remote.code, remote.message);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteError {
    /// The number of the error, where the convention has one.
    pub code: Option<i64>,
    /// The text of the error; empty where there is none.
    pub message: String,
}

impl RemoteError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into() }
    }

    /// With this number.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for RemoteError {}

/// What became of the message of a failed [`publish`](crate::Agent::publish) or
/// [`request`](crate::Agent::request).
///
/// ```no_run
/// use mqtt_agent::{Agent, Error, Outcome};
///
/// /// Whether it was opened; once more where that can do no harm.
/// async fn open(agent: &Agent) -> Result<bool, Error> {
///     for _ in 0..3 {
///         match agent.publish("door/1/cmd", "open").await {
///             Ok(_) => return Ok(true),
///             Err(error) if error.is_closed() => return Err(error),
///             Err(error) if error.outcome() == Outcome::NotSent => {}
///             Err(error) => return Err(error),
///         }
///     }
///     Ok(false)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Outcome {
    /// No byte of it left, and none will: safe to try again.
    NotSent,
    /// It arrived and the broker, its access rules, or the one who was asked said no.
    Refused,
    /// It left, or may have; no answer came. Trying again may do it twice.
    Unknown,
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What became of the message; [`Outcome::NotSent`] where the call had none to send.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether a deadline passed.
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the agent was closed.
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// How many messages a stream lost, if that is what this error reports.
    pub fn lagged(&self) -> Option<u64> {
        match self.kind() {
            ErrorKind::Lagged(lost) => Some(lost),
            _ => None,
        }
    }

    /// The broker's reason, where it gave one: for refusing a connection, a message or a filter, or for ending the
    /// connection. From a broker of a version before MQTT 5 it is the code of MQTT 5 that says the same.
    pub fn reason_code(&self) -> Option<ReasonCode> {
        self.0.reason
    }

    /// The other broker that this one would have the client use (MQTT 5, section 4.11), as it wrote it. The agent does
    /// not go there by itself: whoever may speak for the broker could send it anywhere.
    pub fn server_reference(&self) -> Option<&str> {
        self.0.server_reference.as_deref()
    }

    /// What the one who was asked said in place of an answer, if that is what this error reports. The text is theirs:
    /// it may be of any length.
    pub fn remote(&self) -> Option<&RemoteError> {
        self.0.remote.as_deref()
    }

    /// The messages that did arrive before the call failed: the part of a
    /// [`collect`](crate::Agent::collect) or of a request for several replies that came in time; the reply that is an
    /// error; the message that could not be decoded.
    pub fn messages(&self) -> &[Message] {
        &self.0.messages
    }

    /// The same as [`messages`](Self::messages), by value.
    pub fn into_messages(self) -> Vec<Message> {
        self.0.messages
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, outcome, text, messages, source, .. } = &*self.0;
        let mut debug = f.debug_struct("Error");
        debug.field("kind", kind).field("text", text).field("outcome", outcome);
        if !messages.is_empty() {
            debug.field("messages", &messages.len());
        }
        if let Some(source) = source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

/// Quotes a text, cut to a length that fits a log line.
pub(crate) struct Short<'a>(pub(crate) &'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 80;
        match self.0.char_indices().nth(LIMIT) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

/// Lets conversions that cannot fail stand where one that can is asked for.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_is_one_word_wide_and_can_be_sent_between_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
        assert_eq!(std::mem::size_of::<Result<(), Error>>(), std::mem::size_of::<usize>());
    }

    #[test]
    fn the_text_is_its_own_level_only() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::connection("cannot reach localhost:1883").with_source(io);
        assert_eq!(error.to_string(), "cannot reach localhost:1883");
        assert!(error.source().is_some_and(|source| source.to_string().contains("refused")));
    }

    #[test]
    fn a_long_topic_is_cut_in_the_text() {
        let error = Error::invalid_topic(&"é".repeat(70_000), "too long");
        assert!(error.to_string().len() < 300, "{error}");
    }
}
