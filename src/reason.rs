//! Reason codes: why a broker said no, as it said it.

use std::fmt;

/// The reason code of an answer (MQTT 5, section 2.4); from a broker of an earlier version, the code of MQTT 5 that
/// says the same.
///
/// ```
/// use mqtt_agent::ReasonCode;
///
/// assert_eq!(ReasonCode::NOT_AUTHORIZED.to_string(), "not authorized (0x87)");
/// assert!(ReasonCode(0x87).is_failure());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($code:literal $name:ident $text:literal,)*) => {
        impl ReasonCode {
            $(#[doc = concat!("`", stringify!($code), "`: ", $text, ".")]
            pub const $name: Self = Self($code);)*

            fn text(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

reason_codes! {
    0x00 SUCCESS "success",
    0x04 DISCONNECT_WITH_WILL "disconnected, the will to be published",
    0x10 NO_MATCHING_SUBSCRIBERS "no matching subscribers",
    0x11 NO_SUBSCRIPTION_EXISTED "no subscription existed",
    0x18 CONTINUE_AUTHENTICATION "continue authentication",
    0x19 REAUTHENTICATE "authenticate again",
    0x80 UNSPECIFIED_ERROR "unspecified error",
    0x81 MALFORMED_PACKET "malformed packet",
    0x82 PROTOCOL_ERROR "protocol error",
    0x83 IMPLEMENTATION_SPECIFIC_ERROR "implementation specific error",
    0x84 UNSUPPORTED_PROTOCOL_VERSION "unsupported protocol version",
    0x85 CLIENT_IDENTIFIER_NOT_VALID "client identifier not valid",
    0x86 BAD_USER_NAME_OR_PASSWORD "bad user name or password",
    0x87 NOT_AUTHORIZED "not authorized",
    0x88 SERVER_UNAVAILABLE "server unavailable",
    0x89 SERVER_BUSY "server busy",
    0x8a BANNED "banned",
    0x8b SERVER_SHUTTING_DOWN "server shutting down",
    0x8c BAD_AUTHENTICATION_METHOD "bad authentication method",
    0x8d KEEP_ALIVE_TIMEOUT "keep alive timeout",
    0x8e SESSION_TAKEN_OVER "session taken over: another client connected with the same client identifier",
    0x8f TOPIC_FILTER_INVALID "topic filter invalid",
    0x90 TOPIC_NAME_INVALID "topic name invalid",
    0x91 PACKET_IDENTIFIER_IN_USE "packet identifier in use",
    0x92 PACKET_IDENTIFIER_NOT_FOUND "packet identifier not found",
    0x93 RECEIVE_MAXIMUM_EXCEEDED "receive maximum exceeded",
    0x94 TOPIC_ALIAS_INVALID "topic alias invalid",
    0x95 PACKET_TOO_LARGE "packet too large",
    0x96 MESSAGE_RATE_TOO_HIGH "message rate too high",
    0x97 QUOTA_EXCEEDED "quota exceeded",
    0x98 ADMINISTRATIVE_ACTION "administrative action",
    0x99 PAYLOAD_FORMAT_INVALID "payload format invalid",
    0x9a RETAIN_NOT_SUPPORTED "retain not supported",
    0x9b QOS_NOT_SUPPORTED "QoS not supported",
    0x9c USE_ANOTHER_SERVER "use another server",
    0x9d SERVER_MOVED "server moved",
    0x9e SHARED_SUBSCRIPTIONS_NOT_SUPPORTED "shared subscriptions not supported",
    0x9f CONNECTION_RATE_EXCEEDED "connection rate exceeded",
    0xa0 MAXIMUM_CONNECT_TIME "maximum connect time",
    0xa1 SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED "subscription identifiers not supported",
    0xa2 WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED "wildcard subscriptions not supported",
}

impl ReasonCode {
    /// Whether it stands for a failure: 0x80 and above.
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} ({:#04x})", self.0),
            None => write!(f, "reason code {:#04x}", self.0),
        }
    }
}

/// A code, and what the broker said to people beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reason {
    pub(crate) code: ReasonCode,
    pub(crate) text: Option<Box<str>>,
}

impl Reason {
    pub(crate) fn is_failure(&self) -> bool {
        self.code.is_failure()
    }
}

impl From<ReasonCode> for Reason {
    fn from(code: ReasonCode) -> Self {
        Self { code, text: None }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{}: {}", self.code, Printable(text)),
            None => self.code.fmt(f),
        }
    }
}

/// A broker's words in a log line: short, and without what a terminal would obey.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 200;
        write!(f, "{}", self.0.chars().take(LIMIT).collect::<String>().escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_without_a_name_is_shown_as_a_number() {
        assert_eq!(ReasonCode(0xfe).to_string(), "reason code 0xfe");
        assert!(!ReasonCode::NO_MATCHING_SUBSCRIBERS.is_failure());
    }

    #[test]
    fn the_words_of_a_broker_are_cut_and_tamed() {
        let text = format!("no\x1b[2J{}", "x".repeat(1000));
        let reason = Reason { code: ReasonCode::NOT_AUTHORIZED, text: Some(text.into()) };
        let shown = reason.to_string();
        assert!(shown.starts_with("not authorized (0x87): no\\u{1b}[2Jxx") && shown.len() < 300, "{shown}");
    }
}
