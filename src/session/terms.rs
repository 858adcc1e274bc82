//! What is asked, held against what the broker allows on this connection.

use crate::terms::{Terms, Version};
use crate::wire::{self, Ask};
use crate::Error;

/// What stands around the filters of a SUBSCRIBE at most: fixed header, packet identifier, subscription identifier.
const AROUND_FILTERS: usize = 5 + 2 + 6;

impl Terms {
    /// Why this message cannot be sent, if so.
    pub(super) fn check_publish(&self, publish: &wire::Publish) -> Result<(), Error> {
        if publish.properties.is_some() && !publish.lenient && self.version != Version::V5 {
            return Err(Error::unsupported(
                "the message has properties of MQTT 5, which this connection does not speak: leave them out, or ask for \
                 Version::V5",
            ));
        }
        if publish.qos > self.maximum_qos {
            let highest = self.maximum_qos as u8;
            return Err(Error::unsupported(format!(
                "the broker takes messages of QoS {highest} at most [MQTT-3.2.2-11]: lower the qos"
            )));
        }
        if publish.retain && !self.retain_available {
            return Err(Error::unsupported(
                "the broker keeps no retained messages [MQTT-3.2.2-14]: publish without retain",
            ));
        }
        let Some(limit) = self.maximum_packet_size else { return Ok(()) };
        let size = wire::publish_size(publish, self.version);
        match size > limit as usize {
            true => Err(Error::too_large(size, limit as usize)),
            false => Ok(()),
        }
    }

    /// Why this filter cannot be subscribed, if so.
    pub(super) fn check_filter(&self, ask: &Ask) -> Result<(), Error> {
        if (ask.no_local || ask.retain_as_published) && self.version != Version::V5 {
            let what = "no_local and retain_as_published belong to MQTT 5, which this connection does not speak";
            return Err(Error::unsupported(what));
        }
        if ask.filter.has_wildcards() && !self.wildcard_subscriptions_available {
            return Err(Error::unsupported("the broker takes no filters with wildcards: name each topic"));
        }
        if ask.filter.share_group().is_some() && !self.shared_subscriptions_available {
            return Err(Error::unsupported("the broker has no shared subscriptions: leave $share/<group>/ out"));
        }
        let (size, room) = (wire::filter_size(&ask.filter), self.room_for_filters());
        match size > room {
            true => Err(Error::too_large(size + AROUND_FILTERS, room + AROUND_FILTERS)),
            false => Ok(()),
        }
    }

    /// How many bytes of filters go into one packet (MQTT-3.2.2-15).
    pub(super) fn room_for_filters(&self) -> usize {
        self.maximum_packet_size.map_or(usize::MAX, |limit| (limit as usize).saturating_sub(AROUND_FILTERS))
    }

    /// Whether a message tells by which subscriptions it comes.
    pub(super) fn has_identifiers(&self) -> bool {
        self.version == Version::V5 && self.subscription_identifiers_available
    }
}
