//! Subscribe, wait for some messages, unsubscribe.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout_at;

use crate::call::deadline_after;
use crate::options::Offline;
use crate::subscribe::{Retained, Subscribe};
use crate::{Error, Message, QoS};

/// Messages about to be collected; made by [`Agent::collect`](crate::Agent::collect). Await it.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Retained;
/// use std::time::Duration;
///
/// let states = agent.collect("devices/+/state", 3, Duration::from_secs(1)).retained(Retained::Only).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is collected until this is awaited"]
#[derive(Debug, Clone)]
pub struct Collect {
    subscribe: Subscribe,
    count: usize,
    timeout: Duration,
}

/// The room for messages is taken in advance, and "all that come in time" is a count too.
const LARGEST_BURST: usize = 1 << 16;

impl Collect {
    pub(crate) fn new(subscribe: Subscribe, count: usize, timeout: Duration) -> Self {
        // A burst may bring more messages than are wanted, and must not push those out.
        Self { subscribe: subscribe.timeout(timeout).capacity_of_at_least(count.min(LARGEST_BURST)), count, timeout }
    }

    /// The highest quality of service to receive with. Default: [`QoS::AtLeastOnce`].
    pub fn qos(mut self, qos: QoS) -> Self {
        self.subscribe = self.subscribe.qos(qos);
        self
    }

    /// Which retained messages to take. Default: [`Retained::IfFirst`].
    pub fn retained(mut self, retained: Retained) -> Self {
        self.subscribe = self.subscribe.retained(retained);
        self
    }

    /// What to do while there is no connection; [`Offline::Queue`] does here what [`Offline::Wait`] does. Default: the
    /// agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.subscribe = self.subscribe.offline(offline);
        self
    }

    async fn run(self) -> Result<Vec<Message>, Error> {
        if self.count == 0 {
            return Err(Error::invalid_argument("collect at least one message"));
        }
        let deadline = deadline_after(self.timeout);
        let runtime = self.subscribe.runtime().clone();
        let mut subscription = self.subscribe.await?;
        let mut messages = Vec::new();
        while messages.len() < self.count {
            match runtime.timed(|| timeout_at(deadline, subscription.recv())).await {
                Ok(Some(Ok(message))) => messages.push(message),
                Ok(Some(Err(gap))) => return Err(gap.with_messages(messages)),
                Ok(None) => return Err(Error::closed().with_messages(messages)),
                Err(_) => return Err(Error::timeout("fewer messages came in time").with_messages(messages)),
            }
        }
        Ok(messages)
    }
}

impl IntoFuture for Collect {
    type Output = Result<Vec<Message>, Error>;
    type IntoFuture = CollectFuture;

    fn into_future(self) -> CollectFuture {
        CollectFuture(Box::pin(self.run()))
    }
}

/// The future of a [`Collect`].
///
/// # Cancel safety
///
/// Dropped at any point, it leaves nothing behind; what came so far is lost with it.
#[must_use = "nothing is collected until this is awaited"]
pub struct CollectFuture(Pin<Box<dyn Future<Output = Result<Vec<Message>, Error>> + Send>>);

impl Future for CollectFuture {
    type Output = Result<Vec<Message>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for CollectFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectFuture").finish_non_exhaustive()
    }
}
