//! Publish a message.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::allowance::weight;
use crate::call::{deadline_after, Call};
use crate::command::{self, Command, Reply};
use crate::options::{Offline, Options};
use crate::properties::Properties;
use crate::wire::{self, MAX_REMAINING_LENGTH};
use crate::{Error, QoS, Topic, Version};

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
    content: Content,
    qos: QoS,
    retain: bool,
    /// Apart, so that a message without any does not carry their room along.
    properties: Option<Box<Properties>>,
    timeout: Duration,
    offline: Offline,
}

/// How far a publish got when its call returned without an error.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Delivery;
///
/// if agent.publish("alarms/door", "open").await? == Delivery::NoSubscribers {
///     eprintln!("nobody listens");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivery {
    /// QoS 0: written to the socket.
    Sent,
    /// QoS 1: the broker has it (PUBACK).
    Acknowledged,
    /// QoS 2: the broker has it, once (PUBCOMP).
    Completed,
    /// QoS 1 or 2: the broker has it and said that nobody is subscribed to its topic (MQTT 5, reason code 0x10; few
    /// brokers say so).
    NoSubscribers,
    /// [`Offline::Queue`]: handed over while there was no connection.
    Queued,
}

impl Publish {
    pub(crate) fn new(agent: Agent, topic: Result<Topic, Error>, payload: Bytes) -> Self {
        Self::with_content(agent, topic, Content::bytes(payload))
    }

    pub(crate) fn with_content(agent: Agent, topic: Result<Topic, Error>, content: Content) -> Self {
        let options = agent.options();
        let (timeout, offline) = (options.timeout, options.offline);
        Self { agent, topic, content, qos: QoS::default(), retain: false, properties: None, timeout, offline }
    }

    /// Makes this value, as JSON, the payload in place of the one given before. On MQTT 5 the content type
    /// `application/json` goes with it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// agent.publish("devices/42/led", "").json(&serde_json::json!({ "on": true })).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A value that cannot be written as JSON makes the call fail with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument).
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.content = Content::json(value);
        self
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

    /// What the message carries besides its payload, in place of all that was set before. Needs MQTT 5, as do the setters
    /// for each of them: on a connection of an earlier version the call fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported). Default: nothing.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = Some(Box::new(properties));
        self
    }

    /// How long the message is worth delivering, counted from when this is awaited; rounded up to whole seconds. The
    /// agent does not send it after that, and the broker does not deliver it. Needs MQTT 5. Default: for ever.
    pub fn message_expiry(mut self, message_expiry: Duration) -> Self {
        self.properties.get_or_insert_default().message_expiry = Some(message_expiry);
        self
    }

    /// What the payload is, as a MIME type of at most 65,535 bytes. Needs MQTT 5. Default: nothing.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.properties.get_or_insert_default().content_type = Some(content_type.into());
        self
    }

    /// Declares the payload to be UTF-8 text. Needs MQTT 5. Default: false.
    pub fn payload_is_utf8(mut self, payload_is_utf8: bool) -> Self {
        self.properties.get_or_insert_default().payload_is_utf8 = payload_is_utf8;
        self
    }

    /// Where an answer is awaited. [`Agent::request`] sets this, and waits for it. A topic that is not valid is the error
    /// of the call. Needs MQTT 5. Default: nowhere.
    pub fn response_topic<T>(mut self, topic: T) -> Self
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        match topic.try_into() {
            Ok(topic) => self.properties.get_or_insert_default().response_topic = Some(topic),
            Err(error) => self.topic = self.topic.and(Err(error.into())),
        }
        self
    }

    /// What an answer must carry: at most 65,535 bytes. Needs MQTT 5. Default: nothing.
    pub fn correlation_data(mut self, data: impl Into<Bytes>) -> Self {
        self.properties.get_or_insert_default().correlation_data = Some(data.into());
        self
    }

    /// Adds a name and a value for the application, of at most 65,535 bytes each. Needs MQTT 5. Default: none.
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let properties = self.properties.get_or_insert_default();
        properties.user_properties.push((name.into(), value.into()));
        self
    }

    /// How long the call may take, counted from when it is awaited or made a future. After that it is neither sent nor
    /// sent again. Default: the agent's [`timeout`](crate::Options::timeout).
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
    /// ```no_run
    /// # fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// agent.publish("devices/42/fan", "off").try_send()?; // QoS 1: sent until it is acknowledged
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull) when there is no room for it,
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after the end,
    /// [`ErrorKind::InvalidTopic`](crate::ErrorKind::InvalidTopic),
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument),
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) (properties before MQTT 5) and
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for a message that cannot be sent.
    pub fn try_send(self) -> Result<(), Error> {
        let offline = self.offline;
        let (agent, publish, expires) = self.check()?;
        let share = agent.take_share(weight(&publish))?;
        let command = command::Publish {
            publish,
            expires,
            offline,
            // Nothing else ends it.
            deadline: expires,
            reply: None,
            share: Some(share),
        };
        agent.try_command(Command::Publish(command))
    }

    /// Whose it is, the message, and when it expires.
    fn check(self) -> Result<(Agent, wire::Publish, Option<Instant>), Error> {
        let Self { agent, topic, content, qos, retain, properties, .. } = self;
        let expires = properties.as_ref().and_then(|properties| properties.message_expiry).map(deadline_after);
        let publish = content.publish(topic?, qos, retain, properties, agent.options())?;
        Ok((agent, publish, expires))
    }
}

impl IntoFuture for Publish {
    type Output = Result<Delivery, Error>;
    type IntoFuture = PublishFuture;

    fn into_future(self) -> PublishFuture {
        let (timeout, offline) = (self.timeout, self.offline);
        let (agent, publish, expires) = match self.check() {
            Ok(checked) => checked,
            Err(error) => return PublishFuture(Call::refused(error)),
        };
        let deadline = deadline_after(timeout);
        let deadline = expires.map_or(deadline, |expires| deadline.min(expires));
        let (reply, answer) = Reply::channel();
        let command =
            command::Publish { publish, expires, offline, deadline: Some(deadline), reply: Some(reply), share: None };
        PublishFuture(Call::new(agent.into_shared(), command, answer, deadline))
    }
}

/// The future of a [`Publish`].
///
/// # Cancel safety
///
/// Dropped before the message was sent, it takes the message back. Dropped after that, the message stays with the
/// agent until the broker has acknowledged it or its deadline has passed.
#[must_use = "nothing is published until this is awaited"]
pub struct PublishFuture(Call<command::Publish, Delivery>);

impl Future for PublishFuture {
    type Output = Result<Delivery, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// A payload, and what goes with it where the protocol version has a place for that.
#[derive(Clone)]
pub(crate) struct Content {
    payload: Result<Bytes, Error>,
    implied: Option<Box<Properties>>,
}

impl Content {
    pub(crate) fn bytes(payload: Bytes) -> Self {
        Self { payload: Ok(payload), implied: None }
    }

    pub(crate) fn with(payload: Bytes, implied: Properties) -> Self {
        Self { payload: Ok(payload), implied: Some(Box::new(implied)) }
    }

    #[cfg(feature = "json")]
    pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Self {
        let content_type = Some(crate::json::CONTENT_TYPE.to_owned());
        let implied = Some(Box::new(Properties { content_type, ..Properties::default() }));
        Self { payload: crate::json::encode(value), implied }
    }

    #[cfg(feature = "json")]
    pub(crate) fn failing(error: Error) -> Self {
        Self { payload: Err(error), implied: None }
    }

    /// How long it is; 0 where there is none.
    pub(crate) fn len(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }

    pub(crate) fn payload(&self) -> Result<&Bytes, Error> {
        self.payload.as_ref().map_err(Clone::clone)
    }

    /// The message as it goes to the session, checked. `asked` are the properties that the caller asked for by name, so
    /// that they must not be left out.
    pub(crate) fn publish(
        self,
        topic: Topic,
        qos: QoS,
        retain: bool,
        asked: Option<Box<Properties>>,
        options: &Options,
    ) -> Result<wire::Publish, Error> {
        let mut properties = asked.filter(|asked| !asked.is_empty());
        let lenient = properties.is_none();
        if options.version.may_be_5() {
            if let Some(implied) = self.implied {
                properties.get_or_insert_default().fill_from(*implied);
            }
            #[cfg(feature = "trace-context")]
            options.trace(&mut properties);
        }
        let publish = wire::Publish { topic, payload: self.payload?, qos, retain, properties, lenient };
        check_publish(&publish, options.version)?;
        Ok(publish)
    }
}

/// Refuses what does not fit the protocol. `version` is the one asked for: whether the broker speaks it is seen later.
fn check_publish(publish: &wire::Publish, version: Version) -> Result<(), Error> {
    if let Some(properties) = &publish.properties {
        properties.check().map_err(Error::invalid_argument)?;
        if !version.may_be_5() {
            return Err(Error::unsupported("properties belong to MQTT 5: set Options::version"));
        }
    }
    const LIMIT: usize = MAX_REMAINING_LENGTH + 5;
    match wire::publish_size(publish, version) {
        size if size > LIMIT => Err(Error::too_large(size, LIMIT)),
        _ => Ok(()),
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.content.len())
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
