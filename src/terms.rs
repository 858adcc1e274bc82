//! Protocol versions, and what the broker said when it accepted a connection.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Short;
use crate::{Error, QoS};

/// The versions of MQTT an agent can speak.
///
/// ```
/// use mqtt_agent::{Options, Version};
///
/// let options = Options::new("localhost").version(Version::Auto);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Version {
    /// MQTT 3.1 (protocol name `MQIsdp`, level 3): client identifiers of 1 to 23 characters.
    V31,
    /// MQTT 3.1.1 (level 4).
    #[default]
    V311,
    /// MQTT 5 (level 5).
    V5,
    /// MQTT 5, or 3.1.1 where the broker refuses that version or closes the connection on it: asked anew at each
    /// connect. [`Terms::version`] tells which it was.
    Auto,
}

impl Version {
    /// Whether a connection may turn out to speak MQTT 5.
    pub(crate) fn may_be_5(self) -> bool {
        matches!(self, Self::V5 | Self::Auto)
    }
}

/// As URLs and configuration files write it: `3.1`, `3.1.1`, `5` or `auto`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
            Self::Auto => "auto",
        })
    }
}

/// From what it displays; `4`, the level of 3.1.1, and `5.0` will do as well. Anything else is an
/// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions).
impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "3.1" => Ok(Self::V31),
            "3.1.1" | "4" => Ok(Self::V311),
            "5" | "5.0" => Ok(Self::V5),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::invalid_options(format!("{} is not 3.1, 3.1.1, 5 or auto", Short(text)))),
        }
    }
}

/// The terms of a connection, as the broker's CONNACK stated them (MQTT 5, section 3.2.2.3); from a broker of an earlier
/// version, what that version implies. Part of [`State::Connected`](crate::State::Connected).
///
/// The agent keeps to all of them by itself.
///
/// ```no_run
/// # fn example(agent: mqtt_agent::Agent) {
/// use mqtt_agent::State;
///
/// if let State::Connected { terms, .. } = &*agent.state().borrow() {
///     println!("{}: packets of {:?} bytes at most", terms.client_id, terms.maximum_packet_size);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// The protocol version spoken; never [`Version::Auto`].
    pub version: Version,
    /// The client identifier of the connection: the one asked for, or the one the broker assigned.
    pub client_id: String,
    /// The keep-alive interval the broker asked for in place of the agent's; zero is off; None where it did not.
    pub keep_alive: Option<Duration>,
    /// How long the broker keeps the session after the connection, where that is not what the agent asked for;
    /// [`Duration::MAX`] is for ever.
    pub session_expiry: Option<Duration>,
    /// How many QoS 1 and 2 publishes may be unacknowledged at once; the agent's own limit is
    /// [`Options::max_in_flight`](crate::Options::max_in_flight).
    pub receive_maximum: u16,
    /// The largest packet the broker takes, in bytes; None where it names no limit.
    pub maximum_packet_size: Option<u32>,
    /// The highest QoS it takes.
    pub maximum_qos: QoS,
    /// How many topic aliases it takes; 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Whether filters may have wildcards.
    pub wildcard_subscriptions_available: bool,
    /// Whether it tells by which subscriptions a message comes.
    pub subscription_identifiers_available: bool,
    /// Whether it has shared subscriptions.
    pub shared_subscriptions_available: bool,
    /// A prefix for reply topics that this client may use; see
    /// [`Options::request_response_information`](crate::Options::request_response_information).
    pub response_information: Option<String>,
    /// Another broker that it would have the client use. The agent does not go there by itself.
    pub server_reference: Option<String>,
    /// What it said to people.
    pub reason_string: Option<String>,
    /// What it said to programs.
    pub user_properties: Vec<(String, String)>,
}

impl Terms {
    /// What a CONNACK without properties means.
    pub(crate) fn implied(version: Version, client_id: impl Into<String>) -> Self {
        Self {
            version,
            client_id: client_id.into(),
            keep_alive: None,
            session_expiry: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            maximum_qos: QoS::ExactlyOnce,
            topic_alias_maximum: 0,
            retain_available: true,
            wildcard_subscriptions_available: true,
            // Before MQTT 5 there are none.
            subscription_identifiers_available: version == Version::V5,
            shared_subscriptions_available: true,
            response_information: None,
            server_reference: None,
            reason_string: None,
            user_properties: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_can_be_read_from_what_it_displays() {
        for version in [Version::V31, Version::V311, Version::V5, Version::Auto] {
            assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
        }
        assert_eq!(("4".parse::<Version>().unwrap(), "5.0".parse::<Version>().unwrap()), (Version::V311, Version::V5));
        assert!("6".parse::<Version>().is_err() && "".parse::<Version>().is_err());
    }
}
