//! The messages of a subscription, as an iterator.

use std::fmt;
use std::time::Duration;

use super::runner::Runner;
use crate::{Error, Filter, Message, QoS};

/// The messages of one or several filters, as an iterator that waits for the next one; it ends when the agent does.
///
/// An item is a message, or an error that says why there is a gap: see [`crate::Subscription`]. A clone is one more
/// receiver of the same messages, from now on: one for each thread that is to see them all.
///
/// ```no_run
/// # fn example(agent: mqtt_agent::blocking::Agent) -> Result<(), mqtt_agent::Error> {
/// for item in agent.subscribe("sensors/+/temp").wait()? {
///     match item {
///         Ok(reading) => println!("{}", reading.topic()),
///         Err(gap) => eprintln!("{gap}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a subscription ends it"]
#[derive(Clone)]
pub struct Subscription {
    subscription: crate::Subscription,
    runner: Runner,
}

impl Subscription {
    pub(super) fn new(subscription: crate::Subscription, runner: Runner) -> Self {
        Self { subscription, runner }
    }

    /// The next item, if it comes within `timeout`; zero takes what is there already. None after the agent has ended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if none came, and nothing is lost by it; or the item itself,
    /// if it is a gap; [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Result<Message, Error>> {
        let Self { subscription, runner } = self;
        let item = async {
            match tokio::time::timeout(timeout, subscription.recv()).await {
                Ok(item) => item.transpose(),
                Err(_) => Err(Error::timeout("no message came in time")),
            }
        };
        runner.wait(item).transpose()
    }

    /// The filters and the QoS the broker granted each; see [`crate::Subscription::granted`].
    pub fn granted(&self) -> &[(Filter, QoS)] {
        self.subscription.granted()
    }

    /// Ends the subscription and returns when the broker has confirmed; see [`crate::Subscription::unsubscribe`].
    ///
    /// # Errors
    ///
    /// As [`crate::Subscription::unsubscribe`]; [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
    pub fn unsubscribe(self) -> Result<(), Error> {
        self.runner.wait(self.subscription.unsubscribe())
    }
}

impl Iterator for Subscription {
    type Item = Result<Message, Error>;

    /// The next item, however long that takes. On the agent's own thread this is an error each time.
    fn next(&mut self) -> Option<Self::Item> {
        let Self { subscription, runner } = self;
        runner.wait(async { subscription.recv().await.transpose() }).transpose()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subscription.fmt(f)
    }
}
