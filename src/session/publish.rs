//! Messages on their way out: the queue, the acknowledgements, the replay.

use std::collections::VecDeque;

use bytes::BytesMut;
use slotmap::SlotMap;
use tokio::time::Instant;

use super::in_flight::On;
use super::request::{RequestKey, Requests};
use super::{Due, Entry, Limits, Session};
use crate::command::{self, Reply};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::wire::{self, Codec, Outbound, PacketId};
use crate::{Error, Outcome, QoS};

slotmap::new_key_type! {
    /// Names a publish whose caller waits.
    pub(super) struct CallKey;
}

#[derive(Debug)]
pub(super) struct Publishes {
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    /// Entries of the queue that were given up and still take a place in it.
    stale: usize,
    calls: SlotMap<CallKey, Call>,
    /// In flight when the connection was lost; to be sent again on this one.
    repeat: VecDeque<PacketId>,
    /// QoS 0 publishes that are encoded but not yet written.
    unwritten: VecDeque<Unwritten>,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    publish: wire::Publish,
    owner: Owner,
    /// After this it is not sent, and not sent again.
    deadline: Option<Instant>,
    /// Stands in `Publishes::repeat`. An identifier that was freed and used anew does not.
    repeat: bool,
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
    /// Stands in `Publishes::queue`, for the first time or to be sent again.
    queued: bool,
}

/// What an entry of the queue is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Wanted,
    /// Its caller left without a word.
    Abandoned,
    /// It lost its owner before, and was counted then.
    Stale,
}

/// The bytes of one QoS 0 publish, counted from the start of the connection.
#[derive(Debug)]
struct Unwritten {
    start: u64,
    end: u64,
    call: CallKey,
}

impl Outgoing {
    pub(super) fn new(publish: wire::Publish, owner: Owner, deadline: Option<Instant>) -> Self {
        Self { publish, owner, deadline, repeat: false }
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

impl Publishes {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            stale: 0,
            calls: SlotMap::with_key(),
            repeat: VecDeque::new(),
            unwritten: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len() - self.stale
    }

    pub(super) fn has_room(&self, limits: &Limits) -> bool {
        self.len() < limits.max_queued && self.queued_bytes < limits.max_queued_bytes
    }

    pub(super) fn is_pending(&self, call: CallKey) -> bool {
        self.calls.contains_key(call)
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.queued_bytes += size(&outgoing);
        self.queue.push_back(outgoing);
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.pop_front()?;
        self.queued_bytes -= size(&outgoing);
        if self.queue.is_empty() && self.queue.capacity() > KEPT_QUEUE {
            self.queue = VecDeque::new();
        }
        Some(outgoing)
    }

    /// Whether whoever owns an entry of the queue still wants it sent; forgets a caller that left.
    fn claim(&mut self, owner: Owner, requests: &Requests) -> Claim {
        match owner {
            Owner::Nobody => Claim::Wanted,
            Owner::Request(request) if requests.is_pending(request) => Claim::Wanted,
            Owner::Request(_) => Claim::Stale,
            Owner::Call(call) => match self.calls.get(call) {
                None => Claim::Stale,
                Some(pending) if pending.reply.is_abandoned() => {
                    self.calls.remove(call);
                    Claim::Abandoned
                }
                Some(_) => Claim::Wanted,
            },
        }
    }

    /// An entry of the queue lost its owner. Such entries go when they reach the front; where a stalled front keeps
    /// them, they are swept out once they are the majority, so that they cannot fill the queue.
    pub(super) fn note_stale(&mut self, requests: &Requests) {
        self.stale += 1;
        if self.stale * 2 > self.queue.len() {
            self.sweep(requests);
        }
    }

    /// Takes out what nobody wants sent any more.
    fn sweep(&mut self, requests: &Requests) {
        for outgoing in std::mem::take(&mut self.queue) {
            if self.claim(outgoing.owner, requests) == Claim::Wanted {
                self.queue.push_back(outgoing);
            } else {
                self.queued_bytes -= size(&outgoing);
            }
        }
        self.stale = 0;
    }

    fn settle(&mut self, owner: Owner, answer: Result<Delivery, Error>) {
        if let Owner::Call(call) = owner {
            if let Some(call) = self.calls.remove(call) {
                call.reply.send(answer);
            }
        }
    }
}

/// Above this many places, an empty queue gives its memory back.
const KEPT_QUEUE: usize = 1024;

fn size(outgoing: &Outgoing) -> usize {
    outgoing.publish.topic.as_str().len() + outgoing.publish.payload.len()
}

impl Session {
    pub(super) fn handle_publish(&mut self, command: command::Publish, now: Instant) {
        let command::Publish { topic, payload, qos, retain, offline, mut deadline, reply } = command;
        if reply.as_ref().is_some_and(Reply::is_abandoned) {
            return;
        }
        let owner = match reply {
            None => Owner::Nobody,
            Some(reply) if deadline.is_some_and(|deadline| deadline <= now) => return reply.send(Err(too_late())),
            Some(reply) if offline == Offline::Fail && !self.is_connected() => {
                return reply.send(Err(Error::offline()))
            }
            Some(reply) if offline == Offline::Queue && !self.is_connected() => {
                deadline = None;
                reply.send(Ok(Delivery::Queued));
                Owner::Nobody
            }
            Some(reply) => {
                let call = self.publishes.calls.insert(Call { reply, offline, sent: false, queued: true });
                if let Some(deadline) = deadline {
                    self.arm(deadline, Due::Publish(call));
                }
                Owner::Call(call)
            }
        };
        let publish = wire::Publish { topic, payload, qos, retain };
        self.publishes.push(Outgoing::new(publish, owner, deadline));
    }

    /// Sends the front of the queue. `written_base` added to a position in `buf` counts from the start of the
    /// connection.
    pub(super) fn transmit_queued(
        &mut self,
        codec: &Codec,
        buf: &mut BytesMut,
        written_base: u64,
        now: Instant,
    ) -> bool {
        while let Some(front) = self.publishes.queue.front() {
            let (owner, qos, expired) = (front.owner, front.publish.qos, front.is_expired(now));
            let claim = self.publishes.claim(owner, &self.requests);
            // A caller that waits hears of its deadline by itself; one that left after a first sending does not.
            if claim != Claim::Wanted || (expired && matches!(owner, Owner::Nobody)) {
                self.publishes.pop();
                self.publishes.stale -= usize::from(claim == Claim::Stale);
                continue;
            }
            let unacked = self.in_flight.len(On::Published) + self.in_flight.len(On::Released);
            if qos != QoS::AtMostOnce && unacked >= self.limits.max_in_flight {
                return false;
            }
            let Some(outgoing) = self.publishes.pop() else { return false };
            return self.transmit_new(outgoing, codec, buf, written_base);
        }
        false
    }

    fn transmit_new(&mut self, mut outgoing: Outgoing, codec: &Codec, buf: &mut BytesMut, written_base: u64) -> bool {
        let (owner, qos) = (outgoing.owner, outgoing.publish.qos);
        let start = buf.len() as u64;
        if qos == QoS::AtMostOnce {
            codec.encode(Outbound::Publish { publish: &mut outgoing.publish, id: 0, dup: false }, buf);
        } else {
            let id = match self.in_flight.insert(On::Published, Entry::Publish(outgoing)) {
                Ok(id) => id,
                Err(Entry::Publish(outgoing)) => {
                    // SUBSCRIBEs hold the last identifiers; an acknowledgement frees one.
                    self.publishes.queued_bytes += size(&outgoing);
                    self.publishes.queue.push_front(outgoing);
                    return false;
                }
                Err(_) => return false,
            };
            if let Some((_, Entry::Publish(outgoing))) = self.in_flight.get_mut(id) {
                codec.encode(Outbound::Publish { publish: &mut outgoing.publish, id, dup: false }, buf);
            }
        }
        self.counters.published().add(1);
        match owner {
            Owner::Nobody => {}
            Owner::Request(request) => self.requests.mark_sent(request),
            Owner::Call(call) => {
                if let Some(pending) = self.publishes.calls.get_mut(call) {
                    pending.sent = true;
                    pending.queued = false;
                }
                if qos == QoS::AtMostOnce {
                    let end = written_base.wrapping_add(buf.len() as u64);
                    let start = written_base.wrapping_add(start);
                    self.publishes.unwritten.push_back(Unwritten { start, end, call });
                }
            }
        }
        true
    }

    /// Sends again what was in flight when the last connection was lost.
    pub(super) fn transmit_repeated(&mut self, codec: &Codec, buf: &mut BytesMut) -> bool {
        while let Some(id) = self.publishes.repeat.pop_front() {
            match self.in_flight.get_mut(id) {
                Some((on, Entry::Publish(outgoing))) if outgoing.repeat => {
                    outgoing.repeat = false;
                    // MQTT-3.3.1-1: a publish that is sent again carries DUP.
                    let outbound = match on {
                        On::Released => Outbound::PubRel(id),
                        _ => Outbound::Publish { publish: &mut outgoing.publish, id, dup: true },
                    };
                    codec.encode(outbound, buf);
                    self.counters.published().add(u64::from(on == On::Published));
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// QoS 0 is done when its last byte is written.
    pub(super) fn settle_written(&mut self, written: u64) {
        while self.publishes.unwritten.front().is_some_and(|publish| publish.end <= written) {
            if let Some(Unwritten { call, .. }) = self.publishes.unwritten.pop_front() {
                self.publishes.settle(Owner::Call(call), Ok(Delivery::Sent));
            }
        }
    }

    pub(super) fn handle_puback(&mut self, id: PacketId) {
        // Some brokers answer a QoS 2 publish this way; it has arrived, so it counts as acknowledged.
        if let Some((On::Published, Entry::Publish(_))) = self.in_flight.get_mut(id) {
            self.settle_acked(id, Delivery::Acknowledged);
        }
    }

    pub(super) fn handle_pubrec(&mut self, id: PacketId) {
        match self.in_flight.get_mut(id) {
            Some((On::Published, Entry::Publish(outgoing))) if outgoing.publish.qos == QoS::ExactlyOnce => {
                outgoing.repeat = false;
                self.in_flight.move_to(id, On::Released);
            }
            Some((On::Asked | On::Published, _)) => return,
            // A repetition, or one of a session that only the broker remembers: it needs the PUBREL to let go.
            Some((On::Released, _)) | None => {}
        }
        self.receiving.release(id);
    }

    pub(super) fn handle_pubcomp(&mut self, id: PacketId) {
        if let Some((On::Released, _)) = self.in_flight.get_mut(id) {
            self.settle_acked(id, Delivery::Completed);
        }
    }

    fn settle_acked(&mut self, id: PacketId, delivery: Delivery) {
        if let Some(Entry::Publish(outgoing)) = self.in_flight.remove(id) {
            self.counters.acked().add(1);
            self.publishes.settle(outgoing.owner, Ok(delivery));
        }
    }

    pub(super) fn expire_publish(&mut self, call: CallKey) {
        let Some(call) = self.publishes.calls.remove(call) else { return };
        if call.queued {
            self.publishes.note_stale(&self.requests);
        }
        if call.sent {
            let error = Error::timeout("the broker did not acknowledge the message in time");
            call.reply.send(Err(error.with_outcome(Outcome::Unknown)));
        } else {
            call.reply.send(Err(too_late()));
        }
    }

    /// The connection is lost: what was encoded at QoS 0 will not be sent again, so its fate is decided now.
    pub(super) fn suspend_publishes(&mut self, written: u64) {
        self.publishes.repeat.clear();
        for Unwritten { start, call, .. } in std::mem::take(&mut self.publishes.unwritten) {
            let outcome = if start < written { Outcome::Unknown } else { Outcome::NotSent };
            let error = Error::connection("the connection was lost before the message was written");
            self.publishes.settle(Owner::Call(call), Err(error.with_outcome(outcome)));
        }
        // What waits unsent is taken back, or handed over, as its caller chose for times without a connection.
        let Self { publishes, requests, .. } = self;
        let mut withdrawn = false;
        for outgoing in &mut publishes.queue {
            let Owner::Call(key) = outgoing.owner else { continue };
            // What left before and waits to be sent again is not unsent.
            match publishes.calls.get(key).filter(|call| !call.sent).map(|call| call.offline) {
                Some(Offline::Fail) => {
                    if let Some(call) = publishes.calls.remove(key) {
                        call.reply.send(Err(Error::offline()));
                        withdrawn = true;
                    }
                }
                Some(Offline::Queue) => {
                    if let Some(call) = publishes.calls.remove(key) {
                        if call.reply.is_abandoned() {
                            withdrawn = true;
                        } else {
                            call.reply.send(Ok(Delivery::Queued));
                            outgoing.owner = Owner::Nobody;
                            outgoing.deadline = None;
                        }
                    }
                }
                _ => {}
            }
        }
        if withdrawn {
            publishes.sweep(requests);
        }
    }

    /// A new connection. With the session everything unacknowledged goes out again under its identifier; without it,
    /// the same messages are new publishes, ahead of those that waited.
    pub(super) fn resume_publishes(&mut self, session_present: bool, now: Instant) {
        if session_present {
            let released = self.in_flight.ids(On::Released);
            self.publishes.repeat = released.chain(self.in_flight.ids(On::Published)).collect();
            for index in 0..self.publishes.repeat.len() {
                let id = self.publishes.repeat[index];
                match self.in_flight.get_mut(id) {
                    // Nothing is sent again after its deadline, so that no door opens minutes later. A QoS 2 publish
                    // is an exception: the broker may hold its identifier, and would take the next message under it
                    // for a repetition.
                    Some((On::Published, Entry::Publish(outgoing)))
                        if outgoing.is_expired(now) && outgoing.publish.qos == QoS::AtLeastOnce =>
                    {
                        self.in_flight.remove(id);
                    }
                    Some((_, Entry::Publish(outgoing))) => outgoing.repeat = true,
                    _ => {}
                }
            }
            return;
        }
        // A released message is among them: whether the broker passed it on before it forgot us cannot be known, and
        // once more is better than not at all.
        let mut unacked = self.in_flight.clear(On::Released);
        unacked.extend(self.in_flight.clear(On::Published));
        for entry in unacked.into_iter().rev() {
            let Entry::Publish(mut outgoing) = entry else { continue };
            if outgoing.is_expired(now) {
                continue;
            }
            match self.publishes.claim(outgoing.owner, &self.requests) {
                Claim::Wanted => {}
                // It was sent before its caller left, so it is still owed to the broker.
                Claim::Abandoned => outgoing.owner = Owner::Nobody,
                Claim::Stale => continue,
            }
            match outgoing.owner {
                Owner::Nobody => {}
                Owner::Request(request) => self.requests.mark_queued(request),
                Owner::Call(call) => {
                    if let Some(pending) = self.publishes.calls.get_mut(call) {
                        pending.queued = true;
                    }
                }
            }
            outgoing.repeat = false;
            self.publishes.queued_bytes += size(&outgoing);
            self.publishes.queue.push_front(outgoing);
        }
    }

    /// The agent ends: every caller is told what became of its message.
    pub(super) fn abandon_publishes(&mut self) -> usize {
        self.publishes.queue.clear();
        self.publishes.unwritten.clear();
        let unfinished = self.publishes.calls.len();
        for (_, call) in self.publishes.calls.drain() {
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

fn too_late() -> Error {
    Error::timeout("the message could not be sent before its deadline")
}
