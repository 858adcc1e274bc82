//! Errors as a web server tells them: a status, and a body that says whether to try again.

use std::fmt;
use std::time::Duration;

use super::{Error, ErrorKind, Outcome, Refusal};
use crate::ReasonCode;

/// An [`Error`] as a web server answers with it: a problem detail (RFC 9457), made by [`Error::problem`].
///
/// With the feature `serde` it can be written as JSON, to go out as `application/problem+json`; with the feature `axum`
/// a handler returns the [`Error`] itself. It holds the error's own text, which has no password in it, nor a payload but for
/// the beginning of what the other side of a request said in place of an answer ([`ErrorKind::Remote`]); but not what is
/// behind the error ([`source`](std::error::Error::source)): that is for the log.
///
/// ```
/// use mqtt_agent::Topic;
///
/// let problem = Topic::new("devices/+/led").unwrap_err().problem();
/// assert_eq!((problem.status, problem.title), (400, "Bad Request"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Problem {
    /// `about:blank`: the status says what kind of problem it is.
    pub r#type: &'static str,
    /// The name of the status.
    pub title: &'static str,
    /// The status of the answer; see [`Error::http_status`].
    pub status: u16,
    /// The error's text.
    pub detail: String,
    /// What became of the message: `not_sent` (safe to try again), `refused` or `unknown`.
    pub outcome: Outcome,
    /// When to try again, for a header `Retry-After`: set where nothing was sent and a while may mend it, so
    /// not after the end.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// The media type of a problem written as JSON.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";
}

impl Error {
    /// The HTTP status with which a web server answers for this error:
    ///
    /// | kind | status |
    /// |---|---|
    /// | `InvalidTopic`, `InvalidFilter`, `InvalidArgument` | 400 Bad Request |
    /// | `PublishRefused`, `SubscribeRefused`, `UnsubscribeRefused` for [`ReasonCode::NOT_AUTHORIZED`] | 403 Forbidden |
    /// | `NoResponders`, `UnknownBroker` | 404 Not Found |
    /// | `KeyInUse` | 409 Conflict |
    /// | `TooLarge` | 413 Content Too Large |
    /// | `InvalidOptions`, `NoRuntime`, `AlreadySet`, `OwnThread`, `Lagged` | 500 Internal Server Error |
    /// | `Unsupported` | 501 Not Implemented |
    /// | `PublishRefused`, `SubscribeRefused`, `UnsubscribeRefused`, `Remote`, `Decode`, `Refused`, `Protocol`, `Tls`, `WebSocket`, `Proxy`, `Authentication` | 502 Bad Gateway |
    /// | `Offline`, `Connection`, `Disconnected`, `QueueFull`, `Closed`; `Refused` by a broker that is unavailable or busy | 503 Service Unavailable |
    /// | `Timeout` | 504 Gateway Timeout |
    ///
    /// A call that waits for a connection ([`Offline::Wait`](crate::Offline::Wait), the default) ends as `Timeout` when
    /// none comes; a web server that would rather answer 503 at once chooses [`Offline::Fail`](crate::Offline::Fail).
    pub fn http_status(&self) -> u16 {
        use ErrorKind as Kind;
        match self.kind() {
            Kind::InvalidTopic | Kind::InvalidFilter | Kind::InvalidArgument => 400,
            Kind::PublishRefused | Kind::SubscribeRefused | Kind::UnsubscribeRefused => match self.reason_code() {
                Some(ReasonCode::NOT_AUTHORIZED) => 403,
                _ => 502,
            },
            Kind::NoResponders | Kind::UnknownBroker => 404,
            Kind::KeyInUse => 409,
            Kind::TooLarge => 413,
            Kind::InvalidOptions | Kind::NoRuntime | Kind::AlreadySet | Kind::OwnThread | Kind::Lagged(_) => 500,
            Kind::Unsupported => 501,
            Kind::Refused(Refusal::ServerUnavailable | Refusal::ServerBusy | Refusal::ConnectionRateExceeded) => 503,
            Kind::Remote | Kind::Decode | Kind::Refused(_) | Kind::Protocol => 502,
            Kind::Tls(_) | Kind::WebSocket(_) | Kind::Proxy | Kind::Authentication => 502,
            Kind::Offline | Kind::Connection | Kind::Disconnected | Kind::QueueFull | Kind::Closed => 503,
            Kind::Timeout => 504,
        }
    }

    /// What a web server answers with for this error.
    pub fn problem(&self) -> Problem {
        let status = self.http_status();
        let is_worth_it = status == 503 && self.outcome() == Outcome::NotSent && !self.is_closed();
        Problem {
            r#type: "about:blank",
            title: title(status),
            status,
            detail: self.to_string(),
            outcome: self.outcome(),
            retry_after: is_worth_it.then_some(RETRY_AFTER),
        }
    }
}

/// About the time in which a lost connection is back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The names of the statuses above (RFC 9110, section 15).
fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        413 => "Content Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;
    use crate::{TlsFailure, WebSocketFailure};

    fn of(kind: ErrorKind) -> Error {
        Error::new(kind, "it failed")
    }

    #[test]
    fn every_kind_has_its_status() {
        use ErrorKind as Kind;
        let table: &[(u16, &[Kind])] = &[
            (400, &[Kind::InvalidTopic, Kind::InvalidFilter, Kind::InvalidArgument]),
            (404, &[Kind::NoResponders, Kind::UnknownBroker]),
            (409, &[Kind::KeyInUse]),
            (413, &[Kind::TooLarge]),
            (500, &[Kind::InvalidOptions, Kind::NoRuntime, Kind::AlreadySet, Kind::OwnThread, Kind::Lagged(3)]),
            (501, &[Kind::Unsupported]),
            (502, &[Kind::PublishRefused, Kind::SubscribeRefused, Kind::UnsubscribeRefused, Kind::Protocol]),
            (502, &[Kind::Remote, Kind::Decode]),
            (502, &[Kind::Refused(Refusal::NotAuthorized), Kind::Refused(Refusal::Banned), Kind::Authentication]),
            (502, &[Kind::Tls(TlsFailure::Other), Kind::WebSocket(WebSocketFailure::Handshake), Kind::Proxy]),
            (503, &[Kind::Offline, Kind::Connection, Kind::Disconnected, Kind::QueueFull, Kind::Closed]),
            (503, &[Kind::Refused(Refusal::ServerUnavailable), Kind::Refused(Refusal::ServerBusy)]),
            (503, &[Kind::Refused(Refusal::ConnectionRateExceeded)]),
            (504, &[Kind::Timeout]),
        ];
        for (status, kinds) in table {
            for kind in *kinds {
                assert_eq!(of(*kind).http_status(), *status, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_the_brokers_access_rules_forbid_is_forbidden() {
        let denied = Reason::from(ReasonCode::NOT_AUTHORIZED);
        assert_eq!(Error::publish_refused(&denied).http_status(), 403);
        assert_eq!(Error::subscribe_refused("secret/#", &denied).http_status(), 403);
        assert_eq!(Error::unsubscribe_refused("secret/#", &denied).http_status(), 403);
        assert_eq!(Error::publish_refused(&ReasonCode::QUOTA_EXCEEDED.into()).http_status(), 502);
    }

    #[test]
    fn every_status_has_its_name() {
        let named = [400, 403, 404, 409, 413, 501, 502, 503, 504].map(title);
        assert!(named.iter().all(|name| *name != title(500)));
    }

    #[test]
    fn to_try_again_is_advised_only_where_nothing_was_sent() {
        assert_eq!(of(ErrorKind::Offline).problem().retry_after, Some(RETRY_AFTER));
        assert_eq!(of(ErrorKind::Connection).with_outcome(Outcome::Unknown).problem().retry_after, None);
        assert_eq!(of(ErrorKind::Closed).problem().retry_after, None, "what has ended does not come back");
        assert_eq!(of(ErrorKind::InvalidTopic).problem().retry_after, None);
    }

    #[cfg(feature = "serde")]
    #[test]
    fn the_body_is_a_problem_detail_and_says_nothing_of_the_source() {
        let source = std::io::Error::other("password hunter2");
        let error = of(ErrorKind::Timeout).with_outcome(Outcome::Unknown).with_source(source);
        let body = serde_json::to_value(error.problem()).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": "Gateway Timeout",
            "status": 504,
            "detail": "it failed",
            "outcome": "unknown",
        });
        assert_eq!(body, expected);
    }
}
