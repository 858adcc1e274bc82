//! Messages on their way out: how they are taken in, and who hears of their outcome.
//!
//! They wait in the `queue`; `send` sends them for the first time, `replay` on later connections, and `acks` is the end.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::in_flight::On;
use super::request::RequestKey;
use super::{Due, Entry, Session};
use crate::allowance::{weight, Allowance, Share};
use crate::command::{self, Reply};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::slots::{self, Slots};
use crate::wire::{self, Outbound, PacketId};
use crate::{Error, Outcome};

mod acks;
mod queue;
mod replay;
mod send;

pub(super) use queue::Place;

use queue::Queue;
use replay::Suspicion;

slots::key! {
    /// Names a publish whose caller waits.
    pub(super) struct CallKey;
}

#[derive(Debug)]
pub(super) struct Publishes {
    queue: Queue,
    /// Bounds what is queued without a caller that waits.
    allowance: Arc<Allowance>,
    calls: Slots<CallKey, Call>,
    /// In flight when the connection was lost; to be sent again on this one.
    repeat: VecDeque<PacketId>,
    /// How many of them are to be: they take no room in the window yet.
    repeating: usize,
    /// QoS 0 publishes that are encoded but not yet written.
    unwritten: VecDeque<Unwritten>,
    /// How many messages were sent, to tell their first order by.
    sent: u64,
    /// The length of the queue at which messages whose callers left are swept out of it.
    sweep_at: usize,
    suspicion: Suspicion,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    publish: wire::Publish,
    owner: Owner,
    /// After this it is not sent, and not sent again.
    deadline: Option<Instant>,
    /// When the broker may throw it away.
    expires: Option<Instant>,
    /// Its rank among all that were sent; 0 before that.
    rank: u64,
    /// When that was.
    sent_at: Option<Instant>,
    /// Stands in `Publishes::repeat`. An identifier that was freed and used anew does not.
    repeat: bool,
    /// The broker said that nobody is subscribed to its topic.
    unmatched: bool,
    /// Held while nobody waits for it.
    share: Option<Share>,
}

/// Who hears of the outcome.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Nobody,
    Call(CallKey),
    Request(RequestKey),
}

#[derive(Debug)]
struct Call {
    reply: Reply<Delivery>,
    offline: Offline,
    /// May have reached a wire.
    sent: bool,
    /// Where its message waits to be sent, for the first time or after the broker forgot the session it was sent in.
    place: Option<Place>,
}

/// The bytes of one QoS 0 publish, counted from the start of the connection.
#[derive(Debug)]
struct Unwritten {
    start: u64,
    end: u64,
    owner: Owner,
}

impl Outgoing {
    pub(super) fn new(publish: wire::Publish, owner: Owner, deadline: Option<Instant>) -> Self {
        Self {
            publish,
            owner,
            deadline,
            expires: None,
            rank: 0,
            sent_at: None,
            repeat: false,
            unmatched: false,
            share: None,
        }
    }

    /// Tells the broker to throw it away after this.
    pub(super) fn expiring(mut self, expires: Option<Instant>) -> Self {
        self.expires = expires;
        self
    }

    /// The packet, for the first time or again.
    fn packet(&self, id: PacketId, dup: bool, now: Instant) -> Outbound<'_> {
        // Rounded up, and never 0: nothing expires before its time.
        let expiry = self.expires.map(|expires| wire::whole_seconds(expires - now).max(1));
        Outbound::Publish { publish: &self.publish, id, dup, expiry }
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Publishes {
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        Self {
            queue: Queue::new(),
            allowance,
            calls: Slots::new(),
            repeat: VecDeque::new(),
            repeating: 0,
            unwritten: VecDeque::new(),
            sent: 0,
            sweep_at: MIN_SWEEP,
            suspicion: Suspicion::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_pending(&self, call: CallKey) -> bool {
        self.calls.contains(call)
    }

    pub(super) fn has_no_calls(&self) -> bool {
        self.calls.is_empty()
    }

    #[inline]
    pub(super) fn push(&mut self, outgoing: Outgoing) -> Place {
        if self.queue.len() >= self.sweep_at {
            self.sweep();
        }
        self.queue.push_back(outgoing)
    }

    /// A caller that leaves says nothing, and what waits for a connection may wait for long: without this, callers that
    /// come and go would pile their messages up until each one's deadline.
    fn sweep(&mut self) {
        let Self { queue, calls, .. } = self;
        queue.take(|outgoing| {
            let Owner::Call(key) = outgoing.owner else { return false };
            let left = calls.get(key).is_some_and(Call::is_abandoned);
            if left {
                calls.remove(key);
            }
            left
        });
        self.sweep_at = (2 * self.queue.len()).max(MIN_SWEEP);
    }

    /// Takes back what its owner gave up.
    pub(super) fn withdraw(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.queue.remove(place);
        }
    }

    /// Takes the messages of requests out of the queue, in order.
    pub(super) fn take_requests(&mut self) -> Vec<(RequestKey, wire::Publish)> {
        let taken = self.queue.take(|outgoing| matches!(outgoing.owner, Owner::Request(_)));
        let requests = taken.into_iter().filter_map(|outgoing| match outgoing.owner {
            Owner::Request(request) => Some((request, outgoing.publish)),
            Owner::Nobody | Owner::Call(_) => None,
        });
        requests.collect()
    }

    /// Whether the caller left before its message was sent, without a word.
    fn is_abandoned(&self, owner: Owner) -> bool {
        match owner {
            Owner::Call(call) => self.calls.get(call).is_some_and(Call::is_abandoned),
            Owner::Nobody | Owner::Request(_) => false,
        }
    }

    fn settle(&mut self, owner: Owner, answer: Result<Delivery, Error>) {
        if let Owner::Call(call) = owner {
            if let Some(call) = self.calls.remove(call) {
                call.reply.send(answer);
            }
        }
    }
}

impl Call {
    /// Whether its caller left before its message was sent.
    fn is_abandoned(&self) -> bool {
        !self.sent && self.reply.is_abandoned()
    }
}

/// Up to this many messages are not worth a sweep.
const MIN_SWEEP: usize = 1024;

impl Session {
    pub(super) fn handle_publish(&mut self, command: command::Publish, now: Instant) {
        let command::Publish { publish, expires, offline, deadline, reply, mut share } = command;
        let connected = self.is_connected();
        let weight = weight(&publish);
        let mut outgoing = Outgoing::new(publish, Owner::Nobody, deadline).expiring(expires);
        match reply {
            None => {}
            Some(reply) if reply.is_abandoned() => return,
            Some(reply) if outgoing.is_expired(now) => return reply.send(Err(too_late())),
            Some(reply) if offline == Offline::Fail && !connected => return reply.send(Err(Error::offline())),
            Some(reply) if offline == Offline::Queue && !connected => {
                share = self.publishes.allowance.take(weight);
                if share.is_none() {
                    return reply.send(Err(Error::queue_full()));
                }
                outgoing.deadline = outgoing.expires;
                reply.send(Ok(Delivery::Queued));
            }
            Some(reply) => {
                let call = self.publishes.calls.insert(Call { reply, offline, sent: false, place: None });
                if let Some(deadline) = deadline {
                    self.arm(deadline, Due::Publish(call));
                }
                outgoing.owner = Owner::Call(call);
            }
        }
        outgoing.share = share;
        let owner = outgoing.owner;
        let place = self.publishes.push(outgoing);
        self.note_place(owner, Some(place));
    }

    /// The owner of a message must know where it waits, to take it back.
    fn note_place(&mut self, owner: Owner, place: Option<Place>) {
        match owner {
            Owner::Nobody => {}
            Owner::Request(request) => self.requests.note_place(request, place),
            Owner::Call(call) => {
                if let Some(call) = self.publishes.calls.get_mut(call) {
                    call.place = place;
                }
            }
        }
    }

    pub(super) fn expire_publish(&mut self, call: CallKey) {
        let Some(call) = self.publishes.calls.remove(call) else { return };
        self.publishes.withdraw(call.place);
        if call.sent {
            let error = Error::timeout("the broker did not acknowledge the message in time");
            call.reply.send(Err(error.with_outcome(Outcome::Unknown)));
        } else {
            call.reply.send(Err(too_late()));
        }
    }

    /// The agent ends: every caller is told what became of its message.
    pub(super) fn abandon_publishes(&mut self) -> usize {
        let allowance = self.publishes.allowance.clone();
        let mut publishes = std::mem::replace(&mut self.publishes, Publishes::new(allowance));
        let mut unacked = self.in_flight.clear(On::Released);
        unacked.extend(self.in_flight.clear(On::Published));
        let unacked = unacked.iter().filter_map(|entry| match entry {
            Entry::Publish(outgoing) => Some(outgoing),
            Entry::Subscribe(_) | Entry::Unsubscribe(_) => None,
        });
        // What was handed over has no caller who would notice.
        let handed_over = |outgoing: &&Outgoing| matches!(outgoing.owner, Owner::Nobody);
        let handed_over = publishes.queue.iter().chain(unacked).filter(handed_over).count();
        let unfinished = publishes.calls.len() + handed_over;
        for call in publishes.calls.drain() {
            let outcome = if call.sent { Outcome::Unknown } else { Outcome::NotSent };
            call.reply.send(Err(Error::closed().with_outcome(outcome)));
        }
        unfinished
    }

    /// Publishes that were accepted and have no final answer yet.
    pub(super) fn unfinished_publishes(&self) -> usize {
        let in_flight = self.in_flight.len(On::Published) + self.in_flight.len(On::Released);
        self.publishes.len() + in_flight + self.publishes.unwritten.len()
    }
}

#[cfg(any(fuzzing, test))]
impl Publishes {
    pub(super) fn count(&self, census: &mut super::census::Census) {
        census.queued = self.queue.len();
        census.places = self.queue.places();
        census.calls = self.calls.len();
        census.repeat = self.repeat.len();
        census.unwritten = self.unwritten.len();
    }

    /// Nothing is held, nor much memory for it.
    pub(super) fn assert_empty(&self) {
        self.queue.assert_empty();
        assert_eq!((self.calls.len(), self.unwritten.len()), (0, 0));
        assert!(!crate::room::Room::is_spent(&self.unwritten));
    }
}

fn too_late() -> Error {
    Error::timeout(
        "the message could not be sent before its deadline: is there a connection, and does the broker keep up?",
    )
}
