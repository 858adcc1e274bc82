//! SUBSCRIBE and UNSUBSCRIBE, their answers, and the way of a message to those who want it.

use std::cmp::Reverse;
use std::hash::BuildHasher;
use std::iter::repeat;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::in_flight::On;
use super::shared::{LinkState, Shared, Step};
use super::subscriptions::{FilterKey, Route, Sink, Subscriptions};
use super::{Due, Entry, Limits, Session};
use crate::command::{self, Feed, Reply, SubscriberGuard, SubscriberKey};
use crate::options::Offline;
use crate::reason::Reason;
use crate::slots::Slots;
use crate::terms::Terms;
use crate::wire::{self, Ask, Codec, Outbound, Output, PacketId};
use crate::{Error, Filter, Message, QoS, ReasonCode};

/// The filters of one packet.
struct Batch {
    keys: Vec<FilterKey>,
    asks: Vec<Ask>,
    /// Where the wild ones are: others cannot overlap each other.
    wild: Vec<usize>,
    /// The subscription identifier of all of them, if they have one.
    identifier: Option<u32>,
    bytes: usize,
    max_filters: usize,
    max_bytes: usize,
}

/// Keeps one packet well below the limits that brokers set.
const MAX_BATCH_BYTES: usize = 32 * 1024;

impl Batch {
    fn new(limits: &Limits, terms: Option<&Terms>) -> Self {
        Self {
            keys: Vec::new(),
            asks: Vec::new(),
            wild: Vec::new(),
            identifier: None,
            bytes: 0,
            max_filters: limits.max_filters_per_subscribe,
            max_bytes: terms.map_or(MAX_BATCH_BYTES, |terms| terms.room_for_filters().min(MAX_BATCH_BYTES)),
        }
    }

    /// Whether one more goes into the packet; one always does. `identifier` is the one it has, where there are such:
    /// filters that overlap must not share one, or a message would not tell which of them it comes by.
    fn takes(&mut self, filter: &Filter, identifier: Option<Option<u32>>) -> bool {
        self.bytes += wire::filter_size(filter);
        if self.keys.is_empty() {
            self.identifier = identifier.flatten();
            return true;
        }
        if self.keys.len() >= self.max_filters || self.bytes > self.max_bytes {
            return false;
        }
        let Some(identifier) = identifier else { return true };
        let overlaps = match is_wild(filter) {
            true => self.asks.iter().any(|ask| ask.filter.overlaps(filter)),
            false => self.wild.iter().any(|index| self.asks[*index].filter.overlaps(filter)),
        };
        identifier == self.identifier && !overlaps
    }

    fn push(&mut self, key: FilterKey, ask: Ask) {
        if is_wild(&ask.filter) {
            self.wild.push(self.asks.len());
        }
        self.keys.push(key);
        self.asks.push(ask);
    }
}

/// Whether a filter can overlap one with another text: by a wildcard, or as it matches what it would without its group.
fn is_wild(filter: &Filter) -> bool {
    filter.has_wildcards() || filter.share_group().is_some()
}

impl Session {
    pub(super) fn handle_subscribe(&mut self, command: command::Subscribe, now: Instant) {
        let command::Subscribe { filters, wish, capacity, offline, deadline, reply } = command;
        if reply.is_abandoned() {
            return;
        }
        if deadline <= now {
            return reply.send(Err(no_suback()));
        }
        if offline == Offline::Fail && !self.is_connected() {
            return reply.send(Err(Error::offline()));
        }
        self.subscriptions.sweep();
        if let Err(conflict) = self.subscriptions.check_conflict(&filters, wish) {
            return reply.send(Err(conflict));
        }
        // Two more places than there may be messages: for a refusal, and for the reason of the end.
        let (events, first) = broadcast::channel(capacity + 2 * usize::from(self.receiving.is_holding()));
        let sink = Sink::Pending { offline, events, first, reply };
        let subscriber = self.subscriptions.add(sink, &filters, wish);
        if self.subscriptions.subscribers[subscriber].pending == 0 {
            self.establish(subscriber);
        } else {
            self.arm(deadline, Due::Subscribe(subscriber));
        }
    }

    /// All filters of a subscriber are confirmed: its call returns.
    pub(super) fn establish(&mut self, key: SubscriberKey) {
        let Some(subscriber) = self.subscriptions.subscribers.get(key) else { return };
        let granted = subscriber.filters.iter().filter_map(|member| {
            let shared = self.subscriptions.filters.get(member.filter)?;
            Some((shared.filter.clone(), self.subscriptions.granted(member.filter)?))
        });
        let granted = granted.collect();
        let Subscriptions { subscribers, notices, .. } = &mut self.subscriptions;
        let Some(subscriber) = subscribers.get_mut(key) else { return };
        let Sink::Pending { events, .. } = &subscriber.sink else { return };
        let channel = events.downgrade();
        let stream = Sink::Stream(events.clone());
        let Sink::Pending { first, reply, .. } = std::mem::replace(&mut subscriber.sink, stream) else { return };
        // A caller that left meanwhile drops the feed, and its guard ends the subscription.
        let guard = SubscriberGuard::new(key, notices.clone());
        reply.send(Ok(Feed { events: first, channel, guard, granted }));
    }

    pub(super) fn expire_subscribe(&mut self, key: SubscriberKey) {
        if self.subscriptions.is_pending(key) {
            self.fail_subscriber(key, no_suback());
        }
    }

    pub(super) fn fail_subscriber(&mut self, key: SubscriberKey, error: Error) {
        let subscriber = self.subscriptions.remove(key, None);
        if let Some(Sink::Pending { reply, .. }) = subscriber.map(|subscriber| subscriber.sink) {
            reply.send(Err(error));
        }
    }

    pub(super) fn remove_subscriber(&mut self, key: SubscriberKey, reply: Option<Reply<()>>) {
        self.subscriptions.remove(key, reply);
    }

    /// Sends one SUBSCRIBE or UNSUBSCRIBE for as many of the due filters as fit.
    pub(super) fn transmit_filters(&mut self, codec: &mut Codec, output: &mut Output, now: Instant) -> bool {
        if self.in_flight.is_full() {
            // An acknowledgement frees one.
            return false;
        }
        // What this connection cannot carry is settled without a packet, and must not keep back what is due behind it.
        loop {
            let is_sent = match self.next_step() {
                Some(Step::Subscribing) => self.transmit_subscribe(codec, output, now),
                Some(Step::Unsubscribing) => self.transmit_unsubscribe(codec, output),
                Some(Step::Settled | Step::Due) | None => return false,
            };
            if is_sent {
                return true;
            }
        }
    }

    /// What the first of the due filters needs. Those that need nothing any more are taken out.
    fn next_step(&mut self) -> Option<Step> {
        while let Some(&key) = self.subscriptions.due.front() {
            match self.subscriptions.filters.get(key).filter(|shared| shared.step == Step::Due) {
                Some(shared) if shared.needs_subscribe() => return Some(Step::Subscribing),
                Some(shared) if shared.needs_unsubscribe() => return Some(Step::Unsubscribing),
                due => {
                    // Forgotten, or wanted again before it was unsubscribed.
                    let is_due = due.is_some();
                    self.subscriptions.due.pop_front();
                    if is_due {
                        self.subscriptions.settle(key);
                    }
                }
            }
        }
        None
    }

    fn transmit_subscribe(&mut self, codec: &mut Codec, output: &mut Output, now: Instant) -> bool {
        let has_identifiers = self.terms().is_some_and(Terms::has_identifiers);
        let mut batch = Batch::new(&self.limits, self.terms());
        while self.next_step() == Some(Step::Subscribing) {
            let Some(&key) = self.subscriptions.due.front() else { break };
            let shared = &self.subscriptions.filters[key];
            let ask = shared.ask();
            let refused = self.terms().and_then(|terms| terms.check_filter(&ask).err());
            if refused.is_none() && !batch.takes(&ask.filter, has_identifiers.then_some(shared.identifier)) {
                break;
            }
            self.subscriptions.due.pop_front();
            let shared = &mut self.subscriptions.filters[key];
            let asked = shared.asked;
            shared.handle_asked(ask.qos);
            if let Some(error) = refused {
                shared.step = Step::Settled;
                self.handle_refused(key, asked, &error, now);
                self.subscriptions.settle(key);
                continue;
            }
            batch.push(key, ask);
        }
        let Batch { keys, asks, identifier, .. } = batch;
        if keys.is_empty() {
            return false;
        }
        let identifier = has_identifiers.then(|| identifier.unwrap_or_else(|| self.subscriptions.new_identifier()));
        for key in &keys {
            self.subscriptions.filters[*key].identifier = identifier;
        }
        let Ok(id) = self.in_flight.insert(On::Asked, Entry::Subscribe(keys)) else { return false };
        codec.encode(Outbound::Subscribe { id, identifier, filters: &asks }, output);
        true
    }

    fn transmit_unsubscribe(&mut self, codec: &mut Codec, output: &mut Output) -> bool {
        let mut batch = Batch::new(&self.limits, self.terms());
        let mut filters = Vec::new();
        let room = self.terms().map_or(usize::MAX, Terms::room_for_filters);
        while self.next_step() == Some(Step::Unsubscribing) {
            let Some(&key) = self.subscriptions.due.front() else { break };
            let shared = &mut self.subscriptions.filters[key];
            if wire::filter_size(&shared.filter) > room {
                // Asked for on a connection with more room. It stays with the broker for as long as the session.
                self.subscriptions.due.pop_front();
                shared.granted = None;
                shared.handle_unsubscribed(ReasonCode::PACKET_TOO_LARGE);
                self.subscriptions.settle(key);
                continue;
            }
            if !batch.takes(&shared.filter, None) {
                break;
            }
            self.subscriptions.due.pop_front();
            shared.step = Step::Unsubscribing;
            shared.granted = None;
            filters.push(shared.filter.clone());
            batch.keys.push(key);
        }
        if filters.is_empty() {
            return false;
        }
        let Ok(id) = self.in_flight.insert(On::Asked, Entry::Unsubscribe(batch.keys)) else { return false };
        codec.encode(Outbound::Unsubscribe { id, filters: &filters }, output);
        true
    }

    fn handle_unanswered(&mut self, entry: Entry) {
        let (Entry::Subscribe(batch) | Entry::Unsubscribe(batch)) = entry else { return };
        for key in batch {
            if let Some(shared) = self.subscriptions.filters.get_mut(key) {
                shared.handle_unanswered();
                self.subscriptions.settle(key);
            }
        }
    }

    pub(super) fn handle_suback(
        &mut self,
        id: PacketId,
        granted: Vec<Result<QoS, Reason>>,
        now: Instant,
    ) -> Result<(), Error> {
        let Some((_, Entry::Subscribe(batch))) = self.in_flight.get_mut(id) else { return Ok(()) };
        if batch.len() != granted.len() {
            // The connection ends by this; the next one asks again.
            return Err(Error::protocol("the broker sent a SUBACK for another number of filters"));
        }
        let Some(Entry::Subscribe(batch)) = self.in_flight.remove(id) else { return Ok(()) };
        for (key, granted) in batch.into_iter().zip(granted) {
            self.subscriptions.filters[key].step = Step::Settled;
            match granted {
                Ok(qos) => self.handle_granted(key, qos, now),
                Err(reason) => {
                    let shared = &self.subscriptions.filters[key];
                    let error = Error::subscribe_refused(shared.filter.as_str(), &reason);
                    self.handle_refused(key, shared.granted, &error, now);
                }
            }
            self.subscriptions.settle(key);
        }
        Ok(())
    }

    fn handle_granted(&mut self, key: FilterKey, qos: QoS, now: Instant) {
        let shared = &mut self.subscriptions.filters[key];
        let before = shared.granted.replace(qos);
        let mut confirmed = Vec::new();
        for link in &mut shared.links {
            match link.state {
                LinkState::Asked => {
                    link.state = LinkState::Ready;
                    confirmed.push((link.subscriber, std::mem::replace(&mut link.established, true)));
                }
                LinkState::Ready => link.window.narrow(),
                LinkState::Waiting => {}
            }
        }
        self.subscriptions.handle_held(key, before);
        for (subscriber, established) in confirmed {
            self.handle_confirmed(subscriber, established, now);
        }
    }

    fn handle_confirmed(&mut self, key: SubscriberKey, established: bool, now: Instant) {
        let Some(subscriber) = self.subscriptions.subscribers.get_mut(key) else { return };
        subscriber.pending -= usize::from(!established);
        match subscriber.sink {
            Sink::Pending { .. } if subscriber.pending == 0 => {
                // What was confirmed on a lost connection has to be confirmed again.
                if self.subscriptions.is_ready(key) {
                    self.establish(key);
                }
            }
            Sink::Pending { .. } | Sink::Stream(_) => {}
            Sink::Replies(_) => self.advance_requests(key, now),
        }
    }

    /// `asked` is what the broker may hold all the same, from before.
    fn handle_refused(&mut self, key: FilterKey, asked: Option<QoS>, error: &Error, now: Instant) {
        let shared = &mut self.subscriptions.filters[key];
        shared.asked = asked;
        let is_held = shared.granted;
        let is_parting = shared.cover.is_parting();
        let mut refused = Vec::new();
        for link in &mut shared.links {
            if link.state == LinkState::Asked {
                // What was granted once stays linked: a later grant, or the next connection without the session,
                // brings it back.
                link.state = LinkState::Ready;
                refused.push(link.subscriber);
            }
        }
        if is_held.is_some() {
            self.subscriptions.handle_held(key, is_held);
        } else if is_parting {
            self.subscriptions.release(key);
        }
        for subscriber in refused {
            match self.subscriptions.subscribers.get(subscriber).map(|entry| &entry.sink) {
                Some(Sink::Pending { .. }) => self.fail_subscriber(subscriber, error.clone()),
                Some(Sink::Stream(events)) if self.receiving.may_report(events.len()) => {
                    drop(events.send(Err(error.clone())));
                }
                Some(Sink::Replies(_)) => self.refuse_requests(subscriber, error, now),
                Some(Sink::Stream(_)) | None => {}
            }
        }
    }

    pub(super) fn handle_unsuback(&mut self, id: PacketId, reasons: &[ReasonCode]) {
        let Some((_, Entry::Unsubscribe(_))) = self.in_flight.get_mut(id) else { return };
        let Some(Entry::Unsubscribe(batch)) = self.in_flight.remove(id) else { return };
        // Before MQTT 5 there are no reasons: it always succeeds.
        for (key, reason) in batch.into_iter().zip(reasons.iter().copied().chain(repeat(ReasonCode::SUCCESS))) {
            self.subscriptions.filters[key].handle_unsubscribed(reason);
            self.subscriptions.settle(key);
        }
    }

    /// What was asked and not answered is asked again on the next connection, for those who want to wait for it.
    pub(super) fn suspend_subscriptions(&mut self) {
        for entry in self.in_flight.clear(On::Asked) {
            self.handle_unanswered(entry);
        }
        let subscribers = self.subscriptions.subscribers.iter();
        let unwilling = subscribers
            .filter(|(_, entry)| matches!(entry.sink, Sink::Pending { offline: Offline::Fail, .. }))
            .map(|(key, _)| key);
        for key in unwilling.collect::<Vec<_>>() {
            self.fail_subscriber(key, Error::offline());
        }
    }

    /// On a connection without a session the broker holds no filter: all that are wanted are due.
    pub(super) fn resume_subscriptions(&mut self, session_present: bool) {
        if session_present {
            return;
        }
        self.subscriptions.filters.values_mut().for_each(Shared::handle_session_lost);
        let keys: Vec<_> = self.subscriptions.filters.keys().collect();
        for key in keys {
            self.subscriptions.settle(key);
        }
    }

    /// Hands a message to each subscriber that wants it, once. `identifiers` name the filters that this copy of it is for,
    /// where the broker tells.
    pub(super) fn deliver(&mut self, message: &Message, identifiers: &[usize], now: Instant) -> Delivered {
        let Subscriptions { router, filters, subscribers, delivery, matched, answered, hasher, .. } =
            &mut self.subscriptions;
        *delivery += 1;
        let topic = if message.is_retained() { hasher.hash_one(message.topic().as_str()) } else { 0 };
        let mut delivered = Delivered::Unclaimed;
        let mut hand = |key: SubscriberKey, is_for_filter: bool| {
            let Some(subscriber) = subscribers.get_mut(key) else { return };
            if std::mem::replace(&mut subscriber.delivery, *delivery) == *delivery {
                return;
            }
            if !is_for_filter {
                delivered = delivered.max(Delivered::LeftForAnother);
                return;
            }
            delivered = Delivered::Handed;
            match &subscriber.sink {
                // An error means that nobody listens any more; the guard's word of it is on its way.
                Sink::Pending { events, .. } | Sink::Stream(events) => drop(events.send(Ok(message.clone()))),
                Sink::Replies(_) => answered.push(key),
            }
        };
        router.for_each_match(message.topic().as_str(), |route| matched.push(*route));
        let copy = Copy::new(matched, identifiers, filters);
        let is_for_any = copy.is_for_all() && !message.is_retained();
        for Route { filter, only } in matched.drain(..) {
            // Among many filters this one's state is seldom in the processor's cache.
            if let Some(only) = only.filter(|_| is_for_any) {
                hand(only, true);
                continue;
            }
            let Some(shared) = filters.get_mut(filter) else { continue };
            let is_raw = shared.retain_as_published;
            let is_for_filter = match message.is_retained() && !is_raw {
                // They come by whichever filter was asked for; each link knows what it had.
                true => copy.is_for_plain,
                false => copy.is_for(shared),
            };
            // The copy for this filter may go to another member of its group.
            if !is_for_filter && (message.is_retained() || shared.filter.share_group().is_some()) {
                continue;
            }
            for link in &mut shared.links {
                if is_raw || link.accepts(message, topic) {
                    hand(link.subscriber, is_for_filter);
                }
            }
        }
        let is_reply = !self.subscriptions.answered.is_empty();
        let mut taken = false;
        while let Some(subscriber) = self.subscriptions.answered.pop() {
            taken |= self.handle_reply(subscriber, message, now);
        }
        if is_reply && !taken {
            self.counters.late_replies().add(1);
        }
        delivered
    }
}

/// What became of a message, or of one copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Delivered {
    /// No subscriber wants it.
    Unclaimed,
    /// Those who want it take another copy of it.
    LeftForAnother,
    Handed,
}

/// For which of the filters that match one copy of a message is: a broker may send a copy for each of them, or one for
/// all. A subscriber with several of them takes the copy for the first, in the order of `matched`.
struct Copy<'a> {
    /// Empty where it is for all.
    identifiers: &'a [usize],
    /// Not only for filters whose messages keep the flag they were published with: then it tells a retained one.
    is_for_plain: bool,
}

impl<'a> Copy<'a> {
    fn new(matched: &mut [Route], identifiers: &'a [usize], filters: &Slots<FilterKey, Shared>) -> Self {
        let all = Self { identifiers: &[], is_for_plain: true };
        if identifiers.is_empty() || matched.len() < 2 {
            return all;
        }
        let named =
            || matched.iter().filter_map(|to| filters.get(to.filter)).filter(|shared| is_named(identifiers, shared));
        if named().next().is_none() {
            // It was on its way for an earlier process with this session, whose identifiers say nothing here.
            return all;
        }
        let is_for_plain = named().any(|shared| !shared.retain_as_published);
        // The best copy first, and one that surely comes: for a filter that is not confirmed there may be none, nor for a
        // shared one.
        matched.sort_unstable_by_key(|route| {
            let shared = filters.get(route.filter);
            let is_shared = shared.is_some_and(|shared| shared.filter.share_group().is_some());
            (is_shared, Reverse(shared.and_then(|shared| shared.granted)), route.filter)
        });
        Self { identifiers, is_for_plain }
    }

    fn is_for_all(&self) -> bool {
        self.identifiers.is_empty()
    }

    fn is_for(&self, shared: &Shared) -> bool {
        self.is_for_all() || is_named(self.identifiers, shared)
    }
}

fn is_named(identifiers: &[usize], shared: &Shared) -> bool {
    shared.identifier.is_some_and(|identifier| identifiers.contains(&(identifier as usize)))
}

fn no_suback() -> Error {
    Error::timeout("the broker did not confirm the subscription in time")
}
