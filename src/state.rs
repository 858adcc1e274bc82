//! What an agent is doing about its connection.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Endpoint, Error, Terms};

/// The state of an agent's connection; watched through [`Agent::state`](crate::Agent::state).
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) {
/// use mqtt_agent::State;
///
/// let mut state = agent.state();
/// while state.changed().await.is_ok() {
///     match &*state.borrow() {
///         State::Connected { endpoint, terms, .. } => println!("{endpoint}, {:?}", terms.version),
///         State::Disconnected { reason, .. } => println!("no connection: {reason}"),
///         State::Closed { .. } => println!("the end"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum State {
    /// An attempt to connect is under way.
    Connecting,
    /// The broker has accepted the connection.
    #[non_exhaustive]
    Connected {
        /// Whether the broker still had this client's session, with its subscriptions and queued messages.
        session_present: bool,
        /// What else it said.
        terms: Arc<Terms>,
        /// Which of the agent's brokers it is.
        endpoint: Endpoint,
    },
    /// There is no connection, and none is being made at the moment.
    #[non_exhaustive]
    Disconnected {
        /// Why the last one was lost or not made.
        reason: Error,
        /// When the next attempt will be made.
        retry_at: Instant,
    },
    /// The agent has ended and will not connect again.
    #[non_exhaustive]
    Closed {
        /// The loss after which the reconnect policy gave up; None where the end was asked for, or was that of the runtime.
        reason: Option<Error>,
    },
}

impl State {
    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Whether the agent has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

/// The agent's end of its state. The last word is [`State::Closed`], also of a task that ends with its runtime or by a
/// panic.
#[derive(Debug)]
pub(crate) struct Announcer(watch::Sender<State>);

impl Announcer {
    pub(crate) fn channel() -> (Self, watch::Receiver<State>) {
        let (sender, receiver) = watch::channel(State::Connecting);
        (Self(sender), receiver)
    }

    /// Nothing comes after the first end.
    pub(crate) fn say(&self, state: State) {
        self.0.send_if_modified(|said| {
            let is_open = !said.is_closed();
            if is_open {
                *said = state;
            }
            is_open
        });
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.say(State::Closed { reason: None });
    }
}

/// For a log line or a page: what it is doing, and why it is not connected.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { .. } => f.write_str("connected"),
            Self::Disconnected { reason, .. } => write!(f, "disconnected: {reason}"),
            Self::Closed { reason: Some(reason) } => write!(f, "closed: {reason}"),
            Self::Closed { reason: None } => f.write_str("closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_state_is_the_end_and_the_first_end_counts() {
        let (announcer, state) = Announcer::channel();
        drop(announcer);
        assert!(matches!(*state.borrow(), State::Closed { reason: None }));
        let (announcer, state) = Announcer::channel();
        announcer.say(State::Closed { reason: Some(Error::offline()) });
        announcer.say(State::Connecting);
        drop(announcer);
        assert!(matches!(*state.borrow(), State::Closed { reason: Some(_) }));
    }

    #[test]
    fn a_state_says_why_there_is_no_connection() {
        let disconnected = State::Disconnected { reason: Error::offline(), retry_at: Instant::now() };
        assert_eq!(disconnected.to_string(), format!("disconnected: {}", Error::offline()));
        assert_eq!(State::Connecting.to_string(), "connecting");
        assert_eq!(State::Closed { reason: None }.to_string(), "closed");
    }
}
