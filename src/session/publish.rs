//! Messages on their way out: the queue, the acknowledgements, the replay.

use std::collections::VecDeque;
use std::sync::Arc;

use slotmap::SlotMap;
use tokio::time::Instant;

use super::in_flight::On;
use super::queue::{Place, Queue};
use super::request::RequestKey;
use super::{Due, Entry, Session, WRITE_AHEAD};
use crate::allowance::{weight, Allowance, Share};
use crate::command::{self, Reply};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::reason::{Reason, ReasonCode};
use crate::telemetry::TARGET;
use crate::wire::{self, Codec, Outbound, Output, PacketId};
use crate::{Error, Outcome, QoS};

mod replay;

use replay::Suspicion;

slotmap::new_key_type! {
    /// Names a publish whose caller waits.
    pub(super) struct CallKey;
}

#[derive(Debug)]
pub(super) struct Publishes {
    queue: Queue,
    /// Bounds what is queued without a caller that waits.
    allowance: Arc<Allowance>,
    calls: SlotMap<CallKey, Call>,
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
            calls: SlotMap::with_key(),
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
        self.calls.contains_key(call)
    }

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

/// Above this many entries, an empty list gives its memory back.
const KEPT: usize = 1024;

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

    /// Sends the queue, as far as it may go out and there is room. `written_base` added to a position in `output` counts
    /// from the start of the connection.
    pub(super) fn transmit_queued(
        &mut self,
        codec: &mut Codec,
        output: &mut Output,
        written_base: u64,
        now: Instant,
    ) -> bool {
        let mut sent = false;
        while let Some(front) = self.publishes.queue.front().filter(|_| output.len() < WRITE_AHEAD) {
            let owner = front.owner;
            // A caller that waits hears of its deadline by itself; one that left after a first sending does not.
            let expired = front.is_expired(now) && matches!(owner, Owner::Nobody);
            let left = self.publishes.is_abandoned(owner);
            let refused = self.terms().and_then(|terms| terms.check_publish(&front.publish).err());
            let waits = front.publish.qos != QoS::AtMostOnce && self.is_window_full();
            if waits && !expired && !left && refused.is_none() {
                break;
            }
            let Some(outgoing) = self.publishes.queue.pop_front() else { break };
            if left {
                if let Owner::Call(call) = owner {
                    self.publishes.calls.remove(call);
                }
            } else if let Some(error) = refused {
                self.give_up(owner, error, now);
            } else if !expired {
                if !self.transmit_new(outgoing, codec, output, written_base, now) {
                    break;
                }
                sent = true;
            }
        }
        sent
    }

    /// Whether as many QoS 1 and 2 publishes are unacknowledged on this connection as may be. What is still to be
    /// repeated on it is not among them yet.
    fn is_window_full(&self) -> bool {
        let unacked = self.in_flight.len(On::Published) + self.in_flight.len(On::Released) - self.publishes.repeating;
        let allowed = self.terms().map_or(usize::MAX, |terms| terms.receive_maximum.into());
        unacked >= self.limits.max_in_flight.min(allowed)
    }

    /// This connection cannot carry a message.
    fn give_up(&mut self, owner: Owner, error: Error, now: Instant) {
        match owner {
            Owner::Nobody => {
                tracing::warn!(name: "mqtt.given_up", target: TARGET, %error, "a message that was handed over is given up");
                self.counters.given_up().add(1);
            }
            Owner::Request(request) => self.fail_request(request, error, now),
            Owner::Call(call) => {
                let sent = self.publishes.calls.get(call).is_some_and(|call| call.sent);
                let outcome = if sent { Outcome::Unknown } else { Outcome::NotSent };
                self.publishes.settle(owner, Err(error.with_outcome(outcome)));
            }
        }
    }

    fn transmit_new(
        &mut self,
        mut outgoing: Outgoing,
        codec: &mut Codec,
        output: &mut Output,
        written_base: u64,
        now: Instant,
    ) -> bool {
        let (owner, qos) = (outgoing.owner, outgoing.publish.qos);
        let start = output.len() as u64;
        self.publishes.sent += 1;
        if outgoing.rank == 0 {
            outgoing.rank = self.publishes.sent;
            outgoing.sent_at = Some(now);
        }
        if qos == QoS::AtMostOnce {
            codec.encode(outgoing.packet(0, false, now), output);
        } else {
            let id = match self.in_flight.insert(On::Published, Entry::Publish(outgoing)) {
                Ok(id) => id,
                Err(Entry::Publish(outgoing)) => {
                    // SUBSCRIBEs hold the last identifiers; an acknowledgement frees one.
                    let place = self.publishes.queue.push_front(outgoing);
                    self.note_place(owner, Some(place));
                    return false;
                }
                Err(_) => return false,
            };
            if let Some((_, Entry::Publish(outgoing))) = self.in_flight.get_mut(id) {
                codec.encode(outgoing.packet(id, false, now), output);
            }
        }
        self.counters.published().add(1);
        self.note_place(owner, None);
        match owner {
            Owner::Nobody => {}
            Owner::Request(request) => self.requests.mark_sent(request, now),
            Owner::Call(call) => {
                if let Some(pending) = self.publishes.calls.get_mut(call) {
                    pending.sent = true;
                }
            }
        }
        if qos == QoS::AtMostOnce && !matches!(owner, Owner::Nobody) {
            let end = written_base.wrapping_add(output.len() as u64);
            let start = written_base.wrapping_add(start);
            self.publishes.unwritten.push_back(Unwritten { start, end, owner });
        }
        true
    }

    /// QoS 0 is done when its last byte is written.
    pub(super) fn settle_written(&mut self, written: u64) {
        while self.publishes.unwritten.front().is_some_and(|publish| publish.end <= written) {
            if let Some(Unwritten { owner, .. }) = self.publishes.unwritten.pop_front() {
                self.publishes.settle(owner, Ok(Delivery::Sent));
            }
        }
        if self.publishes.unwritten.is_empty() && self.publishes.unwritten.capacity() > KEPT {
            self.publishes.unwritten = VecDeque::new();
        }
    }

    pub(super) fn handle_puback(&mut self, id: PacketId, reason: &Reason, now: Instant) {
        // Some brokers answer a QoS 2 publish this way; it has arrived, so it counts as acknowledged.
        if let Some((On::Published, Entry::Publish(_))) = self.in_flight.get_mut(id) {
            let answer = match reason.code {
                ReasonCode::NO_MATCHING_SUBSCRIBERS => Ok(Delivery::NoSubscribers),
                _ if reason.is_failure() => refuse(reason),
                _ => Ok(Delivery::Acknowledged),
            };
            self.settle_acked(id, answer, now);
        }
    }

    pub(super) fn handle_pubrec(&mut self, id: PacketId, reason: &Reason, now: Instant) {
        match self.in_flight.get_mut(id) {
            // A refusal ends the handshake: there is nothing to release.
            Some((On::Published, Entry::Publish(_))) if reason.is_failure() => {
                return self.settle_acked(id, refuse(reason), now);
            }
            Some((On::Published, Entry::Publish(outgoing))) if outgoing.publish.qos == QoS::ExactlyOnce => {
                outgoing.unmatched = reason.code == ReasonCode::NO_MATCHING_SUBSCRIBERS;
                self.publishes.repeating -= usize::from(std::mem::take(&mut outgoing.repeat));
                self.in_flight.move_to(id, On::Released);
            }
            Some((On::Asked | On::Published, _)) => return,
            // A repetition, or one of a session that only the broker remembers: it needs the PUBREL to let go.
            Some((On::Released, _)) | None => {}
        }
        self.receiving.release(id);
    }

    pub(super) fn handle_pubcomp(&mut self, id: PacketId, now: Instant) {
        let Some((On::Released, Entry::Publish(outgoing))) = self.in_flight.get_mut(id) else { return };
        let delivery = if outgoing.unmatched { Delivery::NoSubscribers } else { Delivery::Completed };
        self.settle_acked(id, Ok(delivery), now);
    }

    fn settle_acked(&mut self, id: PacketId, answer: Result<Delivery, Error>, now: Instant) {
        let Some(Entry::Publish(outgoing)) = self.in_flight.remove(id) else { return };
        self.publishes.repeating -= usize::from(outgoing.repeat);
        self.counters.acked().add(u64::from(answer.is_ok()));
        if let Some(sent_at) = outgoing.sent_at {
            self.counters.ack_times.add(now - sent_at);
        }
        self.publishes.suspicion = Suspicion::default();
        match (outgoing.owner, answer) {
            (Owner::Request(request), Err(error)) => self.refuse_request(request, error, now),
            (Owner::Request(request), Ok(Delivery::NoSubscribers)) => {
                let error = Error::no_responders(&ReasonCode::NO_MATCHING_SUBSCRIBERS.into());
                self.refuse_request(request, error.with_outcome(Outcome::Refused), now);
            }
            (owner, answer) => self.publishes.settle(owner, answer),
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
        for (_, call) in publishes.calls.drain() {
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
    pub(super) fn count_held(&self, held: &mut super::held::Held) {
        held.queued = self.queue.len();
        held.places = self.queue.places();
        held.calls = self.calls.len();
        held.repeat = self.repeat.len();
        held.unwritten = self.unwritten.len();
    }

    /// Nothing is held, nor much memory for it.
    pub(super) fn assert_empty(&self) {
        self.queue.assert_empty();
        assert_eq!((self.calls.len(), self.unwritten.len()), (0, 0));
        assert!(self.unwritten.capacity() <= KEPT);
    }
}

fn refuse(reason: &Reason) -> Result<Delivery, Error> {
    Err(Error::publish_refused(reason).with_outcome(Outcome::Refused))
}

fn too_late() -> Error {
    Error::timeout(
        "the message could not be sent before its deadline: is there a connection, and does the broker keep up?",
    )
}
