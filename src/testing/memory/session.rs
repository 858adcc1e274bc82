//! What the broker in memory holds for one client: the messages that it is to get.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use crate::wire::peer::{encode_answer, encode_publish, Answer, Hello};
use crate::wire::{PacketId, Publish};
use crate::{Filter, QoS, Version};

/// A session, with or without a connection.
pub(super) struct Session {
    pub(super) client_id: String,
    pub(super) version: Version,
    /// The connection that it has now.
    pub(super) link: Option<u64>,
    /// Whether it outlives its connection.
    pub(super) is_kept: bool,
    pub(super) last_will: Option<Publish>,
    pub(super) filters: BTreeSet<Filter>,
    /// QoS 2 messages from the client that it has not released.
    pub(super) received: BTreeSet<PacketId>,
    pub(super) maximum_packet_size: usize,
    window: usize,
    waiting: VecDeque<Delivery>,
    in_flight: VecDeque<Delivery>,
    last_id: PacketId,
}

/// One message on its way to one client.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) message: Arc<Publish>,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Of the subscriptions by which it comes.
    pub(super) identifiers: Vec<usize>,
    /// 0 until it is sent; an identifier before that says that it was sent on an earlier connection.
    pub(super) id: PacketId,
    /// The client has it, and was or is to be told so (QoS 2).
    pub(super) is_released: bool,
}

/// Messages that wait for one client; what comes then is lost.
pub(super) const MAX_WAITING: usize = 100_000;
/// Messages that a client may leave unacknowledged, if it does not want fewer.
const WINDOW: u16 = 1000;

impl Session {
    pub(super) fn new(client_id: String) -> Self {
        Self {
            client_id,
            version: Version::V311,
            link: None,
            is_kept: false,
            last_will: None,
            filters: BTreeSet::new(),
            received: BTreeSet::new(),
            maximum_packet_size: usize::MAX,
            window: 0,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Has a connection from now on.
    pub(super) fn begin(&mut self, hello: Hello, link: u64) {
        self.link = Some(link);
        self.version = hello.version;
        self.is_kept = hello.is_kept;
        self.last_will = hello.last_will;
        self.window = usize::from(hello.receive_maximum.min(WINDOW));
        self.maximum_packet_size = hello.maximum_packet_size.map_or(usize::MAX, |bytes| bytes as usize);
    }

    /// Has none from now on; what was not acknowledged is sent again on the next one, in its order (MQTT-4.4.0-1).
    pub(super) fn end(&mut self) {
        self.link = None;
        self.waiting.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        while let Some(delivery) = self.in_flight.pop_back() {
            self.waiting.push_front(delivery);
        }
    }

    /// Whether there is room for it.
    pub(super) fn push(&mut self, delivery: Delivery) -> bool {
        if self.link.is_none() && delivery.qos == QoS::AtMostOnce {
            // Nobody is owed a QoS 0 message.
            return true;
        }
        let has_room = self.waiting.len() < MAX_WAITING;
        if has_room {
            self.waiting.push_back(delivery);
        }
        has_room
    }

    /// The next to be sent, and whether it was sent before.
    pub(super) fn poll_send(&mut self) -> Option<(Delivery, bool)> {
        let next = self.waiting.front()?;
        if next.qos != QoS::AtMostOnce && self.in_flight.len() >= self.window {
            return None;
        }
        let mut delivery = self.waiting.pop_front()?;
        let was_sent = delivery.id != 0;
        if delivery.qos != QoS::AtMostOnce {
            if !was_sent {
                delivery.id = self.next_id();
            }
            self.in_flight.push_back(delivery.clone());
        }
        Some((delivery, was_sent))
    }

    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // Those that wait were sent on an earlier connection, and are the first of all.
            let (id, again) = (self.last_id, self.waiting.iter().take_while(|delivery| delivery.id != 0));
            if !self.in_flight.iter().chain(again).any(|delivery| delivery.id == id) {
                return id;
            }
        }
    }

    /// The client has it: PUBACK, PUBCOMP, or a PUBREC that is a refusal.
    pub(super) fn handle_done(&mut self, id: PacketId) {
        self.in_flight.retain(|delivery| delivery.id != id);
    }

    /// PUBREC.
    pub(super) fn handle_received(&mut self, id: PacketId) {
        if let Some(delivery) = self.in_flight.iter_mut().find(|delivery| delivery.id == id) {
            delivery.is_released = true;
        }
    }
}

impl Delivery {
    pub(super) fn encode(&self, version: Version, was_sent: bool, buf: &mut BytesMut) {
        if self.is_released {
            return encode_answer(version, Answer::PubRel(self.id), buf);
        }
        let Publish { topic, payload, properties, .. } = &*self.message;
        let publish = Publish {
            topic: topic.share(),
            payload: payload.clone(),
            qos: self.qos,
            retain: self.retain,
            properties: properties.clone(),
            lenient: true,
        };
        encode_publish(version, &publish, self.id, was_sent, &self.identifiers, buf);
    }
}
