//! The message the broker publishes when this client vanishes.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{field, wire, Error, Properties, QoS, Topic, Version};

/// The message the broker publishes for this client when its connection ends without a DISCONNECT
/// (MQTT 3.1.1, section 3.1.2.5).
///
/// ```
/// use mqtt_agent::{LastWill, Options};
///
/// let options = Options::new("localhost").last_will(LastWill::new("web/1/state", "gone").retain(true));
/// ```
#[derive(Clone)]
pub struct LastWill {
    topic: Result<Topic, Error>,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    properties: Properties,
    delay: Duration,
}

impl LastWill {
    /// A will with QoS 1, not retained. A topic that is not valid, and a payload over 65,535 bytes, are reported when
    /// the agent is made.
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
            properties: Properties::default(),
            delay: Duration::ZERO,
        }
    }

    /// The quality of service it is published with. Default: [`QoS::AtLeastOnce`].
    #[must_use]
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// Whether the broker keeps it as the topic's retained message. Default: false.
    #[must_use]
    pub fn retain(mut self, retain: bool) -> Self {
        self.retain = retain;
        self
    }

    /// Its properties, for MQTT 5; with an earlier version they, and a [`delay`](Self::delay), are an error when the
    /// agent is made. Default: none.
    #[must_use]
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }

    /// How long the broker waits before it publishes the will, in whole seconds, rounded up, for MQTT 5 (section
    /// 3.1.3.2.2): a client that is back by then was not gone. Needs a session that is kept for as long
    /// ([`Options::session_expiry`](crate::Options::session_expiry)). Default: zero.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(crate) fn delay_seconds(&self) -> u32 {
        wire::whole_seconds(self.delay)
    }

    pub(super) fn check(&self, version: Version) -> Result<(), Error> {
        let needs_v5 = !self.properties.is_empty() || !self.delay.is_zero();
        if needs_v5 && !version.may_be_5() {
            return Err(Error::invalid_options(
                "the last will's properties and delay belong to MQTT 5, and the version is an earlier one: \
                 set version(Version::V5)",
            ));
        }
        self.properties.check().map_err(Error::invalid_options)?;
        field::check_bytes("last will's payload", &self.payload).map_err(Error::invalid_options)?;
        self.to_publish().map(drop)
    }

    pub(crate) fn to_publish(&self) -> Result<wire::Publish, Error> {
        Ok(wire::Publish {
            topic: self.topic.clone()?,
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
            properties: (!self.properties.is_empty()).then(|| Box::new(self.properties.clone())),
            lenient: false,
        })
    }
}

impl fmt::Debug for LastWill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastWill").field("topic", &self.topic).field("qos", &self.qos).finish_non_exhaustive()
    }
}
