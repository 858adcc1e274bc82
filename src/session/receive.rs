//! Messages on their way in, and their acknowledgements on the way out.

use std::collections::{HashSet, VecDeque};

use tokio::time::Instant;

use super::holds::Holds;
use super::subscribe::Delivered;
use super::Session;
use crate::command::{Hold, HoldId, Settled};
use crate::room::Room;
use crate::telemetry::TARGET;
use crate::wire::{Codec, Incoming, Outbound, Output, PacketId};
use crate::{Message, QoS};

#[derive(Debug)]
pub(super) struct Receiving {
    /// QoS 2 messages that were delivered and not yet released by the broker. They outlive the connection: what comes
    /// again under one of these is a repetition (MQTT-4.3.3-2).
    unreleased: HashSet<PacketId, foldhash::fast::RandomState>,
    acks: VecDeque<Ack>,
    /// In the session of a subscription that acknowledges late.
    holds: Option<Holds>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "the names of the packets")]
pub(super) enum Ack {
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
}

/// What a message is to this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Fresh,
    /// Fresh, and its acknowledgement is kept back.
    Held(HoldId),
    /// It was delivered before.
    Repetition,
}

/// More acknowledgements than this are only waiting when the peer does not read.
const MAX_ACKS: usize = 16_384;

impl Receiving {
    /// `capacity` is for a session that acknowledges late: how many messages it may hold.
    pub(super) fn new(capacity: Option<usize>) -> Self {
        Self { unreleased: HashSet::default(), acks: VecDeque::new(), holds: capacity.map(Holds::new) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.acks.len() < MAX_ACKS
    }

    pub(super) fn is_holding(&self) -> bool {
        self.holds.is_some()
    }

    /// Whether one more message may come before others are taken.
    pub(super) fn may_hold(&self) -> bool {
        self.holds.as_ref().is_none_or(Holds::has_room)
    }

    /// Messages that are neither acknowledged nor given up.
    pub(super) fn held(&self) -> usize {
        self.holds.as_ref().map_or(0, Holds::outstanding)
    }

    pub(super) fn settle(&mut self, hold: HoldId, settled: Settled) {
        let Some(holds) = &mut self.holds else { return };
        if let Some(id) = holds.settle(hold, settled) {
            self.unreleased.remove(&id);
        }
        self.queue_freed();
    }

    /// Queues the acknowledgements that nothing keeps back any more.
    fn queue_freed(&mut self) {
        if let Some(holds) = &mut self.holds {
            self.acks.extend(std::iter::from_fn(|| holds.pop()));
        }
    }

    /// Whether a refusal may join a stream in which so many items wait.
    pub(super) fn may_report(&mut self, waiting: usize) -> bool {
        self.holds.as_mut().is_none_or(|holds| holds.may_report(waiting))
    }

    /// A message joined the stream.
    fn note_handed(&mut self) {
        if let Some(holds) = &mut self.holds {
            holds.note_handed();
        }
    }

    pub(super) fn release(&mut self, id: PacketId) {
        self.acks.push_back(Ack::PubRel(id));
    }

    pub(super) fn handle_pubrel(&mut self, id: PacketId) {
        self.unreleased.remove(&id);
        self.unreleased.give_back();
        if let Some(holds) = &mut self.holds {
            holds.release(id);
            // What its PUBREC kept back.
            self.queue_freed();
        }
        // Answered whether known or not, or the broker would repeat it for ever.
        self.acks.push_back(Ack::PubComp(id));
    }

    pub(super) fn forget_connection(&mut self) {
        self.acks = VecDeque::new();
        if let Some(holds) = &mut self.holds {
            holds.forget_connection();
        }
    }

    pub(super) fn forget_session(&mut self) {
        self.unreleased = HashSet::default();
        if let Some(holds) = &mut self.holds {
            holds.forget_session();
        }
    }

    /// Sends one acknowledgement. MQTT-4.6.0-2, -3, -4: in the order in which what they answer arrived.
    pub(super) fn transmit(&mut self, codec: &mut Codec, output: &mut Output) -> bool {
        let Some(ack) = self.acks.pop_front() else { return false };
        self.acks.give_back();
        codec.encode(
            match ack {
                Ack::PubAck(id) => Outbound::PubAck(id),
                Ack::PubRec(id) => Outbound::PubRec(id),
                Ack::PubRel(id) => Outbound::PubRel(id),
                Ack::PubComp(id) => Outbound::PubComp(id),
            },
            output,
        );
        true
    }

    /// Notes the acknowledgement that is due.
    fn accept(&mut self, qos: QoS, id: PacketId) -> Arrival {
        let ack = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Ack::PubAck(id)),
            QoS::ExactlyOnce => Some(Ack::PubRec(id)),
        };
        let is_fresh = qos != QoS::ExactlyOnce || self.unreleased.insert(id);
        match &mut self.holds {
            None => {
                if let Some(ack) = ack {
                    self.acks.push_back(ack);
                }
                if is_fresh {
                    Arrival::Fresh
                } else {
                    Arrival::Repetition
                }
            }
            Some(holds) if is_fresh => Arrival::Held(holds.hold(ack)),
            Some(holds) => {
                holds.repeat(id);
                self.queue_freed();
                Arrival::Repetition
            }
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Receiving {
    pub(super) fn count(&self, census: &mut super::census::Census) {
        census.acks = self.acks.len();
        if let Some(holds) = &self.holds {
            holds.count(census);
        }
    }

    /// Nothing is held, nor much memory for it.
    pub(super) fn assert_empty(&self) {
        assert_eq!((self.unreleased.len(), self.acks.len()), (0, 0));
        self.holds.iter().for_each(Holds::assert_empty);
        assert!(!self.acks.is_spent() && !self.unreleased.is_spent());
    }
}

impl Session {
    pub(super) fn handle_incoming(&mut self, mut incoming: Incoming, now: Instant) {
        if self.is_leaving() {
            return;
        }
        let arrival = self.receiving.accept(incoming.qos, incoming.id);
        if arrival == Arrival::Repetition {
            return;
        }
        self.counters.received().add(1);
        let subscriptions = std::mem::take(&mut incoming.subscriptions);
        let mut message = Message::new(incoming);
        if let Arrival::Held(hold) = arrival {
            message = message.with_hold(Hold::new(hold, self.subscriptions.notices.clone()));
        }
        let delivered = self.deliver(&message, &subscriptions, now);
        self.counters.unclaimed().add(u64::from(delivered == Delivered::Unclaimed));
        match delivered {
            Delivered::Handed => self.receiving.note_handed(),
            // It must not keep back those that somebody wants.
            Delivered::Unclaimed | Delivered::LeftForAnother => message.ack(),
        }
        self.establish_full();
    }

    /// A message over the limit is acknowledged like any other, so that the broker does not send it again for ever,
    /// and counted.
    pub(super) fn handle_oversized(&mut self, qos: QoS, id: PacketId, size: usize) {
        if self.is_leaving() {
            return;
        }
        let arrival = self.receiving.accept(qos, id);
        if let Arrival::Held(hold) = arrival {
            self.receiving.settle(hold, Settled::Acked);
        }
        if arrival != Arrival::Repetition {
            self.counters.oversized().add(1);
            tracing::warn!(name: "mqtt.oversized", target: TARGET, size, "a message over max_packet_size was thrown away");
        }
    }
}
