//! Options that only MQTT 5 has a place for.

use std::time::Duration;

use super::authentication::Authentication;
use super::Options;
use crate::{field, Error, Version};

/// None, and empty, where nothing was asked for.
#[derive(Clone, Default)]
pub(crate) struct Mqtt5 {
    session_expiry: Option<Duration>,
    receive_maximum: Option<u16>,
    topic_alias_maximum: Option<u16>,
    topic_aliases: Option<bool>,
    request_response_information: Option<bool>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) authentication: Option<Authentication>,
}

/// A few topics that come often are worth an alias, and a broker that may use more makes us hold them.
const TOPIC_ALIASES: u16 = 16;

/// For [`Version::V5`], and for [`Version::Auto`] where the broker speaks it; with an earlier version they are an error
/// when the agent is made.
impl Options {
    /// How long the broker keeps the session after the connection is lost, in whole seconds, rounded up;
    /// [`Duration::MAX`] is for ever (MQTT 5, section 3.1.2.11.2). With [`clean_session(true)`](Self::clean_session)
    /// the first connection of an agent starts a new session, and the later ones resume it: a cut line then loses
    /// nothing, without a fixed client identifier. Default: zero with `clean_session(true)`, for ever without.
    #[must_use]
    pub fn session_expiry(mut self, session_expiry: Duration) -> Self {
        self.mqtt5.session_expiry = Some(session_expiry);
        self
    }

    /// How many QoS 1 and 2 messages the broker may send before the first is acknowledged, at least 1. Default: as many
    /// as the protocol allows, 65,535 (MQTT 5, section 3.1.2.11.3).
    #[must_use]
    pub fn receive_maximum(mut self, receive_maximum: u16) -> Self {
        self.mqtt5.receive_maximum = Some(receive_maximum);
        self
    }

    /// How many topic aliases the broker may use towards this client; each can hold a topic of 64 KiB. Default: 16.
    #[must_use]
    pub fn topic_alias_maximum(mut self, topic_alias_maximum: u16) -> Self {
        self.mqtt5.topic_alias_maximum = Some(topic_alias_maximum);
        self
    }

    /// Whether topics that are published to again and again are sent as aliases, where the broker takes them: fewer
    /// bytes on the wire. Default: true.
    #[must_use]
    pub fn topic_aliases(mut self, topic_aliases: bool) -> Self {
        self.mqtt5.topic_aliases = Some(topic_aliases);
        self
    }

    /// Whether to ask the broker for a topic prefix that this client may use for replies; what it answers is in
    /// [`Terms::response_information`](crate::Terms::response_information). Default: false.
    #[must_use]
    pub fn request_response_information(mut self, request: bool) -> Self {
        self.mqtt5.request_response_information = Some(request);
        self
    }

    /// Adds a name and a value for the broker to CONNECT, of at most 65,535 bytes each. Default: none.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.mqtt5.user_properties.push((name.into(), value.into()));
        self
    }

    /// Seconds for CONNECT.
    pub(crate) fn session_expiry_seconds(&self) -> u32 {
        let default = if self.clean_session { Duration::ZERO } else { Duration::MAX };
        crate::wire::whole_seconds(self.mqtt5.session_expiry.unwrap_or(default))
    }

    /// Whether the session is to be new: in every connection, or in the first only.
    pub(crate) fn starts_clean(&self, version: Version, is_first: bool) -> bool {
        let is_kept = version == Version::V5 && self.session_expiry_seconds() > 0;
        self.clean_session && (is_first || !is_kept)
    }
}

impl Mqtt5 {
    pub(super) fn check(&self, version: Version) -> Result<(), Error> {
        if !version.may_be_5() {
            if let Some(name) = self.first_set() {
                return Err(Error::invalid_options(format!(
                    "{name} belongs to MQTT 5, and the version is an earlier one: set version(Version::V5)"
                )));
            }
        }
        if self.receive_maximum == Some(0) {
            return Err(Error::invalid_options("receive_maximum must be at least 1"));
        }
        if let Some(authentication) = &self.authentication {
            field::check_text("authentication method", &authentication.method).map_err(Error::invalid_options)?;
        }
        field::check_user_properties(&self.user_properties).map_err(Error::invalid_options)
    }

    fn first_set(&self) -> Option<&'static str> {
        let set = [
            ("session_expiry", self.session_expiry.is_some()),
            ("receive_maximum", self.receive_maximum.is_some()),
            ("topic_alias_maximum", self.topic_alias_maximum.is_some()),
            ("topic_aliases", self.topic_aliases.is_some()),
            ("request_response_information", self.request_response_information.is_some()),
            ("user_property", !self.user_properties.is_empty()),
            ("authentication", self.authentication.is_some()),
        ];
        set.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
    }

    pub(crate) fn receive_maximum(&self) -> u16 {
        self.receive_maximum.unwrap_or(u16::MAX)
    }

    pub(crate) fn topic_alias_maximum(&self) -> u16 {
        self.topic_alias_maximum.unwrap_or(TOPIC_ALIASES)
    }

    pub(crate) fn topic_aliases(&self) -> bool {
        self.topic_aliases.unwrap_or(true)
    }

    pub(crate) fn request_response_information(&self) -> bool {
        self.request_response_information.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Exchange, ExchangeFuture};
    use crate::ErrorKind;
    use bytes::Bytes;

    #[test]
    fn what_belongs_to_mqtt_5_is_refused_with_an_earlier_version() {
        let options = || Options::new("localhost");
        let asked = [
            options().session_expiry(Duration::from_secs(1)),
            options().receive_maximum(1),
            options().topic_alias_maximum(1),
            options().topic_aliases(true),
            options().request_response_information(true),
            options().user_property("a", "b"),
        ];
        for options in asked {
            let error = options.clone().check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOptions);
            assert!(error.to_string().contains("MQTT 5"), "{error}");
            options.clone().version(Version::V5).check().unwrap();
            options.version(Version::Auto).check().unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_a_field_of_connect_is_refused() {
        struct Never;
        impl Exchange for Never {
            fn step(&mut self, _: Option<Bytes>) -> ExchangeFuture<'_> {
                Box::pin(std::future::pending())
            }
        }
        for method in ["a\0".to_owned(), "x".repeat(65_536)] {
            let options = Options::new("localhost").version(Version::V5).authentication(method, || Never);
            let error = options.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOptions);
            assert!(error.to_string().contains("authentication method"), "{error}");
        }
    }

    #[test]
    fn a_session_that_is_to_be_kept_starts_clean_once() {
        let kept = Options::new("localhost").version(Version::V5).session_expiry(Duration::from_secs(60));
        assert!(kept.starts_clean(Version::V5, true) && !kept.starts_clean(Version::V5, false));
        assert!(kept.starts_clean(Version::V311, false), "before MQTT 5 there is no such session");
        let clean = Options::new("localhost").version(Version::V5);
        assert!(clean.starts_clean(Version::V5, false));
        assert_eq!(clean.session_expiry_seconds(), 0);
        let persistent = clean.clean_session(false);
        assert!(!persistent.starts_clean(Version::V5, true));
        assert_eq!(persistent.session_expiry_seconds(), u32::MAX);
    }
}
