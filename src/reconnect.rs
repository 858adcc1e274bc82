//! When to try again after a connection was lost.

use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::random::rng;
use crate::telemetry::TARGET;
use crate::{Error, ErrorKind, Refusal};

/// What is known when a connection was lost, or could not be made; given to a [`ReconnectPolicy`], which has an example.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Lost {
    /// Why.
    pub reason: Error,
    /// How many connections in a row were lost or failed, this one included; at least 1. A connection that held for
    /// [`Lost::STABLE`] starts the count anew, one that dies young does not.
    pub attempt: u32,
}

/// Between two attempts, whatever the policy says: without a pause a broker that refuses is flooded.
pub(crate) const SHORTEST_DELAY: Duration = Duration::from_millis(10);

impl Lost {
    /// How long a connection must hold before the next loss counts as the first.
    pub const STABLE: Duration = Duration::from_secs(10);
}

/// Decides after each loss how long to wait before the next attempt, or to stop.
///
/// A closure is a policy:
///
/// ```
/// use mqtt_agent::{ErrorKind, Lost, Options};
/// use std::time::Duration;
///
/// let options = Options::new("localhost").reconnect(|lost: &Lost| match lost.reason.kind() {
///     ErrorKind::Refused(_) => None,
///     _ => Some(Duration::from_secs(1)),
/// });
/// ```
pub trait ReconnectPolicy: Send + Sync + 'static {
    /// The delay before the next attempt, at least 10 ms, or None to stop: the agent then closes, and everything that
    /// waits is told. It is run in the agent's task, so it has to be quick and must not wait. Where this panics, the
    /// default's delay is taken.
    fn delay(&self, lost: &Lost) -> Option<Duration>;
}

impl<F> ReconnectPolicy for F
where
    F: Fn(&Lost) -> Option<Duration> + Send + Sync + 'static,
{
    fn delay(&self, lost: &Lost) -> Option<Duration> {
        self(lost)
    }
}

/// Tries for ever: each delay is double the one before up to a limit, plus a random share of itself, so that a fleet
/// of clients does not come back all at once. After a refusal of credentials, which seldom mends itself, it waits the
/// limit at once.
///
/// ```
/// use mqtt_agent::{Backoff, Options};
/// use std::time::Duration;
///
/// let options = Options::new("localhost").reconnect(Backoff::new(Duration::from_millis(50), Duration::from_secs(5)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 30 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

impl Backoff {
    /// With the delay after the first loss, at least 10 ms, and the largest one, at least the first; each before its random
    /// share (of up to as much again).
    pub fn new(first: Duration, limit: Duration) -> Self {
        // No number of doublings makes more of zero.
        let first = first.max(SHORTEST_DELAY);
        Self { first, limit: limit.max(first) }
    }

    /// The delays one after the other, without end, each with its random share.
    pub(crate) fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.limit)
            .with_jitter()
            .with_jitter_seed(rng().u64(..))
            .without_max_times()
            .build()
    }
}

impl ReconnectPolicy for Backoff {
    fn delay(&self, lost: &Lost) -> Option<Duration> {
        let refused = matches!(
            lost.reason.kind(),
            ErrorKind::Refused(Refusal::BadUserNameOrPassword | Refusal::NotAuthorized | Refusal::IdentifierRejected)
        );
        let first = if refused { self.limit } else { self.first };
        // Past this many doublings every delay is at its limit; going on would only cost time.
        let doublings = lost.attempt.saturating_sub(1).min(40) as usize;
        Self { first, ..*self }.delays().nth(doublings)
    }
}

/// What the policy says; the default's word where it panics.
pub(crate) fn delay(policy: &dyn ReconnectPolicy, lost: &Lost) -> Option<Duration> {
    catch_unwind(AssertUnwindSafe(|| policy.delay(lost))).unwrap_or_else(|_| {
        tracing::error!(name: "mqtt.policy_panicked", target: TARGET, "the reconnect policy panicked: the default is used");
        Backoff::default().delay(lost)
    })
}

impl fmt::Debug for dyn ReconnectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReconnectPolicy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReasonCode;

    fn lost(attempt: u32, reason: Error) -> Lost {
        Lost { reason, attempt }
    }

    #[test]
    fn delays_double_up_to_the_limit_and_never_end() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for (attempt, base) in [(1, 100), (2, 200), (3, 400), (6, 3200), (7, 5000), (1_000_000, 5000)] {
            let base = Duration::from_millis(base);
            let delay = backoff.delay(&lost(attempt, Error::offline())).unwrap();
            assert!(delay >= base && delay <= base * 2, "attempt {attempt}: {delay:?}");
        }
    }

    #[test]
    fn delays_that_begin_with_zero_grow_all_the_same() {
        let backoff = Backoff::new(Duration::ZERO, Duration::from_secs(5));
        assert!(backoff.delay(&lost(1, Error::offline())).unwrap() >= SHORTEST_DELAY);
        assert!(backoff.delay(&lost(20, Error::offline())).unwrap() >= Duration::from_secs(5));
        let never_long = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(never_long.delay(&lost(20, Error::offline())).unwrap() <= SHORTEST_DELAY * 2);
    }

    #[test]
    fn delays_differ_between_clients() {
        let backoff = Backoff::default();
        let delays: std::collections::HashSet<_> = (0..50).map(|_| backoff.delay(&lost(5, Error::offline()))).collect();
        assert!(delays.len() > 10);
    }

    #[test]
    fn a_policy_that_panics_is_replaced_by_the_default() {
        let broken = |_: &Lost| -> Option<Duration> { panic!("a mistake in the policy") };
        assert!(delay(&broken, &lost(1, Error::offline())).is_some());
        assert_eq!(delay(&|_: &Lost| None, &lost(1, Error::offline())), None);
    }

    #[test]
    fn refused_credentials_are_retried_slowly() {
        let refused = lost(1, Error::refused(&ReasonCode::BAD_USER_NAME_OR_PASSWORD.into()));
        assert!(Backoff::default().delay(&refused).unwrap() >= Duration::from_secs(30));
    }
}
