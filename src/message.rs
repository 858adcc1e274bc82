//! What arrives: a message, its quality of service, its flags.

use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;

use crate::properties::Properties;
use crate::wire::Incoming;
use crate::Topic;

/// How hard the protocol tries to deliver a message (MQTT 3.1.1, section 4.3).
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

/// A message that arrived. Cloning it costs one reference count.
///
/// The payload shares the buffer it was read into; a message that is kept for long keeps that buffer (at most 64 KiB,
/// or the message's own size where that is more).
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Arc<Inner>);

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
        Self(Arc::new(Inner { topic, payload, qos, retained, duplicate, properties }))
    }

    /// The topic it was published to.
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// The payload, as it was published.
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// The payload as text.
    ///
    /// # Errors
    ///
    /// The payload is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0.payload)
    }

    /// The quality of service of this delivery: the lower of the publisher's and the subscription's.
    pub fn qos(&self) -> QoS {
        self.0.qos
    }

    /// Whether the broker had kept it as the topic's retained message and sent it because of a new subscription
    /// (MQTT-3.3.1-8). A message published while the subscription lives is not marked, retained or not, unless
    /// [`Subscribe::retain_as_published`](crate::Subscribe::retain_as_published) asks for that.
    pub fn is_retained(&self) -> bool {
        self.0.retained
    }

    /// What MQTT 5 lets a message carry besides its payload; nothing on a connection of an earlier version.
    pub fn properties(&self) -> &Properties {
        self.0.properties.as_deref().unwrap_or(Properties::NONE)
    }

    /// Whether the broker marked this delivery as a possible repetition (the DUP flag; only at QoS 1 and 2).
    pub fn is_duplicate(&self) -> bool {
        self.0.duplicate
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The payload may be a secret or a megabyte: its length is enough.
        f.debug_struct("Message")
            .field("topic", &self.0.topic.as_str())
            .field("payload_bytes", &self.0.payload.len())
            .field("qos", &self.0.qos)
            .field("retained", &self.0.retained)
            .field("duplicate", &self.0.duplicate)
            .finish()
    }
}
