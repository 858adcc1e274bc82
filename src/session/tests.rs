//! The session driven step by step: no socket, no task, and a clock that moves when told to.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::*;
use crate::command::{
    Close, Feed, Publish, Replies, Reply, ReplyPaths, Request, RequestId, Subscribe, Unfinished, Wanted, Wish,
};
use crate::options::Offline;
use crate::publish::Delivery;
use crate::reason::{Reason, ReasonCode};
use crate::subscribe::Retained;
use crate::terms::Version;
use crate::wire::peer::{decode_client_packet, plain, Carried, Sent};
use crate::wire::{self, Incoming, Output, PacketId};
use crate::{ErrorKind, Filter, Message, Outcome, Properties, QoS, Topic};

mod covering;
mod mqtt5;

/// The tests of what every version does, for one of them.
macro_rules! suite {
    ($name:ident, $level:literal) => {
        #[path = "tests"]
        mod $name {
            use super::*;

            type Bench = super::Bench<$level>;

            mod closing;
            mod correlating;
            mod holding;
            mod model;
            mod publishing;
            mod receiving;
            mod replaying;
            mod requesting;
            mod subscribing;
            mod timing;
        }
    };
}

suite!(v311, 4);
suite!(v5, 5);

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

/// A session, its clock, and its connection up to the socket, which speaks a version of this level.
struct Bench<const LEVEL: u8> {
    session: Session,
    codec: Codec,
    /// It keeps every payload apart.
    output: Output,
    /// What the packets sent so far carried of MQTT 5.
    carried: Vec<Carried>,
    /// The packets in `output`, each with the bytes of it that are still there.
    unwritten: VecDeque<(Sent, usize)>,
    now: Instant,
    notices: mpsc::UnboundedReceiver<Notice>,
    requests: u64,
}

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3600);

impl<const LEVEL: u8> Bench<LEVEL> {
    const VERSION: Version = if LEVEL == 5 { Version::V5 } else { Version::V311 };

    fn new() -> Self {
        Self::with(|options| options)
    }

    fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let (notices, notices_in) = mpsc::unbounded_channel();
        // Long silences are the subject of few tests.
        let options = change(Options::new("localhost").version(Self::VERSION).keep_alive(Duration::ZERO));
        let allowance = Arc::new(crate::allowance::Allowance::new(options.max_queued, options.max_queued_bytes));
        Self {
            session: Session::new(&options, Arc::default(), allowance, notices),
            codec: Codec::new(Self::VERSION, 1 << 20),
            output: Output::parting(1),
            carried: Vec::new(),
            unwritten: VecDeque::new(),
            now: Instant::now(),
            notices: notices_in,
            requests: 0,
        }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.connect(false);
        bench
    }

    fn connect(&mut self, session_present: bool) {
        self.connect_with(session_present, |terms| terms);
    }

    fn connect_with(&mut self, session_present: bool, change: impl FnOnce(Terms) -> Terms) {
        let terms = change(Terms::implied(Self::VERSION, "c"));
        self.session.handle_connected(session_present, Arc::new(terms), self.now);
    }

    fn lose_connection(&mut self) {
        self.output = Output::parting(1);
        self.unwritten.clear();
        self.session.handle_disconnected(self.now);
    }

    fn command(&mut self, command: Command) {
        self.session.handle_command(command, self.now);
    }

    fn publish(&mut self, payload: &str, qos: QoS) -> Answer<Delivery> {
        self.publish_as(payload, qos, Offline::Wait, LONG)
    }

    fn publish_as(&mut self, payload: &str, qos: QoS, offline: Offline, timeout: Duration) -> Answer<Delivery> {
        let (reply, answer) = Reply::channel();
        self.publish_for(Some(reply), payload.to_owned().into(), qos, offline, Some(self.now + timeout));
        answer
    }

    fn publish_for(
        &mut self,
        reply: Option<Reply<Delivery>>,
        payload: Bytes,
        qos: QoS,
        offline: Offline,
        deadline: Option<Instant>,
    ) {
        let publish = wire_publish("t", payload, qos);
        self.command(Command::Publish(Publish { publish, expires: None, offline, deadline, reply, share: None }));
    }

    fn subscribe(&mut self, filters: &[&str]) -> Answer<Feed> {
        self.subscribe_as(filters, QoS::AtLeastOnce, Retained::IfFirst)
    }

    fn subscribe_as(&mut self, filters: &[&str], qos: QoS, retained: Retained) -> Answer<Feed> {
        self.subscribe_within(filters, qos, retained, LONG)
    }

    fn subscribe_within(&mut self, filters: &[&str], qos: QoS, retained: Retained, timeout: Duration) -> Answer<Feed> {
        let (reply, answer) = Reply::channel();
        let filters = filters.iter().map(|filter| Filter::new(*filter).unwrap()).collect();
        let (wish, offline, deadline) = (Wish::new(qos, retained), Offline::Wait, self.now + timeout);
        self.command(Command::Subscribe(Subscribe { filters, wish, capacity: 16, offline, deadline, reply }));
        answer
    }

    fn request(&mut self, payload: &str, reply_to: &str) -> (RequestId, Answer<Replies>) {
        self.request_as(payload, reply_to, 1, Offline::Wait, LONG)
    }

    fn request_as(
        &mut self,
        payload: &str,
        reply_to: &str,
        replies: usize,
        offline: Offline,
        timeout: Duration,
    ) -> (RequestId, Answer<Replies>) {
        let deadline = self.now + timeout;
        self.request_with(payload, reply_to, |request| Request {
            wanted: Wanted::Exactly(replies),
            offline,
            deadline,
            ..request
        })
    }

    fn request_with(
        &mut self,
        payload: &str,
        reply_to: &str,
        change: impl FnOnce(Request) -> Request,
    ) -> (RequestId, Answer<Replies>) {
        let (reply, answer) = Reply::channel();
        self.requests += 1;
        let id = RequestId(self.requests);
        let request = Request {
            id,
            publish: Some(wire_publish("q", payload.to_owned().into(), QoS::AtLeastOnce)),
            reply_to: Some(paths(reply_to)),
            key: None,
            offline: Offline::Wait,
            deadline: self.now + LONG,
            wanted: Wanted::Exactly(1),
            reply,
        };
        self.command(Command::Request(Box::new(change(request))));
        (id, answer)
    }

    fn close(&mut self, drain: Option<Duration>) -> Answer<Unfinished> {
        let (reply, answer) = Reply::channel();
        let drain_until = drain.map(|drain| self.now + drain);
        self.session.handle_notice(Notice::Close(Close { drain_until, reply }), self.now);
        answer
    }

    /// Hands on what guards reported.
    fn take_notices(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            self.session.handle_notice(notice, self.now);
        }
    }

    /// Encodes what may go out; all of it is whole packets.
    fn transmit(&mut self) -> Vec<Sent> {
        let before = self.output.len();
        self.session.poll_transmit(&mut self.codec, &mut self.output, self.now);
        let mut fresh = self.output.to_bytes().split_off(before);
        let mut packets = Vec::new();
        loop {
            let before = fresh.len();
            let Some((packet, carried)) = decode_client_packet(Self::VERSION, &mut fresh).unwrap() else { break };
            self.carried.push(carried);
            self.unwritten.push_back((packet.clone(), before - fresh.len()));
            packets.push(packet);
        }
        assert!(fresh.is_empty(), "half a packet was encoded");
        packets
    }

    /// The socket takes so many bytes; what the broker then has in full.
    fn write(&mut self, bytes: usize) -> Vec<Sent> {
        let bytes = bytes.min(self.output.len());
        if bytes == 0 {
            return Vec::new();
        }
        self.output.advance(bytes);
        self.session.handle_written(bytes, self.now);
        let mut left = bytes;
        let mut arrived = Vec::new();
        while let Some((_, size)) = self.unwritten.front_mut() {
            if *size > left {
                *size -= left;
                break;
            }
            left -= *size;
            arrived.extend(self.unwritten.pop_front().map(|(packet, _)| packet));
        }
        arrived
    }

    /// All that goes out now.
    fn sent(&mut self) -> Vec<Sent> {
        self.take_notices();
        let mut sent = Vec::new();
        loop {
            self.transmit();
            let arrived = self.write(usize::MAX);
            if arrived.is_empty() {
                return sent;
            }
            sent.extend(arrived);
        }
    }

    fn receive(&mut self, inbound: Inbound) {
        self.session.handle_received(self.now);
        self.session.handle_inbound(inbound, self.now).unwrap();
    }

    fn receive_publish(&mut self, topic: &str, payload: &str, qos: QoS, id: PacketId) {
        self.receive(incoming(topic, payload, qos, id));
    }

    fn grant(&mut self, id: PacketId, granted: &[QoS]) {
        self.receive(Inbound::SubAck { id, granted: granted.iter().copied().map(Ok).collect() });
    }

    /// Sends what may go out, and grants what it asks for.
    fn grant_all(&mut self) {
        for packet in self.sent() {
            if let Sent::Subscribe(id, filters) = packet {
                let granted: Vec<_> = filters.into_iter().map(|(_, qos)| qos).collect();
                self.grant(id, &granted);
            }
        }
    }

    /// Moves the clock, stopping wherever the session wants to be asked.
    fn advance(&mut self, duration: Duration) {
        self.try_advance(duration).unwrap();
    }

    fn try_advance(&mut self, duration: Duration) -> Result<(), Error> {
        let until = self.now + duration;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now)?;
            self.transmit();
            if self.session.is_finished(self.now) {
                break;
            }
            let next = self.session.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "asked for the same moment again: a busy loop");
        }
        self.now = until;
        Ok(())
    }

    fn has_nothing(&self) {
        self.session.assert_empty();
    }
}

fn paths(reply_to: &str) -> ReplyPaths {
    ReplyPaths { reply_to: Filter::new(reply_to).unwrap(), rejected_by: None }
}

fn puback(id: PacketId) -> Inbound {
    Inbound::PubAck { id, reason: Reason::default() }
}

fn pubrec(id: PacketId) -> Inbound {
    Inbound::PubRec { id, reason: Reason::default() }
}

fn unsuback(id: PacketId) -> Inbound {
    Inbound::UnsubAck { id, reasons: Vec::new() }
}

fn refused() -> Result<QoS, Reason> {
    Err(ReasonCode::UNSPECIFIED_ERROR.into())
}

fn incoming(topic: &str, payload: &str, qos: QoS, id: PacketId) -> Inbound {
    let (topic, payload) = (Topic::new(topic).unwrap(), Bytes::from(payload.to_owned()));
    Inbound::Publish(plain(topic, payload, qos, id))
}

fn wire_publish(topic: &str, payload: Bytes, qos: QoS) -> wire::Publish {
    wire::Publish { topic: Topic::new(topic).unwrap(), payload, qos, retain: false, properties: None, lenient: false }
}

/// What a client sends for a message of [`Bench::publish`].
fn published(payload: &str, qos: QoS, id: PacketId, dup: bool) -> Sent {
    let (topic, payload) = ("t".to_owned(), Bytes::from(payload.to_owned()));
    Sent::Publish { topic, payload, qos, retain: false, dup, id }
}

/// What a client sends for a call of [`Bench::request`].
fn requested(payload: &str, id: PacketId, dup: bool) -> Sent {
    let (topic, payload) = ("q".to_owned(), Bytes::from(payload.to_owned()));
    Sent::Publish { topic, payload, qos: QoS::AtLeastOnce, retain: false, dup, id }
}

fn subscribed(id: PacketId, filters: &[(&str, QoS)]) -> Sent {
    Sent::Subscribe(id, filters.iter().map(|(filter, qos)| ((*filter).to_owned(), *qos)).collect())
}

fn unsubscribed(id: PacketId, filters: &[&str]) -> Sent {
    Sent::Unsubscribe(id, filters.iter().map(|filter| (*filter).to_owned()).collect())
}

/// Of the PUBLISH packets.
fn payloads(sent: &[Sent]) -> Vec<String> {
    let payload = |sent: &Sent| match sent {
        Sent::Publish { payload, .. } => Some(String::from_utf8(payload.to_vec()).unwrap()),
        _ => None,
    };
    sent.iter().filter_map(payload).collect()
}

/// The answer, if it has come.
fn answer<T>(answer: &mut Answer<T>) -> Option<Result<T, Error>> {
    match answer.try_recv() {
        Ok(answer) => Some(answer),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => panic!("an answer slot was dropped in silence"),
    }
}

/// The answer that must have come.
fn answered<T>(receiver: &mut Answer<T>) -> Result<T, Error> {
    answer(receiver).expect("an answer")
}

fn texts(replies: Result<Replies, Error>) -> Vec<String> {
    replies.unwrap().iter().map(|message| message.text().unwrap().to_owned()).collect()
}

fn fails<T: std::fmt::Debug>(receiver: &mut Answer<T>) -> (ErrorKind, Outcome) {
    let error = answered(receiver).unwrap_err();
    (error.kind(), error.outcome())
}

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;
