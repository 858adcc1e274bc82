//! The message the broker publishes when this client vanishes.

use std::fmt;

use bytes::Bytes;

use crate::{wire, Error, QoS, Topic};

/// The message the broker publishes for this client when its connection ends without a DISCONNECT
/// (MQTT 3.1.1, section 3.1.2.5).
#[derive(Clone)]
pub struct LastWill {
    topic: Result<Topic, Error>,
    pub(super) payload: Bytes,
    qos: QoS,
    retain: bool,
}

impl LastWill {
    /// A will with QoS 1, not retained. A topic that is not valid is reported when the agent connects.
    pub fn new<T>(topic: T, payload: impl Into<Bytes>) -> Self
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        Self {
            topic: topic.try_into().map_err(Into::into),
            payload: payload.into(),
            qos: QoS::default(),
            retain: false,
        }
    }

    /// The quality of service it is published with.
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Whether the broker keeps it as the topic's retained message.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    pub(crate) fn to_publish(&self) -> Result<wire::Publish, Error> {
        Ok(wire::Publish {
            topic: self.topic.clone()?,
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
        })
    }
}

impl fmt::Debug for LastWill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastWill").field("topic", &self.topic).field("qos", &self.qos).finish_non_exhaustive()
    }
}
