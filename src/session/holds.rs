//! Acknowledgements that wait until somebody has taken their messages.
//!
//! They go out in the order in which the messages came (MQTT-4.6.0-2, MQTT-4.6.0-3), so the first that is kept back
//! keeps back all behind it. A subscription that keeps them back has a session of its own for that reason.

use std::collections::{HashMap, VecDeque};

use super::receive::Ack;
use super::subscriptions::Sink;
use super::Session;
use crate::command::{HoldId, Settled};
use crate::wire::PacketId;
use crate::Error;

type Hasher = foldhash::fast::RandomState;

#[derive(Debug)]
pub(super) struct Holds {
    /// How many messages may be unacknowledged at once.
    capacity: usize,
    last: HoldId,
    /// Messages that have not told yet what became of them, those of earlier connections too.
    outstanding: usize,
    /// What this connection is owed, in the order in which it is; without a hold where nothing keeps it back.
    order: VecDeque<(Ack, Option<HoldId>)>,
    /// Acknowledgements that may still be given. What stands in the order without one never will be.
    pending: HashMap<HoldId, Pending, Hasher>,
    /// QoS 2 messages without a PUBREC. They outlive the connection: what comes again under the same identifier is the
    /// same message (MQTT-4.3.3-2).
    unrecorded: HashMap<PacketId, Unrecorded, Hasher>,
    /// Messages that joined the stream since the last refusal did.
    since_refusal: usize,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    ack: Ack,
    /// The message is acknowledged on this side.
    is_given: bool,
}

#[derive(Debug, Clone, Copy)]
struct Unrecorded {
    hold: HoldId,
    /// It came on this connection, so its PUBREC stands in the order.
    is_due: bool,
}

impl Holds {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            last: HoldId(0),
            outstanding: 0,
            order: VecDeque::new(),
            pending: HashMap::default(),
            unrecorded: HashMap::default(),
            since_refusal: 0,
        }
    }

    /// Whether one more message may come. Nothing else bounds a stream that loses nothing.
    pub(super) fn has_room(&self) -> bool {
        self.outstanding < self.capacity && self.order.len() < self.capacity
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// A message, and the acknowledgement that it is to get; one of QoS 0 takes its place all the same.
    pub(super) fn hold(&mut self, ack: Option<Ack>) -> HoldId {
        self.last.0 += 1;
        self.outstanding += 1;
        let hold = self.last;
        if let Some(ack) = ack {
            self.pending.insert(hold, Pending { ack, is_given: false });
            self.order.push_back((ack, Some(hold)));
        }
        if let Some(Ack::PubRec(id)) = ack {
            self.unrecorded.insert(id, Unrecorded { hold, is_due: true });
        }
        hold
    }

    /// A message joined the stream.
    pub(super) fn note_handed(&mut self) {
        self.since_refusal += 1;
    }

    /// A QoS 2 message came again: its PUBREC is due on this connection, after whatever came before it.
    pub(super) fn repeat(&mut self, id: PacketId) {
        match self.unrecorded.get_mut(&id) {
            Some(Unrecorded { is_due: true, .. }) => {}
            Some(unrecorded) => {
                unrecorded.is_due = true;
                self.order.push_back((Ack::PubRec(id), Some(unrecorded.hold)));
            }
            None => self.order.push_back((Ack::PubRec(id), None)),
        }
    }

    /// What became of a message. Of one that came by an earlier connection this no longer says anything to the broker,
    /// save at QoS 2. Returns the identifier of a QoS 2 message that nobody took: its repetition is to be delivered.
    pub(super) fn settle(&mut self, hold: HoldId, settled: Settled) -> Option<PacketId> {
        self.outstanding -= 1;
        if settled == Settled::Acked {
            self.pending.get_mut(&hold)?.is_given = true;
            return None;
        }
        match self.pending.remove(&hold)?.ack {
            Ack::PubRec(id) => self.unrecorded.remove(&id).map(|_| id),
            _ => None,
        }
    }

    /// The broker has released this message: a PUBREC, behind what is kept back, could be taken for that of the next
    /// message under the identifier.
    pub(super) fn release(&mut self, id: PacketId) {
        self.order.retain(|(ack, _)| *ack != Ack::PubRec(id));
        if let Some(unrecorded) = self.unrecorded.remove(&id) {
            self.pending.remove(&unrecorded.hold);
        }
    }

    /// The next acknowledgement that nothing keeps back.
    pub(super) fn pop(&mut self) -> Option<Ack> {
        let (ack, hold) = *self.order.front()?;
        if let Some(hold) = hold {
            self.pending.get(&hold).filter(|pending| pending.is_given)?;
            self.pending.remove(&hold);
        }
        if let Ack::PubRec(id) = ack {
            self.unrecorded.remove(&id);
        }
        self.order.pop_front();
        Some(ack)
    }

    pub(super) fn forget_connection(&mut self) {
        for (ack, hold) in std::mem::take(&mut self.order) {
            match (ack, hold) {
                (Ack::PubRec(id), Some(_)) => {
                    if let Some(unrecorded) = self.unrecorded.get_mut(&id) {
                        unrecorded.is_due = false;
                    }
                }
                (_, Some(hold)) => drop(self.pending.remove(&hold)),
                (_, None) => {}
            }
        }
    }

    pub(super) fn forget_session(&mut self) {
        for (_, unrecorded) in self.unrecorded.drain() {
            self.pending.remove(&unrecorded.hold);
        }
    }

    /// Whether a refusal may join the stream's items, of which so many wait: one at a time, for which there is a place.
    pub(super) fn may_report(&mut self, waiting: usize) -> bool {
        let may = waiting <= self.since_refusal;
        if may {
            self.since_refusal = 0;
        }
        may
    }
}

impl Session {
    pub(super) fn settle_hold(&mut self, hold: HoldId, settled: Settled) {
        self.receiving.settle(hold, settled);
    }

    /// Whether messages are neither taken nor acknowledged any more: they are for whoever resumes the session.
    pub(super) fn is_leaving(&self) -> bool {
        self.receiving.is_holding() && (self.is_closing() || self.subscriptions.subscribers.is_empty())
    }

    /// The connection is given up, which is the end of the subscription and not of the agent: its stream says why.
    pub(crate) fn handle_given_up(&mut self, reason: &Error) {
        if !self.receiving.is_holding() || self.is_closing() {
            return;
        }
        let keys: Vec<_> = self.subscriptions.subscribers.keys().collect();
        for key in keys {
            match self.subscriptions.subscribers.get(key).map(|subscriber| &subscriber.sink) {
                Some(Sink::Stream(events)) => drop(events.send(Err(reason.clone()))),
                Some(Sink::Pending { .. }) => self.fail_subscriber(key, reason.clone()),
                Some(Sink::Replies(_)) | None => {}
            }
        }
    }

    /// A subscription that waits for its SUBACK cannot be left waiting once it is full: the SUBACK is behind messages
    /// that are not read any more, those of a session that was kept, or retained ones.
    pub(super) fn establish_full(&mut self) {
        if self.receiving.may_hold() {
            return;
        }
        let keys: Vec<_> = self.subscriptions.subscribers.keys().collect();
        for key in keys {
            self.establish(key);
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Holds {
    pub(super) fn count(&self, census: &mut super::census::Census) {
        census.holds = self.outstanding;
        census.held_back = self.order.len();
        census.unsettled = self.pending.len();
        census.unrecorded = self.unrecorded.len();
    }

    pub(super) fn assert_empty(&self) {
        assert_eq!((self.outstanding, self.order.len(), self.pending.len(), self.unrecorded.len()), (0, 0, 0, 0));
    }
}
