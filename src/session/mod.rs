//! The MQTT session as a state machine without I/O.
//!
//! Inputs are `handle_*`: a command, a packet, a connection made or lost, time passed. Outputs are `poll_*`: the bytes
//! to send, the next deadline. It never awaits and never reads a clock, so a test can drive it step by step. Answers
//! to callers and messages to streams go out through channels that take them without waiting.
//!
//! One file per subject, each an `impl Session` beside the state it keeps: `publish` (sending, acknowledgements, replay),
//! `receive` (incoming messages and their acknowledgements), `holds` (acknowledgements that are kept back),
//! `subscriptions`, `shared`, `covers` and `subscribe` (filters and who shares them), `request` (calls and their
//! replies), `close`. Below them, knowing nothing of a session: `in_flight` (packet identifiers), `deadlines`,
//! `keep_alive`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::allowance::Allowance;
use crate::command::{Command, Notice, SubscriberKey};
use crate::options::{Options, FAR};
use crate::stats::Counters;
use crate::terms::Terms;
use crate::wire::{Codec, Inbound, Outbound, Output, Refused};
use crate::Error;

#[cfg(any(fuzzing, test))]
mod census;
mod close;
mod covers;
mod deadlines;
mod holds;
mod in_flight;
mod keep_alive;
mod publish;
mod receive;
mod request;
mod shared;
mod subscribe;
mod subscriptions;
mod terms;
#[cfg(test)]
#[allow(clippy::duplicate_mod, reason = "the same tests for each version")]
mod tests;

use close::Closing;
use deadlines::Deadlines;
use in_flight::{InFlight, On};
use keep_alive::{KeepAlive, Pulse};
use publish::{CallKey, Outgoing, Publishes};
use receive::Receiving;
use request::{RequestKey, Requests};
use subscriptions::{FilterKey, Subscriptions};

#[derive(Debug)]
pub(crate) struct Session {
    limits: Limits,
    connection: Option<Liveness>,
    in_flight: InFlight<Entry>,
    publishes: Publishes,
    receiving: Receiving,
    subscriptions: Subscriptions,
    requests: Requests,
    deadlines: Deadlines<Due>,
    /// Reply filters that go unless they are used again: apart, as they are there when nobody waits for anything.
    lingering: Deadlines<SubscriberKey>,
    closing: Option<Closing>,
    counters: Arc<Counters>,
}

/// What the session takes from the options.
#[derive(Debug, Clone)]
struct Limits {
    keep_alive: Duration,
    write_timeout: Duration,
    max_in_flight: usize,
    max_filters_per_subscribe: usize,
    reply_linger: Duration,
    /// The broker keeps the session between connections.
    is_kept: bool,
}

/// What a packet identifier stands for.
#[derive(Debug)]
enum Entry {
    Publish(Outgoing),
    Subscribe(Vec<FilterKey>),
    Unsubscribe(Vec<FilterKey>),
}

/// Whose time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Publish(CallKey),
    Subscribe(SubscriberKey),
    Request(RequestKey),
}

/// What there is to know of the connection: what it allows, what was written to it, when it last showed a sign of life.
#[derive(Debug)]
struct Liveness {
    /// What the broker allows on it.
    terms: Arc<Terms>,
    keep_alive: KeepAlive,
    ping_due: bool,
    /// Bytes encoded for, and bytes written to, this connection.
    encoded: u64,
    written: u64,
    /// Since when the oldest unwritten byte has not moved.
    blocked_since: Option<Instant>,
}

/// Bytes that may wait in the write buffer before encoding stops: enough for one large write.
const WRITE_AHEAD: usize = 64 * 1024;

impl Session {
    /// `notices` is the lane on which guards report that a subscriber is gone.
    pub(crate) fn new(
        options: &Options,
        counters: Arc<Counters>,
        allowance: Arc<Allowance>,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> Self {
        let limits = Limits {
            // The wire carries whole seconds.
            keep_alive: Duration::from_secs(options.keep_alive.as_secs()),
            write_timeout: options.write_timeout.min(FAR),
            max_in_flight: options.max_in_flight.into(),
            max_filters_per_subscribe: options.max_filters_per_subscribe,
            reply_linger: options.reply_linger.min(FAR),
            is_kept: !options.clean_session,
        };
        Self {
            limits,
            connection: None,
            in_flight: InFlight::new(options.first_packet_id()),
            publishes: Publishes::new(allowance),
            receiving: Receiving::new(options.holds),
            subscriptions: Subscriptions::new(notices, options.first_identifier()),
            requests: Requests::new(),
            deadlines: Deadlines::new(),
            lingering: Deadlines::new(),
            closing: None,
            counters,
        }
    }

    pub(crate) fn handle_command(&mut self, command: Command, now: Instant) {
        if self.closing.is_some() {
            // Dropping a command answers it "closed".
            return;
        }
        match command {
            Command::Publish(publish) => self.handle_publish(publish, now),
            Command::Subscribe(subscribe) => self.handle_subscribe(subscribe, now),
            Command::Request(request) => self.handle_request(request, now),
        }
    }

    pub(crate) fn handle_notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Close(close) => self.handle_close(close),
            Notice::SubscriberGone(subscriber) => self.remove_subscriber(subscriber, None),
            Notice::Unsubscribe(subscriber, reply) => self.remove_subscriber(subscriber, Some(reply)),
            Notice::RequestGone(id) => self.forget_request(id, now),
            Notice::Settled(hold, settled) => self.settle_hold(hold, settled),
        }
    }

    /// A CONNACK came. Without a session at the broker everything it knew of us is asked for anew.
    pub(crate) fn handle_connected(&mut self, session_present: bool, terms: Arc<Terms>, now: Instant) {
        // MQTT-3.2.2-21: the broker's word on the keep alive counts.
        let keep_alive = terms.keep_alive.unwrap_or(self.limits.keep_alive);
        self.connection = Some(Liveness {
            terms,
            keep_alive: KeepAlive::new(keep_alive, now),
            ping_due: false,
            encoded: 0,
            written: 0,
            blocked_since: None,
        });
        if !session_present {
            self.receiving.forget_session();
        }
        self.resume_publishes(session_present, now);
        self.subscriptions.set_covering(self.covers());
        self.resume_subscriptions(session_present);
        self.resume_requests(session_present, now);
    }

    /// The connection is gone, with all that was written but not acknowledged on it in doubt.
    pub(crate) fn handle_disconnected(&mut self, now: Instant) {
        let Some(connection) = self.connection.take() else { return };
        // An acknowledgement sent on the next connection could name another message (MQTT-4.3.2 and 4.3.3 start anew).
        self.receiving.forget_connection();
        self.suspend_publishes(connection.written, now);
        self.suspend_subscriptions();
        self.suspend_requests(now);
    }

    pub(crate) fn handle_inbound(&mut self, inbound: Inbound, now: Instant) -> Result<(), Error> {
        match inbound {
            Inbound::Publish(incoming) => self.handle_incoming(incoming, now),
            Inbound::Oversized { qos, id, size } => self.handle_oversized(qos, id, size),
            Inbound::PubAck { id, reason } => self.handle_puback(id, &reason, now),
            Inbound::PubRec { id, reason } => self.handle_pubrec(id, &reason, now),
            Inbound::PubRel(id) => self.receiving.handle_pubrel(id),
            Inbound::PubComp(id) => self.handle_pubcomp(id, now),
            Inbound::SubAck { id, granted } => return self.handle_suback(id, granted, now),
            Inbound::UnsubAck { id, reasons } => self.handle_unsuback(id, &reasons),
            Inbound::PingResp => {}
            Inbound::Disconnect(Refused { reason, server_reference }) => {
                return Err(Error::disconnected(&reason).with_server_reference(server_reference))
            }
            Inbound::ConnAck(_) => return Err(Error::protocol("the broker sent a second CONNACK")),
            Inbound::Auth { .. } => return Err(Error::protocol("the broker sent an AUTH that nobody asked for")),
        }
        Ok(())
    }

    /// Bytes came; whatever they are, the peer is alive.
    pub(crate) fn handle_received(&mut self, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.keep_alive.handle_received(now);
        }
    }

    /// Bytes went out.
    pub(crate) fn handle_written(&mut self, bytes: usize, now: Instant) {
        let Some(connection) = &mut self.connection else { return };
        connection.keep_alive.handle_sent(now);
        connection.written += bytes as u64;
        connection.blocked_since = (connection.written < connection.encoded).then_some(now);
        let written = connection.written;
        self.settle_written(written);
    }

    /// Whether more bytes may be read: not while so many acknowledgements wait that a peer which never reads could
    /// make them grow without bound, nor while a subscription that loses nothing is full.
    pub(crate) fn wants_read(&self) -> bool {
        self.receiving.has_room() && (self.receiving.may_hold() || self.is_leaving())
    }

    /// Encodes what may go out now, as far as the buffer should be filled. Acknowledgements first: the peer waits for
    /// them. The ping before what may never run out. Then what was in flight on the last connection, in its old order.
    /// Then SUBSCRIBE before PUBLISH, so that a request cannot overtake the filter its reply comes by.
    ///
    /// Whether it stopped for want of room.
    pub(crate) fn poll_transmit(&mut self, codec: &mut Codec, output: &mut Output, now: Instant) -> bool {
        if self.connection.is_none() || self.has_said_goodbye() {
            return false;
        }
        let overdue = self.is_overdue(now);
        let before = output.len();
        let base = self.connection.as_ref().map_or(0, |connection| connection.encoded);
        while output.len() < WRITE_AHEAD {
            let sent = self.receiving.transmit(codec, output)
                || self.transmit_ping(codec, output)
                || (!overdue && self.transmit_repeated(codec, output, now))
                || self.transmit_filters(codec, output, now)
                || (!overdue && self.transmit_queued(codec, output, base.wrapping_sub(before as u64), now));
            if !sent {
                break;
            }
        }
        let is_full = output.len() >= WRITE_AHEAD;
        // Whatever room there is: the end has a deadline.
        self.transmit_disconnect(codec, output, now);
        if let Some(connection) = &mut self.connection {
            connection.encoded += (output.len() - before) as u64;
            if output.len() > before {
                connection.blocked_since.get_or_insert(now);
            }
        }
        is_full
    }

    /// Brings the counters of what is held now up to date.
    pub(crate) fn count(&self) {
        self.counters.queued().set(self.publishes.len());
        self.counters.in_flight().set(self.in_flight.len(On::Published) + self.in_flight.len(On::Released));
        self.counters.pending_requests().set(self.requests.len());
        self.counters.filters().set(self.subscriptions.filters.len());
        self.counters.subscribers().set(self.subscriptions.subscribers.len());
    }

    fn transmit_ping(&mut self, codec: &mut Codec, output: &mut Output) -> bool {
        let due = self.connection.as_mut().is_some_and(|connection| std::mem::take(&mut connection.ping_due));
        if due {
            codec.encode(Outbound::PingReq, output);
        }
        due
    }

    /// Time passed. An error means that the connection is to be given up.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(due) = self.deadlines.pop_due(now) {
            match due {
                Due::Publish(call) => self.expire_publish(call),
                Due::Subscribe(subscriber) => self.expire_subscribe(subscriber),
                Due::Request(request) => self.expire_request(request, now),
            }
        }
        while let Some(subscriber) = self.lingering.pop_due(now) {
            self.expire_linger(subscriber, now);
        }
        let reads = self.wants_read();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.keep_alive.handle_reading(reads, now);
        if connection.blocked_since.is_some_and(|since| since + self.limits.write_timeout <= now) {
            return Err(Error::connection("the broker took no byte for the write timeout"));
        }
        match connection.keep_alive.handle_timeout(now) {
            Pulse::Fine => {}
            Pulse::Ask => connection.ping_due = true,
            Pulse::Dead => {
                return Err(Error::connection("the broker was silent for one and a half keep-alive intervals"))
            }
        }
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do next, unless there is input before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let connection = self.connection.as_ref();
        let blocked = connection.and_then(|connection| connection.blocked_since);
        [
            self.deadlines.next(),
            self.lingering.next(),
            connection.and_then(|connection| connection.keep_alive.next()),
            blocked.map(|since| since + self.limits.write_timeout),
            self.closing.as_ref().and_then(Closing::deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether a filter that another one covers is not left subscribed: a message that comes twice says nothing of why.
    fn covers(&self) -> bool {
        !self.terms().is_some_and(Terms::has_identifiers)
    }

    fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// What the broker allows, while there is a connection.
    fn terms(&self) -> Option<&Terms> {
        self.connection.as_ref().map(|connection| &*connection.terms)
    }

    fn arm(&mut self, at: Instant, due: Due) {
        let (deadlines, is_live) = self.deadlines();
        deadlines.push(at, due, is_live);
    }

    fn arm_linger(&mut self, at: Instant, subscriber: SubscriberKey) {
        let Self { lingering, subscriptions, .. } = self;
        lingering.push(at, subscriber, |subscriber| subscriptions.contains(subscriber));
    }

    /// Where nobody waits, most deadlines are of what is finished: they need not be kept until then, nor wake anybody.
    pub(crate) fn rest(&mut self) {
        if self.publishes.has_no_calls() && self.requests.len() == 0 {
            let (deadlines, is_live) = self.deadlines();
            deadlines.rest(is_live);
        }
    }

    /// The deadlines, and what tells whether one still matters.
    fn deadlines(&mut self) -> (&mut Deadlines<Due>, impl Fn(Due) -> bool + '_) {
        let Self { deadlines, publishes, subscriptions, requests, .. } = self;
        let is_live = |due| match due {
            Due::Publish(call) => publishes.is_pending(call),
            Due::Subscribe(subscriber) => subscriptions.is_pending(subscriber),
            Due::Request(request) => requests.is_pending(request),
        };
        (deadlines, is_live)
    }
}
