//! What a client may send on a connection: what the protocol and the broker's terms allow, and what is its turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::callers::Asked;
use crate::terms::Terms;
use crate::wire::peer::{Carried, Sent};
use crate::wire::{whole_seconds, Inbound, PacketId};
use crate::{Options, Properties, QoS, Version};

/// Sees all that goes in and out on one connection.
pub(super) struct Referee {
    terms: Arc<Terms>,
    max_in_flight: usize,
    max_filters: usize,
    is_holding: bool,
    session_present: bool,
    /// What waits for an answer of the broker, by its identifier.
    in_use: BTreeMap<PacketId, Use>,
    /// The acknowledgements that are due, in their order.
    owed: VecDeque<Owed>,
    /// The PUBCOMPs that are due.
    completions: VecDeque<PacketId>,
    /// Topics by the aliases that stand for them.
    aliases: BTreeMap<u16, String>,
    has_said_goodbye: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Use {
    Published(QoS),
    Released,
    Subscribed(Vec<String>),
    Unsubscribed(Vec<String>),
}

#[derive(Debug)]
struct Owed {
    qos: QoS,
    id: PacketId,
    /// Of the message that it is for.
    number: u32,
    /// Otherwise another one may do for it, or the broker has done without.
    is_needed: bool,
    /// The broker let go of the message.
    is_released: bool,
}

impl Referee {
    pub(super) fn new(terms: Arc<Terms>, options: &Options, session_present: bool) -> Self {
        Self {
            terms,
            max_in_flight: options.max_in_flight.into(),
            max_filters: options.max_filters_per_subscribe,
            is_holding: options.holds.is_some(),
            session_present,
            in_use: BTreeMap::new(),
            owed: VecDeque::new(),
            completions: VecDeque::new(),
            aliases: BTreeMap::new(),
            has_said_goodbye: false,
        }
    }

    pub(super) fn note_owed(&mut self, qos: QoS, id: PacketId, number: u32, is_needed: bool) {
        self.owed.push_back(Owed { qos, id, number, is_needed, is_released: false });
    }

    /// The broker answers something, or lets go of a message.
    pub(super) fn note_answer(&mut self, inbound: &Inbound) {
        match inbound {
            Inbound::PubAck { id, .. } if matches!(self.in_use.get(id), Some(Use::Published(_))) => {
                self.in_use.remove(id);
            }
            Inbound::PubRec { id, reason } => match self.in_use.get(id) {
                Some(Use::Published(_)) if reason.is_failure() => drop(self.in_use.remove(id)),
                Some(Use::Published(QoS::ExactlyOnce)) => drop(self.in_use.insert(*id, Use::Released)),
                _ => {}
            },
            Inbound::PubComp(id) if self.in_use.get(id) == Some(&Use::Released) => drop(self.in_use.remove(id)),
            Inbound::SubAck { id, .. } if matches!(self.in_use.get(id), Some(Use::Subscribed(_))) => {
                self.in_use.remove(id);
            }
            Inbound::UnsubAck { id, .. } if matches!(self.in_use.get(id), Some(Use::Unsubscribed(_))) => {
                self.in_use.remove(id);
            }
            Inbound::PubRel(id) => {
                let of_message = |owed: &&mut Owed| (owed.qos, owed.id) == (QoS::ExactlyOnce, *id);
                for owed in self.owed.iter_mut().filter(of_message) {
                    owed.is_needed &= !self.is_holding;
                    owed.is_released = true;
                }
                self.completions.push_back(*id);
            }
            _ => {}
        }
    }

    /// A packet of this size goes out. If it acknowledges a message, that one's number.
    pub(super) fn check(&mut self, sent: &Sent, carried: &Carried, size: usize) -> Option<u32> {
        assert!(!self.has_said_goodbye, "{sent:?} follows a DISCONNECT [MQTT-3.14.4-2]");
        let limit = self.terms.maximum_packet_size.map_or(usize::MAX, |limit| limit as usize);
        assert!(size <= limit, "{sent:?} has {size} bytes, and {limit} are allowed [MQTT-3.2.2-15]");
        match sent {
            Sent::Publish { .. } => self.check_publish(sent, carried),
            Sent::PubAck(id) => return Some(self.check_owed(QoS::AtLeastOnce, *id)),
            Sent::PubRec(id) => return Some(self.check_owed(QoS::ExactlyOnce, *id)),
            Sent::PubComp(id) => assert_eq!(self.completions.pop_front(), Some(*id), "a PUBCOMP without its PUBREL"),
            Sent::Subscribe(id, _) => self.check_subscribe(*id, carried),
            Sent::Unsubscribe(id, filters) => {
                self.check_filters(filters);
                self.occupy(*id, Use::Unsubscribed(filters.clone()));
            }
            Sent::Disconnect => self.has_said_goodbye = true,
            Sent::PubRel(_) | Sent::PingReq => {}
        }
        None
    }

    fn check_publish(&mut self, sent: &Sent, carried: &Carried) {
        let Sent::Publish { topic, qos, retain, dup, id, .. } = sent else { return };
        assert!(*qos <= self.terms.maximum_qos, "{sent:?} is above the maximum QoS [MQTT-3.2.2-11]");
        assert!(!retain || self.terms.retain_available, "{sent:?} is retained [MQTT-3.2.2-14]");
        self.check_alias(topic, carried.alias);
        if *qos == QoS::AtMostOnce {
            return assert!(!dup && *id == 0, "{sent:?} [MQTT-3.3.1-2]");
        }
        assert!(!dup || self.session_present, "{sent:?} repeats what this session never had");
        self.occupy(*id, Use::Published(*qos));
        let is_message = |held: &&Use| matches!(held, Use::Published(_) | Use::Released);
        let unacknowledged = self.in_use.values().filter(is_message).count();
        let window = self.max_in_flight.min(self.terms.receive_maximum.into());
        assert!(unacknowledged <= window, "{unacknowledged} in flight, and {window} are allowed [MQTT-3.3.4-9]");
    }

    fn check_alias(&mut self, topic: &str, alias: Option<u16>) {
        match alias {
            None => assert!(!topic.is_empty(), "a message without a topic"),
            Some(alias) => {
                let maximum = self.terms.topic_alias_maximum;
                assert!((1..=maximum).contains(&alias), "alias {alias} of {maximum} [MQTT-3.3.2-8, MQTT-3.3.2-9]");
                if topic.is_empty() {
                    assert!(self.aliases.contains_key(&alias), "alias {alias} was not introduced");
                } else {
                    self.aliases.insert(alias, topic.to_owned());
                }
            }
        }
    }

    fn check_subscribe(&mut self, id: PacketId, carried: &Carried) {
        let is_v5 = self.terms.version == Version::V5;
        for ask in &carried.asks {
            let (is_wild, is_shared) = (ask.filter.has_wildcards(), ask.filter.share_group().is_some());
            assert!(!is_wild || self.terms.wildcard_subscriptions_available, "{ask:?} is refused");
            assert!(!is_shared || self.terms.shared_subscriptions_available, "{ask:?} is refused");
            assert!(!(is_shared && ask.no_local), "{ask:?} [MQTT-3.8.3-4]");
        }
        let has_identifiers = is_v5 && self.terms.subscription_identifiers_available;
        assert_eq!(carried.identifier.is_some(), has_identifiers, "a subscription identifier, or the lack of one");
        let filters: Vec<_> = carried.asks.iter().map(|ask| ask.filter.as_str().to_owned()).collect();
        self.check_filters(&filters);
        self.occupy(id, Use::Subscribed(filters));
    }

    fn check_filters(&self, filters: &[String]) {
        assert!((1..=self.max_filters).contains(&filters.len()), "{} filters in one packet", filters.len());
        let asked = self.in_use.values().flat_map(|held| match held {
            Use::Subscribed(filters) | Use::Unsubscribed(filters) => &filters[..],
            Use::Published(_) | Use::Released => &[],
        });
        let again: Vec<_> = asked.filter(|filter| filters.contains(filter)).collect();
        assert!(again.is_empty(), "{again:?} are being asked for already");
    }

    fn occupy(&mut self, id: PacketId, by: Use) {
        assert_ne!(id, 0, "{by:?} [MQTT-2.2.1-3]");
        let before = self.in_use.insert(id, by);
        assert_eq!(before, None, "identifier {id} is in use [MQTT-2.2.1-3]");
    }

    /// MQTT-4.6.0-2 and MQTT-4.6.0-3: acknowledgements go out in the order in which the messages came.
    fn check_owed(&mut self, qos: QoS, id: PacketId) -> u32 {
        while let Some(owed) = self.owed.pop_front() {
            if (owed.qos, owed.id) == (qos, id) {
                return owed.number;
            }
            assert!(!owed.is_needed, "{qos:?} {id} is acknowledged before {owed:?}");
        }
        panic!("{qos:?} {id} is acknowledged and was not owed");
    }

    /// The first acknowledgement that is still owed waits for something.
    pub(super) fn check_nothing_due(&self, is_due: impl Fn(u32) -> bool) {
        if self.has_said_goodbye {
            return;
        }
        assert!(self.completions.is_empty(), "{:?} are not answered", self.completions);
        // A repetition waits for its message as that does, and what is behind it waits with it.
        let keeps_back = |owed: &&Owed| owed.is_needed || !owed.is_released && !is_due(owed.number);
        let first = self.owed.iter().find(keeps_back);
        assert!(!first.is_some_and(|owed| is_due(owed.number)), "{first:?} is kept back by nothing");
    }

    /// What goes out is what was asked for.
    pub(super) fn check_asked(&self, asked: &Asked, sent: &Sent, carried: &Carried, now: Instant) {
        let Sent::Publish { topic, payload, qos, retain, .. } = sent else { return };
        let expected = &asked.publish;
        let topic = match carried.alias.filter(|_| topic.is_empty()) {
            Some(alias) => &self.aliases[&alias],
            None => topic,
        };
        assert_eq!(topic, expected.topic.as_str(), "the topic of another message");
        assert!(*payload == expected.payload && (*qos, *retain) == (expected.qos, expected.retain), "{sent:?}");
        let expiry = asked.expires.map(|expires| whole_seconds(expires - now).max(1));
        let carried_expiry = carried.properties.message_expiry.map(|expiry| expiry.as_secs() as u32);
        assert_eq!(carried_expiry, expiry, "a message that expires at another time");
        let expected = expected.properties.as_deref().unwrap_or(Properties::NONE);
        let mut properties = Properties { message_expiry: expected.message_expiry, ..carried.properties.clone() };
        if expected.response_topic.is_none() {
            // The session may have given a request the agent's own.
            properties.response_topic = None;
        }
        assert_eq!(&properties, expected, "other properties");
    }
}
