//! A device that answers calls as a test tells it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{Agent, Error, IntoFilters, Message, Options, Retained, Subscription, Topic};

/// A fake device on a connection of its own: it answers what comes in by its filters. It ends when dropped.
///
/// ```no_run
/// # async fn example(broker: mqtt_agent::testing::Broker) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::testing::{Device, Response};
/// use std::time::Duration;
///
/// let mut device = Device::connect(broker.url()).await?;
/// let mut calls = 0;
/// device
///     .respond_to("dev/42/rpc", move |call| {
///         calls += 1;
///         match calls {
///             1 => Response::silence(),
///             2 => Response::reply("dev/42/rpc/res", "not what you expect"),
///             3 => Response::reply("dev/42/rpc/res", call.payload().clone()).after(Duration::from_millis(50)),
///             _ => Response::reply("dev/42/rpc/res", call.payload().clone()).times(2),
///         }
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct Device {
    agent: Agent,
    tasks: JoinSet<Result<(), Error>>,
}

/// What a [`Device`] sends for one call. A topic and a payload, as a pair, are a response of one reply.
///
/// ```
/// use mqtt_agent::testing::Response;
/// use std::time::Duration;
///
/// let in_two_parts = Response::reply("dev/42/res", "1 of 2")
///     .and(Response::reply("dev/42/res", "2 of 2").after(Duration::from_secs(1)));
/// ```
#[derive(Debug, Clone)]
pub struct Response {
    replies: Vec<Reply>,
}

#[derive(Debug, Clone)]
struct Reply {
    topic: Result<Topic, Error>,
    payload: Bytes,
    delay: Duration,
}

impl Device {
    /// Connects a device to a broker, given as a URL or as [`Options`].
    ///
    /// # Errors
    ///
    /// Those of [`Agent::connect`].
    pub async fn connect<O>(options: O) -> Result<Self, Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        Ok(Self { agent: Agent::connect(options).await?, tasks: JoinSet::new() })
    }

    /// Has it answer each message that comes in by these filters with what `respond` says. Returns when the broker has
    /// confirmed the filters: from then on the device can be called. Retained messages are no calls.
    ///
    /// Calls are answered at the same time: one reply's delay holds no other up.
    ///
    /// # Errors
    ///
    /// Those of [`Agent::subscribe`].
    pub async fn respond_to<R: Into<Response>>(
        &mut self,
        filters: impl IntoFilters,
        mut respond: impl FnMut(&Message) -> R + Send + 'static,
    ) -> Result<(), Error> {
        let calls = self.agent.subscribe(filters).retained(Retained::Ignore).await?;
        self.tasks.spawn(answer(self.agent.clone(), calls, move |call| respond(call).into()));
        Ok(())
    }

    /// The device's agent: to send telemetry, or to look at its counters.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Sends what is under way, disconnects, and returns the first error the device met. Replies whose delay is not
    /// over are not sent.
    ///
    /// # Errors
    ///
    /// Any of [`Agent::publish`], or [`ErrorKind::Lagged`](crate::ErrorKind::Lagged) if calls came faster than they were
    /// answered.
    ///
    /// # Panics
    ///
    /// As `respond` did.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.agent.drain(super::LIMIT).await?;
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(answered) => outcome = outcome.and(answered),
                Err(failed) => match failed.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(Error::closed()),
                },
            }
        }
        outcome
    }
}

/// Until the agent ends.
async fn answer(
    agent: Agent,
    mut calls: Subscription,
    mut respond: impl FnMut(&Message) -> Response,
) -> Result<(), Error> {
    let mut sending = JoinSet::new();
    loop {
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => {
                    for reply in respond(&call?).replies {
                        sending.spawn(send(agent.clone(), reply));
                    }
                }
                None => return Ok(()),
            },
            Some(sent) = sending.join_next() => match sent {
                // It was told to stop a moment ago.
                Ok(Err(error)) if !error.is_closed() => return Err(error),
                _ => {}
            },
        }
    }
}

async fn send(agent: Agent, reply: Reply) -> Result<(), Error> {
    if !reply.delay.is_zero() {
        sleep(reply.delay).await;
    }
    agent.publish(reply.topic?, reply.payload).await?;
    Ok(())
}

impl Response {
    /// Nothing: the caller waits until its deadline.
    pub fn silence() -> Self {
        Self { replies: Vec::new() }
    }

    /// One reply, right or wrong, at QoS 1.
    pub fn reply<T>(topic: T, payload: impl Into<Bytes>) -> Self
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        let reply =
            Reply { topic: topic.try_into().map_err(Into::into), payload: payload.into(), delay: Duration::ZERO };
        Self { replies: vec![reply] }
    }

    /// Sends all of it so much later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        for reply in &mut self.replies {
            reply.delay += delay;
        }
        self
    }

    /// Sends all of it so many times.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.replies = std::iter::repeat_n(self.replies, count).flatten().collect();
        self
    }

    /// Sends something more: with [`after`](Self::after), a reply in parts.
    #[must_use]
    pub fn and(mut self, more: impl Into<Self>) -> Self {
        self.replies.extend(more.into().replies);
        self
    }
}

impl<T, P> From<(T, P)> for Response
where
    T: TryInto<Topic>,
    T::Error: Into<Error>,
    P: Into<Bytes>,
{
    fn from((topic, payload): (T, P)) -> Self {
        Self::reply(topic, payload)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("agent", &self.agent).finish_non_exhaustive()
    }
}
