//! What arrives: a message, its quality of service, its flags.

use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;

use crate::command::Hold;
use crate::properties::Properties;
use crate::wire::Incoming;
use crate::{Error, Topic};

/// How hard the protocol tries to deliver a message (MQTT 3.1.1, section 4.3). It counts for each hop: to the broker,
/// and from the broker to each subscriber.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::QoS;
///
/// agent.publish("door/1/cmd", "open").qos(QoS::ExactlyOnce).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// 0: sent once, never acknowledged, lost with the connection.
    AtMostOnce = 0,
    /// 1: acknowledged; sent again until it is, so it may arrive twice.
    #[default]
    AtLeastOnce = 1,
    /// 2: a handshake of four packets makes it arrive once.
    ExactlyOnce = 2,
}

/// From the number that the protocol and configuration files write. Above 2 it is an
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument).
impl TryFrom<u8> for QoS {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self, Error> {
        match number {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(Error::invalid_argument(format!("{number} is no quality of service: it is 0, 1 or 2"))),
        }
    }
}

/// A message that arrived. Cloning it costs a reference count.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// let mut readings = agent.subscribe("sensors/+/temp").await?;
/// while let Some(item) = readings.recv().await {
///     let reading = item?;
///     if !reading.is_retained() {
///         println!("{}: {}", reading.topic(), reading.text().unwrap_or("not text"));
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// The payload shares the buffer it was read into; a message that is kept for long keeps that buffer (at most 64 KiB,
/// or the message's own size where that is more).
#[derive(Clone)]
pub struct Message {
    inner: Arc<Inner>,
    /// Of a message that is not acknowledged yet.
    hold: Option<Arc<Hold>>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    topic: Topic,
    payload: Bytes,
    qos: QoS,
    retained: bool,
    duplicate: bool,
    properties: Option<Box<Properties>>,
}

impl Message {
    pub(crate) fn new(incoming: Incoming) -> Self {
        let Incoming { topic, payload, qos, retain: retained, dup: duplicate, properties, .. } = incoming;
        Self { inner: Arc::new(Inner { topic, payload, qos, retained, duplicate, properties }), hold: None }
    }

    /// The same message, to be acknowledged when it is taken or when its receiver says so.
    pub(crate) fn with_hold(mut self, hold: Hold) -> Self {
        self.hold = Some(Arc::new(hold));
        self
    }

    /// Notes that a receiver took it, and parts it from what keeps its acknowledgement back.
    pub(crate) fn take(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.note_taken();
        }
    }

    /// Acknowledges a message of a subscription with [`Acks::Manual`](crate::Acks::Manual): the broker will not send it
    /// again. Returns at once; the acknowledgement goes out when those of all messages that came before it have
    /// (MQTT-4.6.0-2, MQTT-4.6.0-3).
    ///
    /// Does nothing for any other message, for one that is acknowledged already, by a clone of it too, and after the
    /// connection it came by was lost: the broker then sends it again, as a message of its own.
    ///
    /// A message that is dropped without this stays unacknowledged. Those behind it wait with it, so that the
    /// subscription comes to a halt when its [`capacity`](crate::Subscribe::capacity) or the broker's window is full; the
    /// broker sends all of them again on the next connection, if it keeps the session
    /// ([`Options::clean_session`](crate::Options::clean_session)). To give a message up, acknowledge it.
    pub fn ack(&self) {
        if let Some(hold) = &self.hold {
            hold.ack();
        }
    }

    /// The topic it was published to.
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }

    /// The payload, as it was published.
    pub fn payload(&self) -> &Bytes {
        &self.inner.payload
    }

    /// The payload as text.
    ///
    /// # Errors
    ///
    /// The payload is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.inner.payload)
    }

    /// The quality of service of this delivery: the lower of the publisher's and the subscription's.
    pub fn qos(&self) -> QoS {
        self.inner.qos
    }

    /// Whether the broker had kept it as the topic's retained message and sent it because of a new subscription
    /// (MQTT-3.3.1-8). A message published while the subscription lives is not marked, retained or not, unless
    /// [`Subscribe::retain_as_published`](crate::Subscribe::retain_as_published) asks for that.
    pub fn is_retained(&self) -> bool {
        self.inner.retained
    }

    /// What MQTT 5 lets a message carry besides its payload; nothing on a connection of an earlier version.
    pub fn properties(&self) -> &Properties {
        self.inner.properties.as_deref().unwrap_or(Properties::NONE)
    }

    /// Whether the broker marked this delivery as a possible repetition (the DUP flag; only at QoS 1 and 2).
    pub fn is_duplicate(&self) -> bool {
        self.inner.duplicate
    }
}

/// By what was published, and how.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The payload may be a secret or a megabyte: its length is enough.
        f.debug_struct("Message")
            .field("topic", &self.inner.topic.as_str())
            .field("payload_bytes", &self.inner.payload.len())
            .field("qos", &self.inner.qos)
            .field("retained", &self.inner.retained)
            .field("duplicate", &self.inner.duplicate)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quality_of_service_is_0_1_or_2() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(QoS::try_from(qos as u8).unwrap(), qos);
        }
        assert!(QoS::try_from(3).is_err());
    }
}
