//! Calls: a message out, its replies in.
//!
//! All calls with one reply filter share one subscriber. Nothing in a plain reply says which call it answers, so calls
//! with the same reply filter take turns, first come first served. The filter stays subscribed for a while after the
//! last of them.

use std::collections::{HashMap, VecDeque};

use slotmap::SlotMap;
use tokio::time::Instant;

use super::publish::{Outgoing, Owner};
use super::queue::Place;
use super::subscriptions::Sink;
use super::{Due, Session};
use crate::command::{self, Reply, RequestId, SubscriberKey, Wish};
use crate::options::Offline;
use crate::subscribe::Retained;
use crate::{wire, Error, Filter, Message, Outcome, QoS};

slotmap::new_key_type! {
    pub(super) struct RequestKey;
}

type Hasher = foldhash::fast::RandomState;

#[derive(Debug)]
pub(super) struct Requests {
    pending: SlotMap<RequestKey, Pending>,
    /// By the name the handle gave it, for when its caller leaves.
    by_id: HashMap<RequestId, RequestKey, Hasher>,
    queues: HashMap<Filter, SubscriberKey, Hasher>,
}

#[derive(Debug)]
struct Pending {
    id: RequestId,
    queue: SubscriberKey,
    /// Taken when it is its turn.
    publish: Option<wire::Publish>,
    /// When it was first sent, and may have reached a wire: only then can a message be its reply.
    sent_at: Option<Instant>,
    /// Where its message waits to be sent.
    place: Option<Place>,
    offline: Offline,
    deadline: Instant,
    wanted: usize,
    replies: Vec<Message>,
    reply: Reply<Vec<Message>>,
}

/// The calls that share a reply filter.
#[derive(Debug)]
pub(super) struct ReplyQueue {
    filter: Filter,
    active: Option<RequestKey>,
    waiting: VecDeque<RequestKey>,
    /// When the filter may go, unless it is used before.
    lingers_until: Option<Instant>,
    /// A deadline for that is set; it may be an earlier one.
    is_armed: bool,
}

impl ReplyQueue {
    fn new(filter: Filter) -> Self {
        Self { filter, active: None, waiting: VecDeque::new(), lingers_until: None, is_armed: false }
    }
}

impl Requests {
    pub(super) fn new() -> Self {
        Self { pending: SlotMap::with_key(), by_id: HashMap::default(), queues: HashMap::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_pending(&self, request: RequestKey) -> bool {
        self.pending.contains_key(request)
    }

    pub(super) fn mark_sent(&mut self, request: RequestKey, now: Instant) {
        if let Some(pending) = self.pending.get_mut(request) {
            pending.sent_at.get_or_insert(now);
        }
    }

    pub(super) fn note_place(&mut self, request: RequestKey, place: Option<Place>) {
        if let Some(pending) = self.pending.get_mut(request) {
            pending.place = place;
        }
    }

    fn remove(&mut self, request: RequestKey) -> Option<Pending> {
        let pending = self.pending.remove(request)?;
        self.by_id.remove(&pending.id);
        Some(pending)
    }
}

impl Session {
    pub(super) fn handle_request(&mut self, command: command::Request, now: Instant) {
        let command::Request { id, publish, reply_to, replies, offline, deadline, reply } = command;
        if reply.is_abandoned() {
            return;
        }
        if deadline <= now {
            return reply.send(Err(no_reply()));
        }
        if offline == Offline::Fail && !self.is_connected() {
            return reply.send(Err(Error::offline()));
        }
        let queue = self.reply_queue(reply_to);
        let request = self.requests.pending.insert(Pending {
            id,
            queue,
            publish: Some(publish),
            sent_at: None,
            place: None,
            offline,
            deadline,
            wanted: replies,
            replies: Vec::new(),
            reply,
        });
        self.requests.by_id.insert(id, request);
        self.arm(deadline, Due::Request(request));
        if let Some(queue) = self.queue_mut(queue) {
            queue.waiting.push_back(request);
        }
        self.advance_requests(queue, now);
    }

    /// The subscriber for a reply filter. A retained message is never a reply: it was there before the question.
    fn reply_queue(&mut self, filter: Filter) -> SubscriberKey {
        if let Some(queue) = self.requests.queues.get(&filter) {
            return *queue;
        }
        let sink = Sink::Replies(ReplyQueue::new(filter.clone()));
        let filters = std::slice::from_ref(&filter);
        let queue = self.subscriptions.add(sink, filters, Wish::new(QoS::AtLeastOnce, Retained::Ignore));
        self.requests.queues.insert(filter, queue);
        queue
    }

    fn queue_mut(&mut self, queue: SubscriberKey) -> Option<&mut ReplyQueue> {
        match &mut self.subscriptions.subscribers.get_mut(queue)?.sink {
            Sink::Replies(queue) => Some(queue),
            Sink::Pending { .. } | Sink::Stream(_) => None,
        }
    }

    /// Lets the next call of a queue have its turn, if the last is over and the broker holds the filter.
    pub(super) fn advance_requests(&mut self, key: SubscriberKey, now: Instant) {
        let is_ready = self.subscriptions.is_ready(key);
        loop {
            let Some(queue) = self.queue_mut(key) else { return };
            if queue.active.is_some() {
                return;
            }
            if queue.waiting.is_empty() {
                self.linger(key, now);
                return;
            }
            if !is_ready {
                return;
            }
            let Some(request) = queue.waiting.pop_front() else { return };
            let Some(pending) = self.requests.pending.get_mut(request) else { continue };
            let Some(publish) = pending.publish.take() else { continue };
            // A command dies with its deadline, wherever it is by then.
            let deadline = Some(pending.deadline);
            let outgoing = Outgoing::new(publish, Owner::Request(request), deadline).expiring(deadline);
            // The waiter stands before the message goes.
            pending.place = Some(self.publishes.push(outgoing));
            if let Some(queue) = self.queue_mut(key) {
                queue.active = Some(request);
            }
        }
    }

    /// A message came by a reply filter.
    pub(super) fn handle_reply(&mut self, queue: SubscriberKey, message: &Message, now: Instant) {
        let active = self.queue_mut(queue).and_then(|queue| queue.active);
        let pending = active.and_then(|request| self.requests.pending.get_mut(request));
        let Some(pending) = pending.filter(|pending| pending.sent_at.is_some()) else {
            self.counters.late_replies().add(1);
            return;
        };
        pending.replies.push(message.clone());
        if pending.replies.len() < pending.wanted {
            return;
        }
        let replies = std::mem::take(&mut pending.replies);
        if let Some(sent_at) = pending.sent_at {
            self.counters.reply_times.add(now - sent_at);
        }
        if let Some(pending) = active.and_then(|request| self.end_request(request, now)) {
            pending.reply.send(Ok(replies));
        }
    }

    /// Forgets a call and gives its turn to the next.
    fn end_request(&mut self, request: RequestKey, now: Instant) -> Option<Pending> {
        let pending = self.requests.remove(request)?;
        self.publishes.withdraw(pending.place);
        if let Some(queue) = self.queue_mut(pending.queue) {
            if queue.active == Some(request) {
                queue.active = None;
            } else if let Some(at) = queue.waiting.iter().position(|other| *other == request) {
                // Calls mostly end in the order in which they began, so this looks at the first ones only.
                queue.waiting.remove(at);
            }
        }
        self.advance_requests(pending.queue, now);
        Some(pending)
    }

    pub(super) fn forget_request(&mut self, id: RequestId, now: Instant) {
        if let Some(request) = self.requests.by_id.get(&id) {
            self.end_request(*request, now);
        }
    }

    /// The request cannot be sent.
    pub(super) fn fail_request(&mut self, request: RequestKey, error: Error, now: Instant) {
        if let Some(pending) = self.end_request(request, now) {
            pending.fail(error);
        }
    }

    pub(super) fn expire_request(&mut self, request: RequestKey, now: Instant) {
        self.fail_request(request, no_reply(), now);
    }

    /// The broker did not pass the message on: no reply will come.
    pub(super) fn refuse_request(&mut self, request: RequestKey, error: Error, now: Instant) {
        if let Some(pending) = self.end_request(request, now) {
            pending.reply.send(Err(error.with_messages(pending.replies)));
        }
    }

    /// The broker refused the reply filter: no reply could arrive.
    pub(super) fn refuse_requests(&mut self, key: SubscriberKey, error: &Error, now: Instant) {
        let Some(queue) = self.queue_mut(key) else { return };
        let requests: Vec<_> = queue.active.take().into_iter().chain(queue.waiting.drain(..)).collect();
        self.drop_queue(key);
        for request in requests {
            if let Some(pending) = self.end_request(request, now) {
                pending.fail(error.clone());
            }
        }
    }

    /// The connection is lost: what was not sent fails if its caller does not want to wait for another.
    pub(super) fn suspend_requests(&mut self, now: Instant) {
        let unwilling = |pending: &Pending| pending.offline == Offline::Fail && pending.sent_at.is_none();
        let requests: Vec<_> =
            self.requests.pending.iter().filter(|(_, pending)| unwilling(pending)).map(|(key, _)| key).collect();
        for request in requests {
            if let Some(pending) = self.end_request(request, now) {
                pending.fail(Error::offline());
            }
        }
    }

    /// A new connection. Where the broker forgot the reply filters, what was to be sent waits for the SUBACK once more.
    pub(super) fn resume_requests(&mut self, session_present: bool) {
        if session_present {
            return;
        }
        for (request, publish) in self.publishes.take_requests() {
            let Some(pending) = self.requests.pending.get_mut(request) else { continue };
            pending.publish = Some(publish);
            pending.place = None;
            let queue = pending.queue;
            if let Some(queue) = self.queue_mut(queue) {
                queue.active = None;
                queue.waiting.push_front(request);
            }
        }
    }

    /// Nobody uses the filter at the moment.
    fn linger(&mut self, key: SubscriberKey, now: Instant) {
        let until = now + self.limits.reply_linger;
        let Some(queue) = self.queue_mut(key) else { return };
        queue.lingers_until = Some(until);
        if !std::mem::replace(&mut queue.is_armed, true) {
            self.arm(until, Due::Linger(key));
        }
    }

    pub(super) fn expire_linger(&mut self, key: SubscriberKey, now: Instant) {
        let Some(queue) = self.queue_mut(key) else { return };
        queue.is_armed = false;
        match queue.lingers_until {
            _ if queue.active.is_some() || !queue.waiting.is_empty() => {}
            Some(until) if until > now => {
                queue.is_armed = true;
                self.arm(until, Due::Linger(key));
            }
            _ => self.drop_queue(key),
        }
    }

    fn drop_queue(&mut self, key: SubscriberKey) {
        let Some(queue) = self.queue_mut(key) else { return };
        let filter = queue.filter.clone();
        self.requests.queues.remove(&filter);
        self.remove_subscriber(key, None);
    }

    /// The agent ends: every caller is told.
    pub(super) fn abandon_requests(&mut self) -> usize {
        let unfinished = self.requests.pending.len();
        for (_, pending) in self.requests.pending.drain() {
            pending.fail(Error::closed());
        }
        self.requests = Requests::new();
        unfinished
    }
}

impl Pending {
    fn fail(self, error: Error) {
        let outcome = if self.sent_at.is_some() { Outcome::Unknown } else { Outcome::NotSent };
        self.reply.send(Err(error.with_outcome(outcome).with_messages(self.replies)));
    }
}

#[cfg(any(fuzzing, test))]
impl Requests {
    pub(super) fn count_held(&self, held: &mut super::held::Held) {
        held.requests = self.pending.len();
        held.requests_by_id = self.by_id.len();
        held.reply_queues = self.queues.len();
    }

    pub(super) fn assert_empty(&self) {
        assert_eq!((self.pending.len(), self.by_id.len(), self.queues.len()), (0, 0, 0));
    }
}

fn no_reply() -> Error {
    Error::timeout("no reply came in time")
}
