//! Messages on their way in, and their acknowledgements on the way out.

use std::collections::{HashSet, VecDeque};

use bytes::BytesMut;
use tokio::time::Instant;

use super::Session;
use crate::telemetry::TARGET;
use crate::wire::{Codec, Incoming, Outbound, PacketId};
use crate::{Message, QoS};

#[derive(Debug)]
pub(super) struct Receiving {
    /// QoS 2 messages that were delivered and not yet released by the broker. They outlive the connection: what comes
    /// again under one of these is a repetition (MQTT-4.3.3-2).
    unreleased: HashSet<PacketId, foldhash::fast::RandomState>,
    acks: VecDeque<Ack>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the packets")]
enum Ack {
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
}

/// More acknowledgements than this are only waiting when the peer does not read.
const MAX_ACKS: usize = 16_384;

/// Above this many places, an empty table gives its memory back.
const KEPT: usize = 1024;

impl Receiving {
    pub(super) fn new() -> Self {
        Self { unreleased: HashSet::default(), acks: VecDeque::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.acks.len() < MAX_ACKS
    }

    pub(super) fn release(&mut self, id: PacketId) {
        self.acks.push_back(Ack::PubRel(id));
    }

    pub(super) fn handle_pubrel(&mut self, id: PacketId) {
        self.unreleased.remove(&id);
        if self.unreleased.is_empty() && self.unreleased.capacity() > KEPT {
            self.unreleased = HashSet::default();
        }
        // Answered whether known or not, or the broker would repeat it for ever.
        self.acks.push_back(Ack::PubComp(id));
    }

    pub(super) fn forget_connection(&mut self) {
        self.acks = VecDeque::new();
    }

    pub(super) fn forget_session(&mut self) {
        self.unreleased = HashSet::default();
    }

    /// Sends one acknowledgement. MQTT-4.6.0-2, -3, -4: in the order in which what they answer arrived.
    pub(super) fn transmit(&mut self, codec: &mut Codec, buf: &mut BytesMut) -> bool {
        let Some(ack) = self.acks.pop_front() else { return false };
        if self.acks.is_empty() && self.acks.capacity() > KEPT {
            self.acks = VecDeque::new();
        }
        codec.encode(
            match ack {
                Ack::PubAck(id) => Outbound::PubAck(id),
                Ack::PubRec(id) => Outbound::PubRec(id),
                Ack::PubRel(id) => Outbound::PubRel(id),
                Ack::PubComp(id) => Outbound::PubComp(id),
            },
            buf,
        );
        true
    }

    /// Notes the acknowledgement that is due; false for a repetition of what was delivered already.
    fn accept(&mut self, qos: QoS, id: PacketId) -> bool {
        match qos {
            QoS::AtMostOnce => true,
            QoS::AtLeastOnce => {
                self.acks.push_back(Ack::PubAck(id));
                true
            }
            QoS::ExactlyOnce => {
                self.acks.push_back(Ack::PubRec(id));
                self.unreleased.insert(id)
            }
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Receiving {
    pub(super) fn waiting_acks(&self) -> usize {
        self.acks.len()
    }

    /// Nothing is held, nor much memory for it.
    pub(super) fn assert_empty(&self) {
        assert_eq!((self.unreleased.len(), self.acks.len()), (0, 0));
        assert!(self.acks.capacity() <= KEPT && self.unreleased.capacity() <= 2 * KEPT);
    }
}

impl Session {
    pub(super) fn handle_incoming(&mut self, mut incoming: Incoming, now: Instant) {
        if self.receiving.accept(incoming.qos, incoming.id) {
            self.counters.received().add(1);
            let subscriptions = std::mem::take(&mut incoming.subscriptions);
            self.deliver(&Message::new(incoming), &subscriptions, now);
        }
    }

    /// A message over the limit is acknowledged like any other, so that the broker does not send it again for ever,
    /// and counted.
    pub(super) fn handle_oversized(&mut self, qos: QoS, id: PacketId, size: usize) {
        if self.receiving.accept(qos, id) {
            self.counters.oversized().add(1);
            tracing::warn!(name: "mqtt.oversized", target: TARGET, size, "a message over max_packet_size was thrown away");
        }
    }
}
