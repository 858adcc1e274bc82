//! Publish a message.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::agent::Agent;
use crate::allowance::weight;
use crate::call::{deadline_after, Call};
use crate::command::{self, Command, Reply};
use crate::options::Offline;
use crate::wire::{self, MAX_REMAINING_LENGTH};
use crate::{Error, QoS, Topic};

/// A message about to be published; made by [`Agent::publish`]. Await it, or turn it into a future by
/// [`into_future`](IntoFuture::into_future).
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::QoS;
/// use std::time::Duration;
///
/// agent
///     .publish("devices/42/led", "on")
///     .qos(QoS::ExactlyOnce)
///     .retain(true)
///     .timeout(Duration::from_secs(2))
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is published until this is awaited"]
#[derive(Clone)]
pub struct Publish {
    agent: Agent,
    topic: Result<Topic, Error>,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    timeout: Duration,
    offline: Offline,
}

/// How far a publish got when its call returned without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// QoS 0: written to the socket.
    Sent,
    /// QoS 1: the broker has it (PUBACK).
    Acknowledged,
    /// QoS 2: the broker has it, once (PUBCOMP).
    Completed,
    /// [`Offline::Queue`]: handed over while there was no connection.
    Queued,
}

impl Publish {
    pub(crate) fn new(agent: Agent, topic: Result<Topic, Error>, payload: Bytes) -> Self {
        let options = agent.options();
        let (timeout, offline) = (options.timeout, options.offline);
        Self { agent, topic, payload, qos: QoS::default(), retain: false, timeout, offline }
    }

    /// The quality of service. Default: [`QoS::AtLeastOnce`].
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Whether the broker keeps it as the topic's retained message; an empty payload clears that (MQTT-3.3.1-10).
    /// Default: false.
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// How long the call may take, counted from when it is awaited or made a future. After that it is neither sent nor
    /// sent again.
    /// Default: the agent's [`timeout`](crate::Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What to do while there is no connection. Default: the agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    /// Hands the message over without waiting: it is sent as soon as that is possible, and nobody hears of its
    /// outcome. The same as [`Agent::try_publish`], with any quality of service and retained or not;
    /// [`timeout`](Self::timeout) and [`offline`](Self::offline) do not apply, for there is no call to end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) when there is no room for it,
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after the end,
    /// [`ErrorKind::InvalidTopic`](crate::ErrorKind::InvalidTopic) and
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for a message that cannot be sent.
    pub fn try_send(self) -> Result<(), Error> {
        let topic = self.topic.and_then(|topic| check_size(topic, &self.payload, self.qos))?;
        let share = self.agent.take_share(weight(&topic, &self.payload))?;
        let command = command::Publish {
            topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            offline: self.offline,
            deadline: None,
            reply: None,
            share: Some(share),
        };
        self.agent.try_command(Command::Publish(command))
    }
}

impl IntoFuture for Publish {
    type Output = Result<Delivery, Error>;
    type IntoFuture = PublishFuture;

    fn into_future(self) -> PublishFuture {
        let topic = match self.topic.and_then(|topic| check_size(topic, &self.payload, self.qos)) {
            Ok(topic) => topic,
            Err(error) => return PublishFuture(Call::refused(error)),
        };
        let deadline = deadline_after(self.timeout);
        let (reply, answer) = Reply::channel();
        let command = command::Publish {
            topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            offline: self.offline,
            deadline: Some(deadline),
            reply: Some(reply),
            share: None,
        };
        PublishFuture(Call::new(self.agent.into_shared(), Command::Publish(command), answer, deadline))
    }
}

/// The future of a [`Publish`].
///
/// # Cancel safety
///
/// Dropped before the message was sent, it takes the message back. Dropped after that, the message stays with the
/// agent until the broker has acknowledged it or its deadline has passed.
#[must_use = "nothing is published until this is awaited"]
pub struct PublishFuture(Call<Delivery>);

impl Future for PublishFuture {
    type Output = Result<Delivery, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// Gives the topic back if the packet fits the protocol.
pub(crate) fn check_size(topic: Topic, payload: &Bytes, qos: QoS) -> Result<Topic, Error> {
    const FIXED_HEADER: usize = 5;
    let size = wire::publish_size(&topic, payload, qos);
    match size > MAX_REMAINING_LENGTH + FIXED_HEADER {
        true => Err(Error::too_large(size, MAX_REMAINING_LENGTH + FIXED_HEADER)),
        false => Ok(topic),
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PublishFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishFuture").finish_non_exhaustive()
    }
}
