//! A session and all around it: callers, a broker, a line, a clock.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::input::Input;
use super::{LARGE, VERSIONS};
use crate::allowance::Allowance;
use crate::command::{Feed, Notice};
use crate::session::Session;
use crate::terms::Terms;
use crate::wire::peer::{decode_client_packet, Sent};
use crate::wire::{Codec, Output, PacketId};
use crate::{Options, QoS, Topic, Version};

mod broker;
mod callers;
mod checks;

use callers::Caller;

/// A session and all around it.
pub(super) struct World {
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
    pub(super) is_over: bool,
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
    /// Messages are acknowledged when they are taken.
    is_holding: bool,
    /// Whether the last connection finds the session.
    keeps_session: bool,
}

const ALIASES: u16 = 2;
/// How many messages a session that acknowledges late may hold.
const HOLDS: usize = 4;
const TOPICS: [&str; 6] = ["a", "a/b", "b", "b/c", "$SYS/x", "/"];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
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

impl World {
    pub(super) fn new(input: &mut Input<'_>) -> Self {
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
            .max_packet_size(input.pick(&[256, LARGE]))
            .holding(input.pick(&[None, None, Some(HOLDS)]));
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
            is_holding: options.holds.is_some(),
            keeps_session: input.byte() % 2 == 1,
        }
    }

    pub(super) fn step(&mut self, step: u8, input: &mut Input<'_>) {
        if self.is_over {
            return;
        }
        match step % 21 {
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
            19 => self.take_message(input),
            _ => match input.byte() {
                0xff => self.write(usize::MAX),
                0 => self.transmit(),
                1 => self.take_notices(),
                bytes => self.write(bytes.into()),
            },
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
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a valid topic")
}
