//! One constructor per kind.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "websocket")]
use super::WebSocketFailure;
use super::{Error, ErrorKind, Inner, Outcome, RemoteError, Short, TlsFailure};
use crate::reason::Reason;
use crate::Message;

impl Error {
    pub(super) fn new(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            outcome: Outcome::NotSent,
            text: text.into(),
            messages: Vec::new(),
            reason: None,
            server_reference: None,
            remote: None,
            source: None,
        }))
    }

    fn because(kind: ErrorKind, what: impl fmt::Display, reason: &Reason) -> Self {
        let mut error = Self::new(kind, format!("{what}: {reason}"));
        error.0.reason = Some(reason.code);
        error
    }

    pub(crate) fn invalid_topic(topic: &str, why: &str) -> Self {
        Self::new(ErrorKind::InvalidTopic, format!("invalid topic {}: {why}", Short(topic)))
    }

    pub(crate) fn invalid_filter(filter: &str, why: &str) -> Self {
        Self::new(ErrorKind::InvalidFilter, format!("invalid filter {}: {why}", Short(filter)))
    }

    pub(crate) fn invalid_options(why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidOptions, why)
    }

    pub(crate) fn invalid_argument(why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidArgument, why)
    }

    pub(crate) fn too_large(size: usize, limit: usize) -> Self {
        Self::new(ErrorKind::TooLarge, format!("the packet is {size} bytes, the limit is {limit}"))
    }

    pub(crate) fn refused(reason: &Reason) -> Self {
        Self::because(ErrorKind::Refused(reason.code.into()), "the broker refused the connection", reason)
    }

    pub(crate) fn disconnected(reason: &Reason) -> Self {
        Self::because(ErrorKind::Disconnected, "the broker ended the connection", reason)
    }

    pub(crate) fn authentication(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Authentication, text)
    }

    pub(crate) fn subscribe_refused(filter: &str, reason: &Reason) -> Self {
        let what = format!("the broker refused the filter {}", Short(filter));
        Self::because(ErrorKind::SubscribeRefused, what, reason)
    }

    pub(crate) fn unsubscribe_refused(filter: &str, reason: &Reason) -> Self {
        let what = format!("the broker did not end the subscription of {}", Short(filter));
        Self::because(ErrorKind::UnsubscribeRefused, what, reason)
    }

    pub(crate) fn publish_refused(reason: &Reason) -> Self {
        Self::because(ErrorKind::PublishRefused, "the broker refused the message", reason)
    }

    pub(crate) fn no_responders(reason: &Reason) -> Self {
        Self::because(ErrorKind::NoResponders, "nobody is there to answer", reason)
    }

    /// The reply that says it goes into [`messages`](Self::messages).
    pub(crate) fn remote_refused(remote: RemoteError) -> Self {
        let code = remote.code.map(|code| format!(" {code}")).unwrap_or_default();
        let text = format!("the other side answered with error{code}: {}", Short(&remote.message));
        let mut error = Self::new(ErrorKind::Remote, text).with_outcome(Outcome::Refused);
        error.0.remote = Some(Box::new(remote));
        error
    }

    pub(crate) fn key_in_use() -> Self {
        Self::new(ErrorKind::KeyInUse, "another call waits for a reply with the same key by the same reply filter")
    }

    /// A message came, so what it may answer was done.
    #[cfg(feature = "json")]
    pub(crate) fn decode(what: impl Into<Cow<'static, str>>, message: &Message) -> Self {
        Self::new(ErrorKind::Decode, what).with_outcome(Outcome::Unknown).with_messages(vec![message.clone()])
    }

    pub(crate) fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    pub(crate) fn timeout(what: &'static str) -> Self {
        Self::new(ErrorKind::Timeout, what)
    }

    pub(crate) fn offline() -> Self {
        Self::new(ErrorKind::Offline, "there is no connection to the broker now")
    }

    pub(crate) fn queue_full() -> Self {
        Self::new(
            ErrorKind::QueueFull,
            "too many messages were handed over and not sent yet: slow down, or raise max_queued",
        )
    }

    pub(crate) fn connection(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Connection, text)
    }

    pub(crate) fn tls(failure: TlsFailure, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Tls(failure), text)
    }

    #[cfg(feature = "websocket")]
    pub(crate) fn websocket(failure: WebSocketFailure, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::WebSocket(failure), text)
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn proxy(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Proxy, text)
    }

    pub(crate) fn missing_feature(what: impl fmt::Display, feature: &str) -> Self {
        Self::invalid_options(format!("{what} needs the feature {feature:?} of mqtt-agent"))
    }

    pub(crate) fn protocol(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, text)
    }

    pub(crate) fn lagging(lost: u64) -> Self {
        Self::new(ErrorKind::Lagged(lost), format!("{lost} messages were lost: they were not taken in time"))
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the agent is closed")
    }

    pub(crate) fn no_runtime() -> Self {
        Self::new(ErrorKind::NoRuntime, "an agent needs a Tokio runtime: call this from within one")
    }

    pub(crate) fn unknown_broker(name: &str) -> Self {
        Self::new(ErrorKind::UnknownBroker, format!("no broker named {} is registered", Short(name)))
    }

    pub(crate) fn already_set() -> Self {
        Self::new(ErrorKind::AlreadySet, "there is a global agent already: it is set, or was used, before this")
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn no_thread(source: std::io::Error) -> Self {
        Self::new(ErrorKind::NoRuntime, "the thread that is to run the agent cannot be started").with_source(source)
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn own_thread() -> Self {
        Self::new(ErrorKind::OwnThread, "a blocking call on the thread that runs its agent would wait for itself")
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    pub(crate) fn with_messages(mut self, messages: Vec<Message>) -> Self {
        self.0.messages = messages;
        self
    }

    pub(crate) fn with_server_reference(mut self, reference: Option<String>) -> Self {
        self.0.server_reference = reference.map(Into::into);
        self
    }

    pub(crate) fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }
}
