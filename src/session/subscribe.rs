//! SUBSCRIBE and UNSUBSCRIBE, their answers, and the way of a message to those who want it.

use std::hash::BuildHasher;

use bytes::BytesMut;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::in_flight::On;
use super::subscriptions::{FilterKey, LinkState, Shared, Sink, Step, Subscriptions};
use super::{Due, Entry, Session};
use crate::command::{self, Feed, Reply, SubscriberGuard, SubscriberKey};
use crate::options::Offline;
use crate::wire::{self, Codec, Outbound, PacketId};
use crate::{Error, Message, QoS};

/// Keeps one packet well below the limits that brokers set.
const MAX_BATCH_BYTES: usize = 32 * 1024;

impl Session {
    pub(super) fn handle_subscribe(&mut self, command: command::Subscribe, now: Instant) {
        let command::Subscribe { filters, qos, retained, capacity, offline, deadline, reply } = command;
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
        // One more place than there may be messages, for a refusal.
        let (events, first) = broadcast::channel(capacity + usize::from(self.receiving.is_holding()));
        let sink = Sink::Pending { offline, events, first, reply };
        let subscriber = self.subscriptions.add(sink, &filters, qos, retained);
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

    fn fail_subscriber(&mut self, key: SubscriberKey, error: Error) {
        let subscriber = self.subscriptions.remove(key, None);
        if let Some(Sink::Pending { reply, .. }) = subscriber.map(|subscriber| subscriber.sink) {
            reply.send(Err(error));
        }
    }

    pub(super) fn remove_subscriber(&mut self, key: SubscriberKey, reply: Option<Reply<()>>) {
        self.subscriptions.remove(key, reply);
    }

    /// Sends one SUBSCRIBE or UNSUBSCRIBE for as many of the due filters as fit.
    pub(super) fn transmit_filters(&mut self, codec: &Codec, buf: &mut BytesMut) -> bool {
        if self.in_flight.is_full() {
            // An acknowledgement frees one.
            return false;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut kind = Step::Settled;
        while let Some(&key) = self.subscriptions.due.front() {
            let due = self.subscriptions.filters.get(key).filter(|shared| shared.step == Step::Due);
            let next = match due {
                Some(shared) if shared.needs_subscribe() => Some((shared, Step::Subscribing)),
                Some(shared) if shared.needs_unsubscribe() => Some((shared, Step::Unsubscribing)),
                _ => None,
            };
            let Some((shared, step)) = next else {
                // Forgotten, or wanted again before it was unsubscribed.
                let is_due = due.is_some();
                self.subscriptions.due.pop_front();
                if is_due {
                    self.subscriptions.settle(key);
                }
                continue;
            };
            bytes += wire::filter_size(&shared.filter);
            if batch.is_empty() {
                kind = step;
            } else if kind != step || bytes > MAX_BATCH_BYTES {
                break;
            }
            batch.push(key);
            self.subscriptions.due.pop_front();
            // At once: it may stand in the list twice, and what is settled next may look at it.
            self.subscriptions.filters[key].handle_batched(step);
            if batch.len() >= self.limits.max_filters_per_subscribe {
                break;
            }
        }
        match kind {
            Step::Subscribing => self.transmit_subscribe(batch, codec, buf),
            Step::Unsubscribing => self.transmit_unsubscribe(batch, codec, buf),
            Step::Settled | Step::Due => false,
        }
    }

    fn transmit_subscribe(&mut self, batch: Vec<FilterKey>, codec: &Codec, buf: &mut BytesMut) -> bool {
        let shared = |key: &FilterKey| &self.subscriptions.filters[*key];
        let filters: Vec<_> = batch.iter().map(|key| (shared(key).filter.clone(), shared(key).wanted())).collect();
        for (key, (_, qos)) in batch.iter().zip(&filters) {
            self.subscriptions.filters[*key].handle_asked(*qos);
        }
        let Ok(id) = self.in_flight.insert(On::Asked, Entry::Subscribe(batch)) else { return false };
        codec.encode(Outbound::Subscribe { id, filters: &filters }, buf);
        true
    }

    fn transmit_unsubscribe(&mut self, batch: Vec<FilterKey>, codec: &Codec, buf: &mut BytesMut) -> bool {
        let filters: Vec<_> = batch.iter().map(|key| self.subscriptions.filters[*key].filter.clone()).collect();
        let Ok(id) = self.in_flight.insert(On::Asked, Entry::Unsubscribe(batch)) else { return false };
        codec.encode(Outbound::Unsubscribe { id, filters: &filters }, buf);
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

    pub(super) fn handle_suback(&mut self, id: PacketId, granted: &[Option<QoS>], now: Instant) -> Result<(), Error> {
        let Some((_, Entry::Subscribe(batch))) = self.in_flight.get_mut(id) else { return Ok(()) };
        if batch.len() != granted.len() {
            // The connection ends by this; the next one asks again.
            return Err(Error::protocol("the broker sent a SUBACK for another number of filters"));
        }
        let Some(Entry::Subscribe(batch)) = self.in_flight.remove(id) else { return Ok(()) };
        for (key, granted) in batch.into_iter().zip(granted) {
            self.subscriptions.filters[key].step = Step::Settled;
            match granted {
                Some(qos) => self.handle_granted(key, *qos, now),
                None => self.handle_refused(key, now),
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

    fn handle_refused(&mut self, key: FilterKey, now: Instant) {
        let shared = &mut self.subscriptions.filters[key];
        let error = Error::subscribe_refused(shared.filter.as_str());
        shared.asked = shared.granted;
        let is_held = shared.granted;
        let is_parting = shared.cover.is_parting();
        let mut refused = Vec::new();
        for link in &mut shared.links {
            if link.state == LinkState::Asked {
                // What was granted once stays linked: a later grant, or the next connection, brings it back.
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
                Some(Sink::Replies(_)) => self.refuse_requests(subscriber, &error, now),
                Some(Sink::Stream(_)) | None => {}
            }
        }
    }

    pub(super) fn handle_unsuback(&mut self, id: PacketId) {
        let Some((_, Entry::Unsubscribe(_))) = self.in_flight.get_mut(id) else { return };
        let Some(Entry::Unsubscribe(batch)) = self.in_flight.remove(id) else { return };
        for key in batch {
            self.subscriptions.filters[key].handle_unsubscribed();
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

    /// Hands a message to each subscriber that wants it, once; whether there was one.
    pub(super) fn deliver(&mut self, message: &Message, now: Instant) -> bool {
        let Subscriptions { router, filters, subscribers, delivery, answered, hasher, .. } = &mut self.subscriptions;
        *delivery += 1;
        let topic = if message.is_retained() { hasher.hash_one(message.topic().as_str()) } else { 0 };
        let mut claimed = false;
        router.for_each_match(message.topic().as_str(), |key| {
            for link in filters.get_mut(*key).into_iter().flat_map(|shared| &mut shared.links) {
                if !link.accepts(message, topic) {
                    continue;
                }
                let Some(subscriber) = subscribers.get_mut(link.subscriber) else { continue };
                if std::mem::replace(&mut subscriber.delivery, *delivery) == *delivery {
                    continue;
                }
                claimed = true;
                match &subscriber.sink {
                    // An error means that nobody listens any more; the guard's word of it is on its way.
                    Sink::Pending { events, .. } | Sink::Stream(events) => drop(events.send(Ok(message.clone()))),
                    Sink::Replies(_) => answered.push(link.subscriber),
                }
            }
        });
        while let Some(subscriber) = self.subscriptions.answered.pop() {
            self.handle_reply(subscriber, message, now);
        }
        claimed
    }
}

fn no_suback() -> Error {
    Error::timeout("the broker did not confirm the subscription in time")
}
