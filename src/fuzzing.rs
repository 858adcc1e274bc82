//! What the fuzz targets run; not part of the API.
//!
//! The bytes of the fuzzer stand for what a broker sends and for what happens, in which order. What must hold whatever
//! they are is asserted here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::allowance::{weight, Allowance};
use crate::command::{
    Close, Command, Feed, Notice, Publish, Reply, ReplyPaths, Request, RequestId, Subscribe, Unfinished, Wanted, Wish,
};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::rpc::{Correlation, Key};
use crate::session::{Session, KEPT};
use crate::subscribe::Retained;
use crate::terms::Terms;
use crate::wire::peer::{decode_client_packet, Sent};
use crate::wire::{self, Codec, Inbound, Output, PacketId};
use crate::{Error, Filter, Message, Options, QoS, Topic, Version};

/// The decoder, fed in pieces, with a small and a large limit.
pub fn wire(data: &[u8]) {
    let mut input = Input(data);
    let count = usize::from(input.byte() % 8);
    let sizes: Vec<_> = input.take(count).iter().map(|size| usize::from(*size) + 1).collect();
    for version in VERSIONS {
        for limit in [SMALL, LARGE] {
            let whole = decode(version, input.0, &[usize::MAX], limit);
            let pieces = decode(version, input.0, &sizes, limit);
            assert_eq!(whole, pieces, "where the pieces end makes a difference");
        }
    }
}

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const SMALL: usize = 64;
const LARGE: usize = 1 << 20;

/// The packets in `bytes`, and whether they ended in an error.
fn decode(version: Version, mut bytes: &[u8], sizes: &[usize], limit: usize) -> (Vec<Inbound>, bool) {
    let mut codec = Codec::new(version, limit);
    let mut buf = BytesMut::new();
    let mut packets = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes.next().map_or(1, |size| *size).min(bytes.len());
        buf.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
        loop {
            let before = buf.len();
            match codec.decode(&mut buf) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return (packets, true),
            }
            assert!(buf.len() < before, "a packet came out of nothing");
        }
        match frame_length(&buf) {
            None => assert!(buf.len() < 5, "the length of a packet is in its first five bytes"),
            Some(length) => assert!(buf.len() < length, "a whole packet is there and was not taken"),
        }
        // Of a message that is too large the topic and the identifier are needed; an answer of MQTT 5 may be long.
        let most = if version == Version::V5 { 256 * 1024 } else { 2 + usize::from(u16::MAX) + 2 };
        assert!(buf.len() <= 5 + limit.max(most), "{} bytes are held", buf.len());
    }
    (packets, false)
}

fn frame_length(buf: &[u8]) -> Option<usize> {
    let end = buf.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0)?;
    let digits = buf[1..=end + 1].iter().rev();
    Some(end + 2 + digits.fold(0, |length, digit| length << 7 | usize::from(digit & 0x7f)))
}

/// The session, with callers, a broker that may send anything, and connections that come and go.
pub fn session(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    let mut steps = 0;
    while !input.is_empty() && !world.is_over && steps < MAX_STEPS {
        let times = match input.byte() {
            MANY => usize::from(input.byte() % 64) + 1,
            step => {
                world.step(step, &mut input);
                1
            }
        };
        let again = input;
        for _ in 1..times {
            input = again;
            let step = input.byte();
            world.step(step, &mut input);
        }
        world.take_answers();
        world.check();
        steps += times;
    }
    world.end();
}

/// Where the replies of a call come: mostly by one filter, sometimes by a second, sometimes to the agent's own topic.
fn reply_paths(input: &mut Input<'_>) -> Option<ReplyPaths> {
    let kind = input.byte();
    let reply_to = filter(input.pick(&FILTERS));
    let rejected_by = (kind & 7 == 1).then(|| filter(input.pick(&FILTERS)));
    (kind & 7 != 2).then_some(ReplyPaths { reply_to, rejected_by })
}

/// What the replies of a call are known by.
fn reply_key(input: &mut Input<'_>) -> Option<Box<Key>> {
    let key = [input.byte() % 4];
    let rule = match input.byte() % 8 {
        0 => Correlation::data(),
        1 => Correlation::topic("b"),
        2 => Correlation::topic("c"),
        3 => Correlation::by_key(key.to_vec(), |reply: &Message| {
            Some(reply.payload().slice(..1.min(reply.payload().len())))
        }),
        _ => Correlation::by_turns(),
    };
    rule.key(b"", || [key[0]; 16]).expect("a rule that needs no payload")
}

/// Keeps one input from taking seconds.
const MAX_STEPS: usize = 500;
/// The next step, up to 64 times.
const MANY: u8 = 0xff;
/// As many as the actor hands on in one turn.
const PACKETS: usize = 512;
/// Where reading stops, and what one more turn can add.
const MAX_ACKS: usize = 16_384 + PACKETS;

const ALIASES: u16 = 2;
const FILTERS: [&str; 8] = ["a", "a/+", "a/#", "+", "#", "$share/g/a", "b/c", "+/c"];
const TOPICS: [&str; 6] = ["a", "a/b", "b", "b/c", "$SYS/x", "/"];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
const OFFLINE: [Offline; 3] = [Offline::Wait, Offline::Fail, Offline::Queue];
const RETAINED: [Retained; 4] = [Retained::IfFirst, Retained::Include, Retained::Ignore, Retained::Only];
const STEPS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(3600),
];
/// Longer than any deadline that a caller sets.
const DAY: Duration = Duration::from_secs(24 * 3600);
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// The bytes of the fuzzer; zeros when they are used up.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// Someone who waits for an answer.
struct Caller {
    waiting: Waiting,
    /// When it must be there.
    deadline: Option<Instant>,
}

enum Waiting {
    Publish(Answer<Delivery>),
    Subscribe(Answer<Feed>),
    Request(RequestId, Answer<Vec<Message>>),
    Unsubscribe(Answer<()>),
    Close(Answer<Unfinished>),
}

/// A session and all around it.
struct World {
    session: Session,
    version: Version,
    codec: Codec,
    allowance: Arc<Allowance>,
    notices: mpsc::UnboundedSender<Notice>,
    notices_in: mpsc::UnboundedReceiver<Notice>,
    /// What came and is not decoded; what is encoded and not written.
    input: BytesMut,
    output: Output,
    now: Instant,
    is_connected: bool,
    is_over: bool,
    callers: Vec<Caller>,
    feeds: Vec<Feed>,
    requests: u64,
    /// What the broker has not answered.
    sent: VecDeque<Sent>,
    /// The identifiers of QoS 2 messages that came and were not released.
    unreleased: BTreeSet<PacketId>,
    max_packet_size: usize,
    max_in_flight: usize,
    max_queued: usize,
    /// Whether the last connection finds the session.
    keeps_session: bool,
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let (notices, notices_in) = mpsc::unbounded_channel();
        let version = input.pick(&VERSIONS);
        let options = Options::new("localhost")
            .version(version)
            .keep_alive(input.pick(&[Duration::ZERO, STEPS[3], STEPS[6]]))
            .write_timeout(STEPS[4])
            .reply_linger(input.pick(&[Duration::ZERO, STEPS[3]]))
            .max_in_flight(input.pick(&[1, 3, 100]))
            .max_queued(input.pick(&[2, 500]))
            .max_queued_bytes(100_000)
            .max_filters_per_subscribe(input.pick(&[1, 2, 100]))
            .max_packet_size(input.pick(&[256, LARGE]));
        let (max_in_flight, max_queued) = (options.max_in_flight.into(), options.max_queued);
        let allowance = Arc::new(Allowance::new(max_queued, options.max_queued_bytes));
        Self {
            session: Session::new(&options, Arc::default(), allowance.clone(), notices.clone()),
            codec: Codec::new(version, options.max_packet_size),
            version,
            allowance,
            notices,
            notices_in,
            input: BytesMut::new(),
            output: Output::parting(2),
            now: Instant::now(),
            is_connected: false,
            is_over: false,
            callers: Vec::new(),
            feeds: Vec::new(),
            requests: 0,
            sent: VecDeque::new(),
            unreleased: BTreeSet::new(),
            max_packet_size: options.max_packet_size,
            max_in_flight,
            max_queued,
            keeps_session: input.byte() % 2 == 1,
        }
    }

    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        if self.is_over {
            return;
        }
        match step % 20 {
            0 | 1 => self.publish(input),
            2 | 3 => self.subscribe(input),
            4 | 5 => self.request(input),
            6 => {
                let which = usize::from(input.byte());
                if !self.callers.is_empty() {
                    let caller = self.callers.swap_remove(which % self.callers.len());
                    self.leave(caller);
                }
            }
            7 => self.end_feed(input),
            8 => self.close(input),
            9 => {
                let (count, times) = (input.byte(), input.byte());
                let bytes = input.take(count.into()).repeat(usize::from(times) + 1);
                self.receive(&bytes);
            }
            10 | 11 => self.answer(input.byte()),
            12 | 13 => self.push(input),
            14 => {
                self.lose();
                self.connect(input.byte() % 2 == 1);
            }
            15 => self.lose(),
            16 => {
                let duration = input.pick(&STEPS);
                self.advance(duration);
            }
            // The clock moves and nobody looks: the process was stopped.
            17 => self.now += input.pick(&STEPS),
            18 => self.turn(),
            _ => match input.byte() {
                0xff => self.write(usize::MAX),
                0 => self.transmit(),
                1 => self.take_notices(),
                bytes => self.write(bytes.into()),
            },
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let topic = topic(input.pick(&TOPICS));
        let payload = Bytes::from_static(&ZEROS[..usize::from(input.byte()) * 400]);
        let (qos, offline, retain) = (input.pick(&QOS), input.pick(&OFFLINE), input.byte() % 2 == 1);
        let publish = wire::Publish { topic, payload, qos, retain, properties: None, lenient: false };
        let timeout = input.byte();
        let (mut deadline, mut reply, mut share) = (None, None, None);
        if timeout == 0xff {
            share = self.allowance.take(weight(&publish));
            if share.is_none() {
                return;
            }
        } else {
            let (sender, answer) = Reply::channel();
            let until = self.now + STEPS[usize::from(timeout) % STEPS.len()];
            self.callers.push(Caller { waiting: Waiting::Publish(answer), deadline: Some(until) });
            (deadline, reply) = (Some(until), Some(sender));
        }
        let publish = Publish { publish, expires: deadline, offline, deadline, reply, share };
        self.session.handle_command(Command::Publish(publish), self.now);
    }

    fn subscribe(&mut self, input: &mut Input<'_>) {
        let chosen = input.byte();
        // A bit for each filter; with none, one that nobody else has.
        let mut filters: Vec<_> = FILTERS
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| chosen >> bit & 1 == 1)
            .map(|(_, text)| filter(text))
            .collect();
        if filters.is_empty() {
            self.requests += 1;
            filters.push(filter(&format!("only/{}", self.requests)));
        }
        let (reply, answer) = Reply::channel();
        let (qos, retained, offline) = (input.pick(&QOS), input.pick(&RETAINED), input.pick(&OFFLINE));
        let deadline = self.now + input.pick(&STEPS);
        self.callers.push(Caller { waiting: Waiting::Subscribe(answer), deadline: Some(deadline) });
        let wish = Wish::new(qos, retained);
        let subscribe = Subscribe { filters, wish, capacity: 4, offline, deadline, reply };
        self.session.handle_command(Command::Subscribe(subscribe), self.now);
    }

    fn request(&mut self, input: &mut Input<'_>) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let (reply, answer) = Reply::channel();
        let deadline = self.now + input.pick(&STEPS);
        self.callers.push(Caller { waiting: Waiting::Request(id, answer), deadline: Some(deadline) });
        let (topic, payload) = (topic(input.pick(&TOPICS)), Bytes::from_static(b"question"));
        let request = Request {
            id,
            publish: wire::Publish {
                topic,
                payload,
                qos: input.pick(&QOS),
                retain: false,
                properties: None,
                lenient: false,
            },
            reply_to: reply_paths(input),
            key: reply_key(input),
            wanted: match input.byte() {
                count @ 0x80.. => Wanted::UpTo(usize::from(count % 4) + 1),
                count @ 0x70.. => Wanted::Each(broadcast::channel(usize::from(count % 4) + 1).0),
                count => Wanted::Exactly(usize::from(count % 4) + 1),
            },
            offline: input.pick(&OFFLINE),
            deadline,
            reply,
        };
        self.session.handle_command(Command::Request(request), self.now);
    }

    /// What dropping a future does.
    fn leave(&mut self, caller: Caller) {
        if let Waiting::Request(id, answer) = caller.waiting {
            drop(answer);
            let _ = self.notices.send(Notice::RequestGone(id));
        }
    }

    fn end_feed(&mut self, input: &mut Input<'_>) {
        let (which, calls) = (usize::from(input.byte()), input.byte() % 2 == 1);
        if self.feeds.is_empty() {
            return;
        }
        let feed = self.feeds.swap_remove(which % self.feeds.len());
        if calls {
            let answer = feed.guard.unsubscribe();
            self.callers.push(Caller { waiting: Waiting::Unsubscribe(answer), deadline: None });
        }
    }

    fn close(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let until = self.now + input.pick(&STEPS);
        match kind % 8 {
            0 => {
                for caller in std::mem::take(&mut self.callers) {
                    self.leave(caller);
                }
                self.session.handle_abandoned(until);
            }
            kind @ 1..=4 => {
                let (reply, answer) = Reply::channel();
                self.callers.push(Caller { waiting: Waiting::Close(answer), deadline: None });
                let drain_until = (kind > 1).then_some(until);
                let _ = self.notices.send(Notice::Close(Close { drain_until, reply }));
                self.take_notices();
            }
            // The end should not be what most inputs come to.
            _ => {}
        }
    }

    /// Bytes from the broker. Where no more may be read they stay with it.
    fn receive(&mut self, bytes: &[u8]) {
        if !self.is_connected || !self.session.wants_read() {
            return;
        }
        self.input.extend_from_slice(bytes);
        self.session.handle_received(self.now);
        for _ in 0..PACKETS {
            match self.codec.decode(&mut self.input) {
                Ok(None) => break,
                Err(_) => return self.lose(),
                Ok(Some(inbound)) => {
                    self.note_inbound(&inbound);
                    if self.session.handle_inbound(inbound, self.now).is_err() {
                        return self.lose();
                    }
                }
            }
        }
    }

    fn note_inbound(&mut self, inbound: &Inbound) {
        match inbound {
            Inbound::Publish(incoming) if incoming.qos == QoS::ExactlyOnce => {
                self.unreleased.insert(incoming.id);
            }
            Inbound::Oversized { qos: QoS::ExactlyOnce, id, .. } => {
                self.unreleased.insert(*id);
            }
            Inbound::PubRel(id) => {
                self.unreleased.remove(id);
            }
            _ => {}
        }
    }

    /// What a broker says to something that was sent; high values of `how` refuse.
    fn answer(&mut self, how: u8) {
        if self.sent.is_empty() {
            return;
        }
        let refuses = how >= 0xe0;
        let Some(sent) = self.sent.remove(usize::from(how % 8) % self.sent.len()) else { return };
        let id = |first: u8, id: PacketId| vec![first, 2, (id >> 8) as u8, id as u8];
        let bytes = match sent {
            Sent::Publish { qos: QoS::AtLeastOnce, id, .. } if refuses => {
                vec![0x40, 3, (id >> 8) as u8, id as u8, 0x87]
            }
            Sent::Publish { qos: QoS::ExactlyOnce, id, .. } if refuses => {
                vec![0x50, 3, (id >> 8) as u8, id as u8, 0x87]
            }
            Sent::Publish { qos: QoS::AtLeastOnce, id: of, .. } => id(0x40, of),
            Sent::Publish { qos: QoS::ExactlyOnce, id: of, .. } => id(0x50, of),
            Sent::PubRec(of) => id(0x62, of),
            Sent::PubRel(of) => id(0x70, of),
            Sent::Subscribe(id, filters) => {
                let codes = filters.iter().map(|(_, qos)| if refuses { 0x80 } else { *qos as u8 });
                let mut bytes = vec![0x90];
                let properties = self.properties();
                put_length(&mut bytes, 2 + properties.len() + filters.len());
                bytes.extend([(id >> 8) as u8, id as u8].iter().chain(properties));
                bytes.extend(codes);
                bytes
            }
            Sent::Unsubscribe(of, filters) if self.version == Version::V5 => {
                let mut bytes = vec![0xb0];
                put_length(&mut bytes, 3 + filters.len());
                bytes.extend([(of >> 8) as u8, of as u8, 0]);
                bytes.extend(filters.iter().map(|_| if refuses { 0x80 } else { 0 }));
                bytes
            }
            Sent::Unsubscribe(of, _) => id(0xb0, of),
            Sent::PingReq => vec![0xd0, 0],
            Sent::Publish { .. } | Sent::PubAck(_) | Sent::PubComp(_) | Sent::Disconnect => return,
        };
        self.receive(&bytes);
    }

    /// A message of the broker.
    fn push(&mut self, input: &mut Input<'_>) {
        let (flags, topic, id, size) = (input.byte() & 0x0f, input.pick(&TOPICS), input.byte(), input.byte());
        let mut packet = vec![0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        if flags & 0b0110 != 0 {
            packet.extend_from_slice(&[0, id]);
        }
        packet.extend_from_slice(self.properties());
        packet.resize(packet.len() + usize::from(size), 0);
        let mut bytes = vec![0x30 | flags];
        put_length(&mut bytes, packet.len());
        bytes.extend_from_slice(&packet);
        self.receive(&bytes);
    }

    /// No properties, where there is a place for them.
    fn properties(&self) -> &'static [u8] {
        match self.version {
            Version::V5 => &[0],
            _ => &[],
        }
    }

    fn connect(&mut self, session_present: bool) {
        self.is_connected = true;
        self.codec = Codec::new(self.version, self.max_packet_size);
        self.codec.assign_aliases(ALIASES);
        let terms = Terms { topic_alias_maximum: ALIASES, ..Terms::implied(self.version, "fuzz") };
        self.session.handle_connected(session_present, Arc::new(terms), self.now);
        if !session_present {
            self.unreleased.clear();
        }
    }

    fn lose(&mut self) {
        self.is_connected = false;
        self.input.clear();
        self.output = Output::parting(2);
        self.sent.clear();
        self.session.handle_disconnected(self.now);
    }

    fn take_notices(&mut self) {
        while let Ok(notice) = self.notices_in.try_recv() {
            self.session.handle_notice(notice, self.now);
        }
    }

    fn transmit(&mut self) {
        let before = self.output.len();
        self.session.poll_transmit(&mut self.codec, &mut self.output, self.now);
        assert!(self.is_connected || self.output.is_empty(), "bytes for nobody");
        let mut fresh = self.output.to_bytes().split_off(before);
        while let Some((packet, _)) = decode_client_packet(self.version, &mut fresh).expect("what was encoded") {
            self.sent.push_back(packet);
        }
        assert!(fresh.is_empty(), "half a packet was encoded");
    }

    fn write(&mut self, bytes: usize) {
        let bytes = bytes.min(self.output.len());
        if bytes > 0 {
            self.output.advance(bytes);
            self.session.handle_written(bytes, self.now);
        }
    }

    /// What the actor does at each look, but for reading and writing.
    fn turn(&mut self) {
        self.take_notices();
        while self.session.handle_timeout(self.now).is_err() {
            assert!(self.is_connected, "a connection that is lost cannot be given up");
            self.lose();
        }
        self.transmit();
        self.take_answers();
        if self.session.is_finished(self.now) {
            return self.finish();
        }
        let late = self.callers.iter().filter(|caller| caller.deadline.is_some_and(|deadline| deadline <= self.now));
        assert_eq!(late.count(), 0, "a caller waits beyond its deadline");
        let next = self.session.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "asked for the same moment again: a busy loop");
    }

    /// Moves the clock, stopping wherever the session wants to be asked.
    fn advance(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.turn();
            if self.is_over {
                return;
            }
        }
        self.now = self.now.max(until);
    }

    fn finish(&mut self) {
        self.is_over = true;
        let (replies, unfinished) = self.session.finish();
        replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
        self.feeds.clear();
        self.take_answers();
        assert!(self.callers.is_empty(), "someone had no answer");
    }

    fn take_answers(&mut self) {
        let Self { callers, feeds, .. } = self;
        callers.retain_mut(|caller| match &mut caller.waiting {
            Waiting::Publish(answer) => answered(answer).is_none(),
            Waiting::Request(_, answer) => answered(answer).is_none(),
            Waiting::Unsubscribe(answer) => answered(answer).is_none(),
            Waiting::Close(answer) => answered(answer).is_none(),
            Waiting::Subscribe(answer) => match answered(answer) {
                None => true,
                Some(feed) => {
                    feeds.extend(feed);
                    false
                }
            },
        });
    }

    fn check(&self) {
        if self.is_over {
            return;
        }
        let held = self.session.held();
        assert!(held.acks <= MAX_ACKS, "{held:?}");
        assert!(held.published + held.released <= self.max_in_flight, "{held:?}");
        assert!(held.requests == held.requests_by_id && held.filters == held.routed, "{held:?}");
        self.session.assert_covers();
    }

    /// Everyone leaves, and time passes: little may be left. A broker that answers all takes the rest.
    fn end(mut self) {
        if self.is_over {
            return;
        }
        for caller in std::mem::take(&mut self.callers) {
            // Who waits for the end stays.
            match caller.waiting {
                Waiting::Close(_) => self.callers.push(caller),
                _ => self.leave(caller),
            }
        }
        self.feeds.clear();
        self.turn();
        if self.is_over {
            return;
        }
        self.advance(DAY);
        if self.is_over {
            return;
        }
        assert!(!self.session.is_closing(), "the end never came");
        self.turn();
        self.lose();
        self.check_idle();
        self.connect(self.keeps_session);
        for id in std::mem::take(&mut self.unreleased) {
            self.receive(&[0x62, 2, (id >> 8) as u8, id as u8]);
            self.settle();
        }
        self.settle();
        self.lose();
        self.session.assert_empty();
        let held = self.session.held();
        assert_eq!(held.deadlines, 0, "{held:?}");
    }

    /// Nobody waits for anything, all deadlines are over, and there is no connection.
    fn check_idle(&self) {
        let held = self.session.held();
        let of_callers = (held.calls, held.requests, held.reply_queues, held.subscribers, held.deadlines);
        assert_eq!(of_callers, (0, 0, 0, 0, 0), "{held:?}");
        let of_connection = (held.acks, held.unwritten, held.repeat, held.asked);
        assert_eq!(of_connection, (0, 0, 0, 0), "{held:?}");
        assert!(held.queued <= self.max_queued, "{held:?}");
        assert!(held.places <= 2 * held.queued + KEPT, "{held:?}");
        assert!(held.due <= 2 * held.filters + 64, "{held:?}");
    }

    fn settle(&mut self) {
        loop {
            self.transmit();
            self.write(usize::MAX);
            if self.sent.is_empty() {
                return;
            }
            while !self.sent.is_empty() {
                self.answer(0);
            }
        }
    }
}

fn answered<T>(answer: &mut Answer<T>) -> Option<Result<T, Error>> {
    match answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => panic!("an answer slot was dropped in silence"),
    }
}

fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a valid topic")
}

fn filter(text: &str) -> Filter {
    Filter::new(text).expect("a valid filter")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of which many mean something to the target.
    fn inputs(count: usize, length: usize, common: &'static [u8]) -> impl Iterator<Item = Vec<u8>> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..count).map(move |_| {
            let length = random.usize(..length);
            let byte = |random: &mut fastrand::Rng| match random.bool() {
                true => common[random.usize(..common.len())],
                false => random.u8(..),
            };
            (0..length).map(|_| byte(&mut random)).collect()
        })
    }

    #[test]
    fn any_bytes_can_go_into_the_decoder() {
        let common = &[0x20, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0, 1, 2, 3, 5, 0x80, b'a'];
        for input in inputs(20_000, 120, common) {
            wire(&input);
        }
    }

    #[test]
    fn any_history_leaves_nothing_behind() {
        let common = &[0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 14, 16, 18, 19, 0x40, 0x50, 0x62, 0xff];
        for input in inputs(4_000, 400, common) {
            session(&input);
        }
    }

    #[test]
    fn a_flood_of_what_wants_an_answer_stops_at_the_bound() {
        let flood = [MANY, 63, 9, 4, 255, 0x62, 2, 0, 1];
        session(&[&[0; 8][..], &[14, 0], &flood, &flood].concat());
    }
}
