//! What MQTT 5 lets a message carry besides its payload.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{field, Topic};

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
///
/// By themselves, for what takes them as a whole, they begin with none:
///
/// ```
/// use mqtt_agent::{LastWill, Properties};
///
/// let properties = Properties::default().with_content_type("text/plain").with_user_property("by", "web-1");
/// let will = LastWill::new("web/1/state", "gone").properties(properties);
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

    /// The first value of a user property with this name, exactly as it is written.
    pub fn user_property(&self, name: &str) -> Option<&str> {
        self.user_properties.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// With the time for which the message is worth delivering, in whole seconds, rounded up.
    #[must_use]
    pub fn with_message_expiry(mut self, message_expiry: Duration) -> Self {
        self.message_expiry = Some(message_expiry);
        self
    }

    /// With what the payload is, as a MIME type of at most 65,535 bytes.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// With the declaration that the payload is UTF-8 text, or without it.
    #[must_use]
    pub fn with_payload_is_utf8(mut self, payload_is_utf8: bool) -> Self {
        self.payload_is_utf8 = payload_is_utf8;
        self
    }

    /// With the topic where an answer is awaited.
    #[must_use]
    pub fn with_response_topic(mut self, response_topic: Topic) -> Self {
        self.response_topic = Some(response_topic);
        self
    }

    /// With what an answer must carry: at most 65,535 bytes.
    #[must_use]
    pub fn with_correlation_data(mut self, correlation_data: impl Into<Bytes>) -> Self {
        self.correlation_data = Some(correlation_data.into());
        self
    }

    /// With one more name and value for the application, of at most 65,535 bytes each.
    #[must_use]
    pub fn with_user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    /// Takes over what is not set here, and adds the user properties to those that are.
    pub(crate) fn fill_from(&mut self, other: Self) {
        self.message_expiry = self.message_expiry.or(other.message_expiry);
        self.content_type = self.content_type.take().or(other.content_type);
        self.payload_is_utf8 |= other.payload_is_utf8;
        self.response_topic = self.response_topic.take().or(other.response_topic);
        self.correlation_data = self.correlation_data.take().or(other.correlation_data);
        self.user_properties.extend(other.user_properties);
    }

    /// Refuses what does not fit the fields of a packet.
    pub(crate) fn check(&self) -> Result<(), String> {
        field::check_text("content type", self.content_type.as_deref().unwrap_or_default())?;
        field::check_bytes("correlation data", self.correlation_data.as_deref().unwrap_or_default())?;
        field::check_user_properties(&self.user_properties)
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
            assert!(properties.check().is_err(), "{properties:?}");
        }
        assert!(Properties::default().check().is_ok() && Properties::default().is_empty());
    }

    fn full(text: &str) -> Properties {
        Properties::default()
            .with_message_expiry(Duration::from_secs(text.len() as u64))
            .with_content_type(text)
            .with_payload_is_utf8(true)
            .with_response_topic(Topic::new(text).unwrap())
            .with_correlation_data(text.to_owned())
            .with_user_property("by", text)
    }

    #[test]
    fn only_what_is_not_set_is_filled_in() {
        let mut empty = Properties::default();
        empty.fill_from(full("a"));
        assert_eq!(empty, full("a"));
        let mut set = full("a");
        set.fill_from(full("other"));
        assert_eq!(set, full("a").with_user_property("by", "other"));
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
