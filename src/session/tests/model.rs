//! Random histories, checked against a plain model of a correct broker.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::command::SubscriberGuard;
use crate::Outcome;

mod broker;
mod checks;
mod history;

use broker::{payload, tag, Broker};
use history::{ops, Op};

/// One message of the client, as its caller sees it.
struct Call {
    tag: u32,
    qos: QoS,
    deadline: Option<Instant>,
    answer: Option<Waiting>,
    is_encoded: bool,
    /// Its caller left before it was encoded, or was told that it was not sent.
    is_banned: bool,
    /// For a request: where its reply comes, and its name.
    request: Option<(&'static str, RequestId)>,
}

enum Waiting {
    Publish(Answer<Delivery>),
    Request(Answer<Replies>),
}

struct Pending {
    filters: Vec<&'static str>,
    retained: Retained,
    deadline: Instant,
    answer: Answer<Feed>,
}

struct Stream {
    filters: Vec<&'static str>,
    events: tokio::sync::broadcast::Receiver<crate::command::Event>,
    guard: SubscriberGuard,
    retained: Retained,
    seen: BTreeSet<u32>,
    is_held: bool,
}

struct World {
    bench: Bench,
    broker: Broker,
    is_connected: bool,
    /// By tag.
    calls: Vec<Call>,
    /// The tag of the last publish that was sent for the first time.
    last_first: Option<u32>,
    /// The tags of all that was sent in this session, in the order of the first time.
    order: Vec<u32>,
    /// The place in that of the last one with DUP on this connection.
    last_dup: Option<usize>,
    /// The tags of the messages that reached the client.
    delivered: BTreeSet<u32>,
    pending: Vec<Pending>,
    streams: Vec<Stream>,
    goodbyes: Vec<Answer<()>>,
    closing: Option<(Answer<Unfinished>, Instant)>,
    is_over: bool,
    /// Messages are acknowledged when they are taken; there are no requests then.
    is_holding: bool,
}

const GOODBYE: Duration = Duration::from_secs(1);

impl World {
    fn new(holds: Option<usize>) -> Self {
        let bench = Bench::with(|options| {
            let options = options.holding(holds);
            let options = options.keep_alive(3 * SECOND).write_timeout(2 * SECOND).reply_linger(SECOND);
            options.max_in_flight(3).max_queued(12).max_filters_per_subscribe(2)
        });
        Self {
            bench,
            broker: Broker::default(),
            is_connected: false,
            calls: Vec::new(),
            last_first: None,
            last_dup: None,
            delivered: BTreeSet::new(),
            order: Vec::new(),
            pending: Vec::new(),
            streams: Vec::new(),
            goodbyes: Vec::new(),
            closing: None,
            is_over: false,
            is_holding: holds.is_some(),
        }
    }

    fn live(&mut self, ops: Vec<Op>, closes: bool) {
        for op in ops {
            if closes || !matches!(op, Op::Close(_)) {
                self.apply(op);
            }
        }
        self.end();
    }

    fn apply(&mut self, op: Op) {
        if self.is_over {
            return;
        }
        match op {
            Op::Publish { qos, offline, timeout, is_large } => self.publish(qos, offline, timeout, is_large),
            Op::Subscribe { filters, qos, retained, timeout } => {
                let answer = self.bench.subscribe_within(&filters, qos, retained, timeout);
                self.pending.push(Pending { filters, retained, deadline: self.bench.now + timeout, answer });
            }
            Op::Request { .. } if self.is_holding => {}
            Op::Request { reply_to, qos, offline, timeout } => self.request(reply_to, qos, offline, timeout),
            Op::Leave(which) => self.leave(which),
            Op::Unsubscribe(which, calls) => self.unsubscribe(which, calls),
            Op::Transmit => self.transmit(),
            Op::Write(bytes) => self.write(bytes),
            Op::Answer(which) => self.answer(which),
            Op::Push { topic, qos } => {
                if self.is_connected {
                    let message = self.broker.push(topic, qos);
                    self.broker.answers.extend(message);
                }
            }
            Op::Repeat(which) => {
                let waiting: Vec<_> = self.broker.outgoing.iter().filter(|sent| !sent.is_released).collect();
                if self.is_connected && !waiting.is_empty() {
                    let again = waiting[which % waiting.len()].publish(true);
                    self.broker.answers.push_back(again);
                }
            }
            Op::Lose => self.lose(),
            Op::Connect { keep } => self.connect(keep),
            Op::Advance(duration) => self.advance(duration),
            Op::Close(drain) => self.close(drain),
            Op::Settle => self.settle(100),
        }
        self.check();
    }

    fn publish(&mut self, qos: QoS, offline: Offline, timeout: Option<Duration>, is_large: bool) {
        let tag = self.calls.len() as u32;
        let deadline = timeout.map(|timeout| self.bench.now + timeout);
        // Without a deadline nobody waits, either.
        let (reply, answer) = Reply::channel();
        let (reply, answer) = deadline.map_or((None, None), |_| (Some(reply), Some(Waiting::Publish(answer))));
        let is_banned = self.closing.is_some();
        self.calls.push(Call { tag, qos, deadline, answer, is_encoded: false, is_banned, request: None });
        self.bench.publish_for(reply, payload(tag, is_large), qos, offline, deadline);
    }

    fn request(&mut self, reply_to: &'static str, qos: QoS, offline: Offline, timeout: Duration) {
        let (tag, deadline) = (self.calls.len() as u32, self.bench.now + timeout);
        let (reply, answer) = Reply::channel();
        let id = RequestId(tag.into());
        let (answer, request) = (Some(Waiting::Request(answer)), Some((reply_to, id)));
        self.calls.push(Call {
            tag,
            qos,
            deadline: Some(deadline),
            answer,
            is_encoded: false,
            is_banned: false,
            request,
        });
        self.bench.command(Command::Request(Box::new(Request {
            id,
            publish: Some(wire_publish("q", payload(tag, false), qos)),
            reply_to: Some(paths(reply_to)),
            key: None,
            wanted: Wanted::Exactly(1),
            offline,
            deadline,
            reply,
        })));
    }

    fn leave(&mut self, which: usize) {
        let callers = self.calls.iter().filter(|call| call.answer.is_some()).count();
        if which.is_multiple_of(4) || callers == 0 {
            if !self.pending.is_empty() {
                self.pending.swap_remove(which % self.pending.len());
            }
            return;
        }
        let call = self.calls.iter_mut().filter(|call| call.answer.is_some()).nth(which % callers).unwrap();
        call.answer = None;
        call.is_banned |= !call.is_encoded;
        if let Some((_, id)) = call.request {
            self.bench.session.handle_notice(Notice::RequestGone(id), self.bench.now);
        }
    }

    fn unsubscribe(&mut self, which: usize, calls: bool) {
        if self.streams.is_empty() {
            return;
        }
        let stream = self.streams.swap_remove(which % self.streams.len());
        if calls {
            self.goodbyes.push(stream.guard.unsubscribe());
        }
        drop(stream);
        self.bench.take_notices();
    }

    fn transmit(&mut self) {
        self.check_calls();
        for packet in self.bench.transmit() {
            let Sent::Publish { payload, dup, qos, .. } = packet else { continue };
            let tag = tag(&payload);
            let now = self.bench.now;
            let is_live = |call: &Call| call.answer.is_some();
            if let Some((filter, _)) = self.calls[tag as usize].request {
                let before = self.calls.iter().filter(|other| {
                    other.tag != tag && other.is_encoded && other.request.is_some_and(|(other, _)| other == filter)
                });
                let call = &self.calls[tag as usize];
                let is_owed = dup && qos == QOS2;
                let others = before.filter(|other| is_live(other)).count();
                assert!(others == 0 || is_owed, "request {tag} did not wait its turn");
                let is_asked = self.broker.brings(filter);
                assert!(call.is_encoded || is_asked, "request {tag} left before its filter was confirmed");
            }
            let call = &mut self.calls[tag as usize];
            assert!(!call.is_banned, "message {tag} was given up, and sent");
            let is_expired = call.deadline.is_some_and(|deadline| deadline <= now);
            assert!(!is_expired, "message {tag} was sent after its deadline");
            if !std::mem::replace(&mut call.is_encoded, true) {
                assert!(!dup, "the first time carries no DUP");
                self.order.push(tag);
                if call.request.is_none() {
                    assert!(self.last_first.replace(tag).is_none_or(|last| last < tag), "{tag} was out of order");
                }
            } else if !dup {
                let class = |other: &&u32| self.calls[**other as usize].qos == QOS1;
                let is_request = self.calls[tag as usize].request.is_some();
                let last = self.order.iter().rfind(class).filter(|_| qos == QOS1 && !is_request);
                assert!(last.is_none_or(|last| *last < tag), "{tag} was sent anew out of order");
                self.order.push(tag);
            } else {
                let at = self.order.iter().position(|other| *other == tag).unwrap();
                assert!(self.last_dup.replace(at).is_none_or(|last| last < at), "{tag} was repeated out of order");
            }
        }
    }

    fn write(&mut self, bytes: usize) {
        if !self.is_connected {
            return;
        }
        self.transmit();
        for packet in self.bench.write(bytes) {
            self.broker.handle(packet);
        }
    }

    fn answer(&mut self, which: usize) {
        if !self.is_connected || self.broker.answers.is_empty() || !self.bench.session.wants_read() {
            return;
        }
        let is_leaving = self.bench.session.is_leaving();
        // Acknowledgements may overtake each other, messages may not.
        let acks: Vec<_> = (0..self.broker.answers.len()).filter(|at| is_ack(&self.broker.answers[*at])).collect();
        let at = if which == 0 || acks.is_empty() { 0 } else { acks[which % acks.len()] };
        let inbound = self.broker.answers.remove(at).unwrap();
        self.broker.note_answered(&inbound);
        let arriving = match &inbound {
            Inbound::Publish(message) if !is_leaving => Some((message.topic.clone(), tag(&message.payload))),
            _ => None,
        };
        self.bench.receive(inbound);
        let Some((topic, tag)) = arriving.filter(|(_, tag)| self.delivered.insert(*tag)) else { return };
        let streams = self.streams.len();
        self.check_streams();
        for stream in &self.streams[..streams] {
            let fits = stream.filters.iter().any(|filter| Filter::new(*filter).unwrap().matches(topic.as_str()));
            let wants = fits && stream.retained != Retained::Only;
            assert_eq!(stream.seen.contains(&tag), wants, "message {tag} and a stream on {:?}", stream.filters);
        }
    }

    fn lose(&mut self) {
        if std::mem::take(&mut self.is_connected) {
            self.bench.lose_connection();
            self.broker.answers.clear();
            self.check();
        }
    }

    fn connect(&mut self, keep: bool) {
        self.lose();
        if self.is_over {
            return;
        }
        self.is_connected = true;
        self.last_dup = None;
        // A session that never was cannot be kept.
        self.broker.connect(keep);
        self.bench.session.handle_timeout(self.bench.now).unwrap();
        self.bench.connect(keep);
        if !keep {
            // What is sent again there is a new publish.
            self.order.clear();
            self.streams.iter_mut().for_each(|stream| stream.is_held = false);
        }
    }

    /// Every stop of the clock, with what the actor does at each.
    fn advance(&mut self, duration: Duration) {
        let until = self.bench.now + duration;
        while let Some(at) = self.bench.session.poll_timeout().filter(|at| *at <= until) {
            self.bench.now = self.bench.now.max(at);
            if self.bench.session.handle_timeout(self.bench.now).is_err() {
                self.lose();
            }
            self.transmit();
            self.check();
            if self.is_over {
                return;
            }
            let next = self.bench.session.poll_timeout();
            assert!(next.is_none_or(|next| next > self.bench.now), "asked for the same moment again: a busy loop");
        }
        self.bench.now = until;
    }

    fn close(&mut self, drain: Option<Duration>) {
        if self.closing.is_none() {
            let answer = self.bench.close(drain);
            self.closing = Some((answer, self.bench.now + drain.unwrap_or_default() + GOODBYE));
            self.transmit();
        }
    }

    /// The broker takes and answers all there is.
    fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.write(usize::MAX);
            if !self.is_connected || self.broker.answers.is_empty() {
                break;
            }
            self.check();
            if self.is_over {
                return;
            }
            // What was left unacknowledged may be in the way, until the next connection.
            while !self.broker.answers.is_empty() && self.is_connected && self.bench.session.wants_read() {
                self.answer(0);
            }
        }
        self.check();
        if self.is_connected && !self.is_over && self.broker.answers.is_empty() && self.bench.output.is_empty() {
            self.check_filters();
        }
    }

    /// Everyone leaves, and the broker is at its best.
    fn end(&mut self) {
        let now = self.bench.now;
        for call in &mut self.calls {
            if call.answer.take().is_some() {
                call.is_banned |= !call.is_encoded;
                if let Some((_, id)) = call.request {
                    self.bench.session.handle_notice(Notice::RequestGone(id), now);
                }
            }
        }
        self.pending.clear();
        self.streams.clear();
        self.bench.take_notices();
        if self.is_over {
            return;
        }
        if self.closing.is_some() {
            for _ in 0..8 {
                self.apply(Op::Settle);
                self.apply(Op::Advance(SECOND));
            }
            assert!(self.is_over, "the end never came");
            return;
        }
        if !self.is_connected {
            self.connect(true);
        }
        for _ in 0..4 {
            // In small steps, so that the keep-alive is content.
            for _ in 0..5 {
                self.settle(1000);
                self.advance(SECOND);
                if !self.is_connected {
                    self.connect(true);
                }
            }
        }
        self.settle(1000);
        if self.is_holding {
            // What nobody took is left to the broker, until it forgets the session.
            self.connect(false);
            self.settle(1000);
        }
        self.bench.has_nothing();
        assert_eq!(self.broker.subscriptions.len(), 0, "{:?}", self.broker.subscriptions);
        assert_eq!((self.broker.received.len(), self.broker.outgoing.len()), (0, 0));
    }
}

fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_suffix('#') {
        Some(above) => narrow.starts_with(above),
        None => narrow == wide || (!narrow.contains('#') && Filter::new(wide).unwrap().matches(narrow)),
    }
}

fn is_ack(inbound: &Inbound) -> bool {
    !matches!(inbound, Inbound::Publish(_) | Inbound::PubRel(_))
}

fn cases() -> u32 {
    std::env::var("MQTT_AGENT_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_promises(ops in ops(), closes in proptest::bool::weighted(0.3)) {
        World::new(None).live(ops, closes);
    }

    #[test]
    fn every_history_with_late_acknowledgements_keeps_the_promises(ops in ops(), closes in proptest::bool::weighted(0.3)) {
        World::new(Some(4)).live(ops, closes);
    }
}

#[test]
fn a_filter_that_was_not_confirmed_yet_is_not_missed_when_the_one_that_brought_its_messages_goes() {
    let subscribe = |filters: &[&'static str]| {
        let (filters, timeout) = (filters.to_vec(), Duration::from_millis(1));
        Op::Subscribe { filters, qos: QOS0, retained: Retained::IfFirst, timeout }
    };
    let before = [Op::Connect { keep: false }, subscribe(&["r/a"]), Op::Settle, subscribe(&["s/b"]), subscribe(&["s/a", "#"])];
    let after = [
        Op::Connect { keep: false },
        Op::Write(30),
        Op::Advance(Duration::from_millis(1)),
        Op::Connect { keep: true },
        Op::Write(23),
    ];
    World::new(Some(4)).live(before.into_iter().chain(after).collect(), false);
}
