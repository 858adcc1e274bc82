//! What MQTT 5 lets a message carry besides its payload.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Topic};

/// The properties of a message (MQTT 5, section 3.3.2.3): on a message that arrived by
/// [`Message::properties`](crate::Message::properties), on one to publish by
/// [`Publish::properties`](crate::Publish::properties) or the setter named like the field.
///
/// Earlier versions carry none: publishing with one on such a connection is
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), and a message that arrived by one has none.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use std::time::Duration;
///
/// agent.publish("devices/42/led", "on").message_expiry(Duration::from_secs(5)).user_property("by", "web-1").await?;
///
/// let mut commands = agent.subscribe("devices/42/led").await?;
/// if let Some(Ok(command)) = commands.recv().await {
///     println!("{:?}", command.properties().user_property("by"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Properties {
    /// How long the message is worth delivering: the broker throws it away after that. To publish: whole seconds,
    /// rounded up, of at most 136 years; counted from the call, so that time spent waiting for a connection is taken
    /// off. On a message that arrived: what is left.
    pub message_expiry: Option<Duration>,
    /// What the payload is, as a MIME type; at most 65,535 bytes.
    pub content_type: Option<String>,
    /// Whether the payload is declared to be UTF-8 text (payload format indicator 1). Nobody checks.
    pub payload_is_utf8: bool,
    /// Where an answer is awaited.
    pub response_topic: Option<Topic>,
    /// What an answer must carry, for the one who asked to know it by; at most 65,535 bytes.
    pub correlation_data: Option<Bytes>,
    /// Names and values for the application; a name may be there more than once, and order is kept. At most 65,535
    /// bytes each.
    pub user_properties: Vec<(String, String)>,
}

impl Properties {
    pub(crate) const NONE: &'static Self = &Self {
        message_expiry: None,
        content_type: None,
        payload_is_utf8: false,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self == Self::NONE
    }

    /// The first value of a user property.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        self.user_properties.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// Takes over what is not set here.
    pub(crate) fn fill_from(&mut self, other: Self) {
        self.content_type = self.content_type.take().or(other.content_type);
        self.correlation_data = self.correlation_data.take().or(other.correlation_data);
        self.user_properties.extend(other.user_properties);
    }

    /// Refuses what does not fit the fields of a packet, which would otherwise be cut without a word.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(content_type) = &self.content_type {
            check_text("content type", content_type)?;
        }
        if self.correlation_data.as_ref().is_some_and(|data| data.len() > MAX_FIELD) {
            return Err(Error::invalid_argument("the correlation data is over 65,535 bytes"));
        }
        check_user_properties(&self.user_properties)
    }

    /// What they take in a packet at most, in bytes.
    pub(crate) fn size(&self) -> usize {
        const TAG: usize = 1;
        const LENGTH: usize = 2;
        let text = |text: &String| TAG + LENGTH + text.len();
        let expiry = self.message_expiry.map_or(0, |_| TAG + 4);
        let format = if self.payload_is_utf8 { TAG + 1 } else { 0 };
        let content_type = self.content_type.as_ref().map_or(0, text);
        let response_topic = self.response_topic.as_ref().map_or(0, |topic| TAG + LENGTH + topic.as_str().len());
        let correlation = self.correlation_data.as_ref().map_or(0, |data| TAG + LENGTH + data.len());
        let user: usize = self.user_properties.iter().map(|(name, value)| text(name) + LENGTH + value.len()).sum();
        expiry + format + content_type + response_topic + correlation + user
    }
}

/// The largest string or binary field of a packet, in bytes (MQTT 5, section 1.5.4).
const MAX_FIELD: usize = 65_535;

pub(crate) fn check_user_properties(properties: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in properties {
        check_text("name of a user property", name)?;
        check_text("value of a user property", value)?;
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_FIELD {
        return Err(Error::invalid_argument(format!("the {what} is over 65,535 bytes")));
    }
    if text.contains('\0') {
        return Err(Error::invalid_argument(format!("the {what} contains a NUL [MQTT-1.5.4-2]")));
    }
    Ok(())
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets, as payloads may.
        let names: Vec<_> = self.user_properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("Properties")
            .field("message_expiry", &self.message_expiry)
            .field("content_type", &self.content_type)
            .field("payload_is_utf8", &self.payload_is_utf8)
            .field("response_topic", &self.response_topic.as_ref().map(Topic::as_str))
            .field("correlation_data_bytes", &self.correlation_data.as_ref().map(Bytes::len))
            .field("user_properties", &names)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_does_not_fit_a_field_is_refused() {
        let long = || "x".repeat(65_536);
        let refused = [
            Properties { content_type: Some(long()), ..Properties::default() },
            Properties { correlation_data: Some(long().into()), ..Properties::default() },
            Properties { user_properties: vec![("a".into(), long())], ..Properties::default() },
            Properties { user_properties: vec![("a\0".into(), String::new())], ..Properties::default() },
        ];
        for properties in refused {
            assert_eq!(properties.check().unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
        assert!(Properties::default().check().is_ok() && Properties::default().is_empty());
    }

    #[test]
    fn no_value_is_shown_by_debug() {
        let properties = Properties {
            correlation_data: Some("hunter2".into()),
            user_properties: vec![("token".into(), "hunter2".into())],
            ..Properties::default()
        };
        assert!(!format!("{properties:?}").contains("hunter2"));
        assert_eq!(properties.user_property("token"), Some("hunter2"));
    }
}
