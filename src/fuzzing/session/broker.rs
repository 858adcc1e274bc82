//! The broker: what it allows, what it sends, and what it holds of the session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::callers::{QOS, TOPICS};
use super::World;
use crate::fuzzing::codec::ALIASES;
use crate::fuzzing::input::{Bits, Input};
use crate::terms::Terms;
use crate::wire::peer::{Carried, Sent};
use crate::wire::PacketId;
use crate::{QoS, Version};

pub(super) struct Broker {
    /// Whether the last connection finds the session.
    pub(super) keeps_session: bool,
    /// It sends what a broker sends; otherwise any bytes come between.
    is_honest: bool,
    /// How many messages arrived.
    numbers: u32,
    /// QoS 2 messages that arrived and were not released, by their identifiers, with their numbers.
    unreleased: BTreeMap<PacketId, u32>,
    /// The filters that it may hold, and whether it surely does.
    filters: BTreeMap<String, bool>,
    /// The subscription identifiers that came last.
    identifiers: Vec<u32>,
    /// The topic aliases that it introduced on this connection.
    introduced: BTreeSet<u16>,
}

/// What it says to something that was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    /// A message that nobody is subscribed to.
    Unmatched,
    Refused,
}

/// How many subscription identifiers are remembered.
const IDENTIFIERS: usize = 8;

/// What stands around the text of a filter in its packet, at most.
const AROUND_FILTER: usize = 16;

/// What the broker allows on a connection: mostly everything.
pub(super) fn terms(version: Version, input: &mut Input<'_>) -> Terms {
    let mut terms = Terms::implied(version, "fuzz");
    if version != Version::V5 {
        return terms;
    }
    terms.topic_alias_maximum = ALIASES;
    let limits = Bits(input.byte());
    if !limits.has(7) {
        return terms;
    }
    if limits.has(0) {
        terms.receive_maximum = input.pick(&[1, 2, 10]);
    }
    if limits.has(1) {
        // A request of the smallest has room, so has everything that is not asked for.
        terms.maximum_packet_size = Some(input.pick(&[40, 100, 5_000]));
    }
    if limits.has(2) {
        terms.maximum_qos = input.pick(&QOS);
    }
    if limits.has(3) {
        terms.topic_alias_maximum = input.pick(&[0, 1, 300]);
    }
    if limits.has(4) {
        terms.retain_available = false;
    }
    if limits.has(5) {
        let lacks = Bits(input.byte());
        terms.wildcard_subscriptions_available = !lacks.has(0);
        terms.shared_subscriptions_available = !lacks.has(1);
        terms.response_information = lacks.has(2).then(|| "own".to_owned());
    }
    if limits.has(6) {
        terms.subscription_identifiers_available = false;
        // The wire carries whole seconds.
        terms.keep_alive = Some(Duration::from_secs(input.pick(&[0, 1, 60])));
    }
    terms
}

impl World {
    /// What no broker should send: any bytes, or the release of a message that was perhaps not acknowledged yet.
    pub(super) fn receive_raw(&mut self, input: &mut Input<'_>) {
        let (count, times) = (input.byte(), input.byte());
        let bytes = input.take(count.into()).repeat(usize::from(times) + 1);
        if self.broker.is_honest {
            return;
        }
        let unreleased = self.broker.unreleased();
        match unreleased.get(usize::from(times) % unreleased.len().max(1)).filter(|_| count == 0) {
            Some(id) => self.receive(&[0x62, 2, (id >> 8) as u8, *id as u8]),
            None => self.receive(&bytes),
        }
    }

    pub(super) fn broker_owes(&self) -> bool {
        self.line.as_ref().is_some_and(|line| !line.sent.is_empty())
    }

    /// What a broker says to something that was sent: mostly yes.
    pub(super) fn answer(&mut self, how: u8) {
        let Some(line) = self.line.as_mut().filter(|_| self.session.wants_read()) else { return };
        let which = usize::from(how % 8) % line.sent.len().max(1);
        let Some(sent) = line.sent.remove(which) else { return };
        let bytes = self.broker.answer(sent, line.terms.version, Verdict::of(how));
        if !bytes.is_empty() {
            self.receive(&bytes);
        }
    }

    /// A message of the broker.
    pub(super) fn push(&mut self, input: &mut Input<'_>) {
        let Some(line) = &self.line else { return };
        let (flags, topic, id, size) = (input.byte() & 0x0f, input.pick(&TOPICS), input.byte(), input.byte());
        let (mut topic, mut properties) = (topic, Vec::new());
        if line.terms.version == Version::V5 {
            let carried = self.broker.properties(&mut topic, input);
            put_length(&mut properties, carried.len());
            properties.extend(carried);
        }
        let mut packet = vec![0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        if flags & 0b0110 != 0 {
            // Few, so that they come again.
            packet.extend_from_slice(&[0, 1 + id % 8]);
        }
        packet.extend(properties);
        packet.resize(packet.len() + usize::from(size), id % 4);
        let mut bytes = vec![0x30 | flags];
        put_length(&mut bytes, packet.len());
        bytes.extend(packet);
        self.receive(&bytes);
    }
}

impl Broker {
    pub(super) fn new(keeps_session: bool, is_honest: bool) -> Self {
        Self {
            keeps_session,
            is_honest,
            numbers: 0,
            unreleased: BTreeMap::new(),
            filters: BTreeMap::new(),
            identifiers: Vec::new(),
            introduced: BTreeSet::new(),
        }
    }

    pub(super) fn handle_connected(&mut self, session_present: bool, terms: &Terms) {
        self.introduced.clear();
        // What fits into no packet the client can never give up.
        let room = terms.maximum_packet_size.map_or(usize::MAX, |limit| limit as usize - AROUND_FILTER);
        self.filters.retain(|filter, _| filter.len() <= room);
        if !session_present {
            self.unreleased.clear();
            self.filters.clear();
        }
    }

    pub(super) fn next_number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn note_unreleased(&mut self, id: PacketId, number: u32) {
        self.unreleased.insert(id, number);
    }

    pub(super) fn note_released(&mut self, id: PacketId) {
        self.unreleased.remove(&id);
    }

    pub(super) fn number_of(&self, id: PacketId) -> Option<u32> {
        self.unreleased.get(&id).copied()
    }

    pub(super) fn unreleased(&self) -> Vec<PacketId> {
        self.unreleased.keys().copied().collect()
    }

    pub(super) fn note_sent(&mut self, sent: &Sent, carried: &Carried) {
        if let Sent::Subscribe(_, filters) = sent {
            for (filter, _) in filters {
                self.filters.entry(filter.clone()).or_insert(false);
            }
        }
        if let Some(identifier) = carried.identifier {
            self.identifiers.truncate(IDENTIFIERS - 1);
            self.identifiers.insert(0, identifier as u32);
        }
    }

    /// It holds no filter that nobody wants.
    pub(super) fn check_empty(&self) {
        assert!(!self.is_honest || self.filters.is_empty(), "{:?} are left with the broker", self.filters);
    }

    fn answer(&mut self, sent: Sent, version: Version, verdict: Verdict) -> Vec<u8> {
        let ack = |first: u8, id: PacketId| vec![first, 2, (id >> 8) as u8, id as u8];
        let verdict_on = |first: u8, id: PacketId| match verdict.code() {
            0 => ack(first, id),
            code => vec![first, 3, (id >> 8) as u8, id as u8, code],
        };
        let refuses = verdict == Verdict::Refused;
        match sent {
            Sent::Publish { qos: QoS::AtLeastOnce, id, .. } => verdict_on(0x40, id),
            Sent::Publish { qos: QoS::ExactlyOnce, id, .. } => verdict_on(0x50, id),
            Sent::PubRec(id) => ack(0x62, id),
            Sent::PubRel(id) => ack(0x70, id),
            Sent::Subscribe(id, filters) => {
                for (filter, _) in &filters {
                    self.decide(filter, refuses);
                }
                let codes = filters.iter().map(|(_, qos)| if refuses { 0x80 } else { *qos as u8 });
                codes_packet(0x90, id, version, codes.collect())
            }
            Sent::Unsubscribe(id, filters) => {
                self.filters.retain(|filter, _| !filters.contains(filter));
                match version {
                    Version::V5 => {
                        let code = if refuses { 0x80 } else { 0 };
                        codes_packet(0xb0, id, version, vec![code; filters.len()])
                    }
                    _ => ack(0xb0, id),
                }
            }
            Sent::PingReq => vec![0xd0, 0],
            Sent::Publish { .. } | Sent::PubAck(_) | Sent::PubComp(_) | Sent::Disconnect => Vec::new(),
        }
    }

    /// One that is held already stays, whatever is said to its renewal.
    fn decide(&mut self, filter: &str, refuses: bool) {
        if !refuses {
            self.filters.insert(filter.to_owned(), true);
        } else if self.filters.get(filter) == Some(&false) {
            self.filters.remove(filter);
        }
    }

    /// Those of a message, mostly none. An alias may take the place of the topic.
    fn properties(&mut self, topic: &mut &str, input: &mut Input<'_>) -> Vec<u8> {
        let chosen = Bits(input.byte());
        let mut bytes = Vec::new();
        if !chosen.has(7) {
            return bytes;
        }
        if chosen.has(0) {
            bytes.extend([0x01, 1, 0x02, 0, 0, 0, input.byte()]);
        }
        if chosen.has(1) {
            bytes.push(0x08);
            put_text(&mut bytes, input.pick(&TOPICS).as_bytes());
        }
        if chosen.has(2) {
            // What the calls are known by.
            bytes.push(0x09);
            put_text(&mut bytes, &[input.byte() % 4; 16]);
        }
        if chosen.has(3) {
            bytes.push(0x26);
            put_text(&mut bytes, b"by");
            put_text(&mut bytes, input.take(3).escape_ascii().to_string().as_bytes());
        }
        let identifiers = if chosen.has(4) { 1 + usize::from(chosen.has(5)) } else { 0 };
        for _ in 0..identifiers {
            let at = usize::from(input.byte());
            if let Some(identifier) = self.identifiers.get(at % IDENTIFIERS) {
                bytes.push(0x0b);
                put_length(&mut bytes, *identifier as usize);
            }
        }
        if chosen.has(6) {
            let alias = u16::from(input.byte()) % ALIASES + 1;
            bytes.extend([0x23, 0, alias as u8]);
            if !self.introduced.insert(alias) {
                *topic = "";
            }
        }
        bytes
    }
}

impl Verdict {
    fn of(how: u8) -> Self {
        match how {
            0xe0.. => Self::Refused,
            0xd0.. => Self::Unmatched,
            _ => Self::Accepted,
        }
    }

    /// To a message.
    fn code(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::Unmatched => 0x10,
            Self::Refused => 0x87,
        }
    }
}

/// A SUBACK, or an UNSUBACK of MQTT 5.
fn codes_packet(first: u8, id: PacketId, version: Version, codes: Vec<u8>) -> Vec<u8> {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    let mut bytes = vec![first];
    put_length(&mut bytes, 2 + properties.len() + codes.len());
    bytes.extend(id.to_be_bytes());
    bytes.extend_from_slice(properties);
    bytes.extend(codes);
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(text);
}

fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}
