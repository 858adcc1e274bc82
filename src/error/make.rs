//! One constructor per kind.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "websocket")]
use super::WebSocketFailure;
use super::{Error, ErrorKind, Inner, Outcome, Refusal, RemoteError, Short, TlsFailure};
use crate::reason::{Reason, ReasonCode};
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
        let text = format!("the packet is {size} bytes, the limit is {limit}: send less in one, or in parts");
        Self::new(ErrorKind::TooLarge, text)
    }

    pub(crate) fn refused(reason: &Reason) -> Self {
        let refusal = reason.code.into();
        let advice = match refusal {
            Refusal::UnacceptableProtocolVersion => Some("set another version, or Version::Auto"),
            Refusal::IdentifierRejected => Some("set another client_id, or none"),
            Refusal::BadUserNameOrPassword | Refusal::NotAuthorized => Some("check the user name and the password"),
            Refusal::BadAuthenticationMethod => Some("check the method of Options::authentication"),
            Refusal::ServerUnavailable | Refusal::ServerBusy | Refusal::ConnectionRateExceeded => {
                Some("try again later")
            }
            _ => None,
        };
        Self::because(ErrorKind::Refused(refusal), "the broker refused the connection", reason).advised(advice)
    }

    pub(crate) fn disconnected(reason: &Reason) -> Self {
        Self::because(ErrorKind::Disconnected, "the broker ended the connection", reason)
    }

    pub(crate) fn authentication(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Authentication, text)
    }

    pub(crate) fn subscribe_refused(filter: &str, reason: &Reason) -> Self {
        let what = format!("the broker refused the filter {}", Short(filter));
        Self::because(ErrorKind::SubscribeRefused, what, reason).advised_of_rules()
    }

    pub(crate) fn unsubscribe_refused(filter: &str, reason: &Reason) -> Self {
        let what = format!("the broker did not end the subscription of {}", Short(filter));
        Self::because(ErrorKind::UnsubscribeRefused, what, reason)
    }

    pub(crate) fn publish_refused(reason: &Reason) -> Self {
        Self::because(ErrorKind::PublishRefused, "the broker refused the message", reason).advised_of_rules()
    }

    pub(crate) fn no_responders(reason: &Reason) -> Self {
        let error = Self::because(ErrorKind::NoResponders, "nobody is there to answer", reason);
        error.advised(Some("is the device connected, and is it the right topic?"))
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
        Self::new(
            ErrorKind::KeyInUse,
            "another call waits for a reply with the same key by the same reply filter: give each a key of its own, such \
             as Agent::next_id",
        )
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
        Self::new(
            ErrorKind::Offline,
            "there is no connection to the broker now: try again later, or wait for one (Offline::Wait)",
        )
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
        let text = format!(
            "{lost} messages were lost: they were not taken in time; read the stream faster, or raise its capacity"
        );
        Self::new(ErrorKind::Lagged(lost), text)
    }

    pub(crate) fn closed() -> Self {
        Self::new(ErrorKind::Closed, "the agent is closed: connect a new one")
    }

    pub(crate) fn no_runtime() -> Self {
        Self::new(ErrorKind::NoRuntime, "an agent needs a Tokio runtime: call this from within one")
    }

    pub(crate) fn unknown_broker(name: &str) -> Self {
        Self::new(ErrorKind::UnknownBroker, format!("no broker named {} is registered: add it first", Short(name)))
    }

    pub(crate) fn already_set() -> Self {
        Self::new(
            ErrorKind::AlreadySet,
            "there is a global agent already, set or used before this: set it once, before its first use",
        )
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn no_thread(source: std::io::Error) -> Self {
        let text = "the thread that is to run the agent cannot be started: has the process reached a limit?";
        Self::new(ErrorKind::NoRuntime, text).with_source(source)
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn own_thread() -> Self {
        Self::new(
            ErrorKind::OwnThread,
            "a blocking call on the thread that runs its agent would wait for itself: make it on another thread",
        )
    }

    /// With what to do about it, which the peer's own words do not say.
    fn advised(mut self, advice: Option<&str>) -> Self {
        if let Some(advice) = advice {
            self.0.text = format!("{}; {advice}", self.0.text).into();
        }
        self
    }

    /// Before MQTT 5 a broker has no other word for it than an unspecified error.
    fn advised_of_rules(self) -> Self {
        let may_be_rules = matches!(self.0.reason, Some(ReasonCode::NOT_AUTHORIZED | ReasonCode::UNSPECIFIED_ERROR));
        self.advised(may_be_rules.then_some("do its access rules allow that to this client?"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_broker_said_and_what_to_do() {
        let reason = Reason { code: ReasonCode::NOT_AUTHORIZED, text: Some("who are you".into()) };
        let text = Error::refused(&reason).to_string();
        assert_eq!(
            text,
            "the broker refused the connection: not authorized (0x87): who are you; check the user name and the password"
        );
        let version = Error::refused(&ReasonCode::UNSUPPORTED_PROTOCOL_VERSION.into()).to_string();
        assert!(version.ends_with("; set another version, or Version::Auto"), "{version}");
        let banned = Error::refused(&ReasonCode::BANNED.into()).to_string();
        assert_eq!(banned, "the broker refused the connection: banned (0x8a)");
    }

    #[test]
    fn what_access_rules_may_forbid_is_told_as_such() {
        for code in [ReasonCode::NOT_AUTHORIZED, ReasonCode::UNSPECIFIED_ERROR] {
            let texts = [Error::subscribe_refused("a/#", &code.into()), Error::publish_refused(&code.into())];
            assert!(texts.iter().all(|error| error.to_string().contains("access rules")), "{texts:?}");
        }
        let full = Error::publish_refused(&ReasonCode::QUOTA_EXCEEDED.into()).to_string();
        assert!(!full.contains("access rules"), "{full}");
    }
}
