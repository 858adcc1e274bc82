//! Calls: a message out, its replies in.
//!
//! All calls with one reply filter share one subscriber. Where something in a reply says which call it answers, they run
//! at the same time; where nothing does, they take turns, first come first served. The filter stays subscribed for a
//! while after the last of them.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::publish::{Outgoing, Owner, Place};
use super::subscriptions::Sink;
use super::{Due, Session};
use crate::command::{self, Replies, ReplyPaths, RequestId, SubscriberKey, Wish};
use crate::options::Offline;
use crate::room::Room;
use crate::slots::{self, Slots};
use crate::subscribe::Retained;
use crate::terms::{Terms, Version};
use crate::{Error, Message, QoS, Topic};

mod answer;
mod queue;

pub(super) use queue::ReplyQueue;

slots::key! {
    pub(super) struct RequestKey;
}

type Hasher = foldhash::fast::RandomState;

#[derive(Debug)]
pub(super) struct Requests {
    pending: Slots<RequestKey, Pending>,
    /// By the name the handle gave it, for when its caller leaves.
    by_id: HashMap<RequestId, RequestKey, Hasher>,
    queues: HashMap<ReplyPaths, SubscriberKey, Hasher>,
    /// Where replies come that name no other place; known from the first connection on that can carry it.
    own_topic: Option<Topic>,
    /// Calls that wait to know it.
    undirected: VecDeque<RequestKey>,
}

#[derive(Debug)]
struct Pending {
    call: Box<command::Request>,
    /// None as long as it is not known where the replies come.
    queue: Option<SubscriberKey>,
    /// When it was first sent, and may have reached a wire: only then can a message be its reply.
    sent_at: Option<Instant>,
    /// Where its message waits to be sent.
    place: Option<Place>,
    /// Empty where each is handed on as it comes.
    replies: Replies,
    has_any: bool,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            pending: Slots::new(),
            by_id: HashMap::default(),
            queues: HashMap::default(),
            own_topic: None,
            undirected: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_pending(&self, request: RequestKey) -> bool {
        self.pending.contains(request)
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
        self.by_id.remove(&pending.call.id);
        self.by_id.give_back();
        Some(pending)
    }
}

impl Session {
    pub(super) fn handle_request(&mut self, mut call: Box<command::Request>, now: Instant) {
        if call.reply.is_abandoned() {
            return;
        }
        let (id, deadline, reply_to) = (call.id, call.deadline, call.reply_to.take());
        let is_offline = call.offline == Offline::Fail && !self.is_connected();
        let replies = Replies::new();
        let pending = Pending { call, queue: None, sent_at: None, place: None, replies, has_any: false };
        if deadline <= now {
            return pending.fail(no_reply());
        }
        if is_offline {
            return pending.fail(Error::offline());
        }
        let request = self.requests.pending.insert(pending);
        self.requests.by_id.insert(id, request);
        self.arm(deadline, Due::Request(request));
        match reply_to {
            Some(paths) => self.direct_request(request, paths, now),
            None if self.is_connected() => self.direct_to_own_topic(request, now),
            None => self.requests.undirected.push_back(request),
        }
    }

    /// Nothing was said about where the replies come: the agent has a topic of its own for that.
    fn direct_to_own_topic(&mut self, request: RequestKey, now: Instant) {
        let Some(pending) = self.requests.pending.get_mut(request) else { return };
        let paths = self.requests.own_topic.as_ref().and_then(|topic| {
            let publish = pending.call.publish.as_mut()?;
            publish.lenient = false;
            publish.properties.get_or_insert_default().response_topic = Some(topic.clone());
            Some(ReplyPaths { reply_to: topic.try_into().ok()?, rejected_by: None })
        });
        match paths {
            Some(paths) => self.direct_request(request, paths, now),
            None => self.fail_request(request, no_own_topic(), now),
        }
    }

    /// Puts a call into the queue of those with the same reply filters.
    fn direct_request(&mut self, request: RequestKey, paths: ReplyPaths, now: Instant) {
        let key = match self.reply_queue(paths) {
            Ok(key) => key,
            Err(conflict) => return self.fail_request(request, conflict, now),
        };
        let Self { requests, subscriptions, .. } = self;
        let Some(pending) = requests.pending.get_mut(request) else { return };
        pending.queue = Some(key);
        let Some(queue) = subscriptions.reply_queue_mut(key) else { return };
        match queue.join(request, pending.call.key.as_deref()) {
            true => self.advance_requests(key, now),
            false => self.fail_request(request, Error::key_in_use(), now),
        }
    }

    /// The subscriber for reply filters. A retained message is never a reply: it was there before the question.
    fn reply_queue(&mut self, paths: ReplyPaths) -> Result<SubscriberKey, Error> {
        if let Some(queue) = self.requests.queues.get(&paths) {
            return Ok(*queue);
        }
        let sink = Sink::Replies(ReplyQueue::new(paths.clone()));
        let wish = Wish::new(QoS::AtLeastOnce, Retained::Ignore);
        let filters: Vec<_> = std::iter::once(&paths.reply_to).chain(&paths.rejected_by).cloned().collect();
        self.subscriptions.check_conflict(&filters, wish)?;
        let queue = self.subscriptions.add(sink, &filters, wish);
        self.requests.queues.insert(paths, queue);
        Ok(queue)
    }

    /// Sends the calls of a queue that may be sent, if the broker holds its filters.
    pub(super) fn advance_requests(&mut self, key: SubscriberKey, now: Instant) {
        let Some(queue) = self.subscriptions.reply_queue_mut(key) else { return };
        if queue.is_idle() {
            return self.linger(key, now);
        }
        if !queue.has_next() || !self.subscriptions.is_ready(key) {
            return;
        }
        while let Some(request) = self.subscriptions.reply_queue_mut(key).and_then(ReplyQueue::next) {
            let Some(pending) = self.requests.pending.get_mut(request) else { continue };
            let Some(publish) = pending.call.publish.take() else { continue };
            // A command dies with its deadline, wherever it is by then.
            let deadline = Some(pending.call.deadline);
            let outgoing = Outgoing::new(publish, Owner::Request(request), deadline).expiring(deadline);
            // The waiter stands before the message goes.
            pending.place = Some(self.publishes.push(outgoing));
        }
    }

    /// A message came by a reply filter; whether a call took it.
    pub(super) fn handle_reply(&mut self, queue: SubscriberKey, message: &Message, now: Instant) -> bool {
        let found = self.subscriptions.reply_queue_mut(queue).and_then(|queue| queue.find(message));
        let Some(request) = found else { return false };
        let Some(pending) = self.requests.pending.get_mut(request) else { return false };
        let Some(sent_at) = pending.sent_at else { return false };
        if pending.take(message.clone()) {
            self.counters.reply_times.add(now - sent_at);
            if let Some(pending) = self.end_request(request, now) {
                pending.finish();
            }
        }
        true
    }

    /// Forgets a call and gives its turn to the next.
    fn end_request(&mut self, request: RequestKey, now: Instant) -> Option<Pending> {
        let pending = self.requests.remove(request)?;
        self.publishes.withdraw(pending.place);
        let Some(key) = pending.queue else {
            queue::remove(&mut self.requests.undirected, request);
            return Some(pending);
        };
        if let Some(queue) = self.subscriptions.reply_queue_mut(key) {
            queue.leave(request, pending.call.key.as_deref());
        }
        self.advance_requests(key, now);
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
        if let Some(pending) = self.end_request(request, now) {
            pending.expire(no_reply());
        }
    }

    /// The broker did not pass the message on: no reply will come.
    pub(super) fn refuse_request(&mut self, request: RequestKey, error: Error, now: Instant) {
        if let Some(pending) = self.end_request(request, now) {
            pending.refuse(error);
        }
    }

    /// The broker refused a reply filter: no reply could arrive.
    pub(super) fn refuse_requests(&mut self, key: SubscriberKey, error: &Error, now: Instant) {
        let Some(queue) = self.subscriptions.reply_queue_mut(key) else { return };
        let requests = queue.take_all();
        self.drop_queue(key);
        for request in requests {
            self.fail_request(request, error.clone(), now);
        }
    }

    /// The connection is lost: what was not sent fails if its caller does not want to wait for another.
    pub(super) fn suspend_requests(&mut self, now: Instant) {
        let unwilling = |pending: &Pending| pending.call.offline == Offline::Fail && pending.sent_at.is_none();
        let requests: Vec<_> =
            self.requests.pending.iter().filter(|(_, pending)| unwilling(pending)).map(|(key, _)| key).collect();
        for request in requests {
            self.fail_request(request, Error::offline(), now);
        }
    }

    /// A new connection. Where the broker forgot the reply filters, what was to be sent waits for the SUBACK once more.
    pub(super) fn resume_requests(&mut self, session_present: bool, now: Instant) {
        self.requests.own_topic = self.terms().and_then(own_topic);
        for request in std::mem::take(&mut self.requests.undirected) {
            self.direct_to_own_topic(request, now);
        }
        if session_present {
            return;
        }
        // The last first, so that each goes ahead of those behind it.
        for (request, publish) in self.publishes.take_requests().into_iter().rev() {
            let Some(pending) = self.requests.pending.get_mut(request) else { continue };
            pending.call.publish = Some(publish);
            pending.place = None;
            if let Some(queue) = pending.queue.and_then(|queue| self.subscriptions.reply_queue_mut(queue)) {
                queue.put_back(request);
            }
        }
    }

    /// Nobody uses the filters at the moment.
    fn linger(&mut self, key: SubscriberKey, now: Instant) {
        let until = now + self.limits.reply_linger;
        let Some(queue) = self.subscriptions.reply_queue_mut(key) else { return };
        queue.lingers_until = Some(until);
        if !std::mem::replace(&mut queue.is_armed, true) {
            self.arm_linger(until, key);
        }
    }

    pub(super) fn expire_linger(&mut self, key: SubscriberKey, now: Instant) {
        let Some(queue) = self.subscriptions.reply_queue_mut(key) else { return };
        queue.is_armed = false;
        match queue.lingers_until {
            _ if !queue.is_idle() => {}
            Some(until) if until > now => {
                queue.is_armed = true;
                self.arm_linger(until, key);
            }
            _ => self.drop_queue(key),
        }
    }

    fn drop_queue(&mut self, key: SubscriberKey) {
        let Some(queue) = self.subscriptions.reply_queue_mut(key) else { return };
        self.requests.queues.remove(&queue.paths);
        self.requests.queues.give_back();
        self.remove_subscriber(key, None);
    }

    /// The agent ends: every caller is told.
    pub(super) fn abandon_requests(&mut self) -> usize {
        let unfinished = self.requests.pending.len();
        for pending in self.requests.pending.drain() {
            pending.fail(Error::closed());
        }
        self.requests = Requests::new();
        unfinished
    }
}

/// A topic for replies that no other client uses: below what the broker set aside for this one, where it did (MQTT 5,
/// section 4.10.1), else by its client identifier. None before MQTT 5.
fn own_topic(terms: &Terms) -> Option<Topic> {
    if terms.version != Version::V5 {
        return None;
    }
    let prefix = terms.response_information.as_deref().map(|prefix| prefix.trim_end_matches('/'));
    // An empty one would be the same topic for every client.
    let own =
        prefix.filter(|prefix| !prefix.is_empty()).and_then(|prefix| Topic::new(format!("{prefix}/replies")).ok());
    // A client identifier may be any text.
    let name = || terms.client_id.replace(['+', '#'], "_");
    own.or_else(|| Topic::new(format!("clients/{}/replies", name())).ok())
}

#[cfg(any(fuzzing, test))]
impl Requests {
    pub(super) fn count(&self, census: &mut super::census::Census) {
        census.requests = self.pending.len();
        census.requests_by_id = self.by_id.len();
        census.reply_queues = self.queues.len();
    }

    pub(super) fn assert_empty(&self) {
        assert_eq!((self.pending.len(), self.by_id.len(), self.queues.len(), self.undirected.len()), (0, 0, 0, 0));
    }
}

fn no_reply() -> Error {
    Error::timeout("no reply came in time")
}

fn no_own_topic() -> Error {
    Error::unsupported(
        "without MQTT 5 a request cannot say where it wants its reply: call reply_to with the topic that the device uses",
    )
}
