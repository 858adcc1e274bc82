//! The session, with callers, a broker that may send anything, and connections that come and go.
//!
//! Whatever happens, everyone is answered by the deadline, nothing is sent that the broker does not allow on that
//! connection, nothing is acknowledged before its turn, and when all are gone nothing is left. One file for each side:
//! `callers`, `streams` (who reads them, and what is held of their messages), `line` (one connection), `broker` (what it
//! sends, and what it holds), `referee` (what a client may send).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::input::{Bits, Input};
use crate::allowance::Allowance;
use crate::command::Notice;
use crate::room::KEPT;
use crate::session::Session;
use crate::stats::Counters;
use crate::{Error, Options, Version};

mod broker;
mod callers;
mod line;
mod referee;
mod streams;

use broker::Broker;
use callers::Callers;
use line::Line;
use streams::Streams;

/// Runs what the bytes stand for, then lets everyone leave.
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

/// Keeps one input from taking seconds.
const MAX_STEPS: usize = 500;
/// The next step, up to 64 times.
const MANY: u8 = 0xff;
/// What is found at one look may be the matter of the next: a call that this connection cannot carry frees its filters.
const LOOKS: usize = 3;
/// Where reading stops, and what the last packet can add: what it was that kept others back.
const MAX_ACKS: usize = 16_384 + MAX_HOLDS;
const MAX_HOLDS: usize = 16;

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

/// A session and all around it.
struct World {
    session: Session,
    options: Options,
    counters: Arc<Counters>,
    allowance: Arc<Allowance>,
    notices: mpsc::UnboundedSender<Notice>,
    notices_in: mpsc::UnboundedReceiver<Notice>,
    now: Instant,
    is_over: bool,
    callers: Callers,
    streams: Streams,
    broker: Broker,
    line: Option<Line>,
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let (notices, notices_in) = mpsc::unbounded_channel();
        let kind = Bits(input.byte());
        let options = options(kind, input);
        let counters = Arc::new(Counters::default());
        let allowance = Arc::new(Allowance::new(options.max_queued, options.max_queued_bytes));
        Self {
            session: Session::new(&options, counters.clone(), allowance.clone(), notices.clone()),
            options,
            counters,
            allowance,
            notices,
            notices_in,
            now: Instant::now(),
            is_over: false,
            callers: Callers::default(),
            streams: Streams::new(kind.has(2)),
            broker: Broker::new(kind.has(3), kind.has(4)),
            line: None,
        }
    }

    fn step(&mut self, step: u8, input: &mut Input<'_>) {
        if self.is_over {
            return;
        }
        match step % 24 {
            0 | 1 => self.publish(input),
            2 | 3 => self.subscribe(input),
            4 | 5 => self.request(input),
            6 => self.leave_one(input),
            7 => self.end_stream(input),
            8 => self.close(input),
            9 => self.receive_raw(input),
            10 | 11 => self.answer(input.byte()),
            12 | 13 => self.push(input),
            14 => {
                self.lose();
                self.connect(input);
            }
            15 => self.lose(),
            16 => {
                let duration = input.pick(&STEPS);
                self.advance(duration);
            }
            // The clock moves and nobody looks: the process was stopped.
            17 => self.now += input.pick(&STEPS),
            18 => self.turn(),
            19 => match input.byte() {
                0xff => self.write(usize::MAX),
                0 => self.transmit(),
                1 => self.take_notices(),
                bytes => self.write(bytes.into()),
            },
            20 | 21 => self.read_stream(input),
            22 => self.let_go(input),
            _ => self.share_stream(input),
        }
    }

    fn take_notices(&mut self) {
        while let Ok(notice) = self.notices_in.try_recv() {
            self.session.handle_notice(notice, self.now);
        }
    }

    /// Looks at everything until there is nothing to do at this moment.
    fn turn(&mut self) {
        for _ in 0..LOOKS {
            self.look();
            if self.is_over || self.session.poll_timeout().is_none_or(|next| next > self.now) {
                return;
            }
        }
        panic!("asked for the same moment again and again: a busy loop");
    }

    /// What the actor does at each look, but for the socket.
    fn look(&mut self) {
        self.read();
        self.take_notices();
        while self.session.handle_timeout(self.now).is_err() {
            assert!(self.line.is_some(), "a connection that is lost cannot be given up");
            self.lose();
        }
        self.transmit();
        self.check_transmitted();
        self.take_answers();
        match self.session.is_finished(self.now) {
            true => self.finish(),
            false => self.check_deadlines(),
        }
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

    /// No other connection will be made.
    fn give_up(&mut self) {
        self.session.handle_given_up(&Error::connection("given up"));
        self.lose();
        self.finish();
    }

    fn finish(&mut self) {
        self.is_over = true;
        let (replies, unfinished) = self.session.finish();
        replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
        self.notices_in.close();
        while self.notices_in.try_recv().is_ok() {}
        self.take_answers();
        self.check_all_answered();
        self.streams.check_ended();
    }

    fn check(&self) {
        if self.is_over {
            return;
        }
        let census = self.session.census();
        assert!(census.acks <= MAX_ACKS, "{census:?}");
        assert!(census.published + census.released <= self.options.max_in_flight.into(), "{census:?}");
        assert!(census.requests == census.requests_by_id && census.filters == census.routed, "{census:?}");
        let holds = self.options.holds.unwrap_or(0);
        assert!(census.holds <= holds && census.held_back <= holds, "{census:?}");
        assert!(census.unsettled <= census.held_back + census.unrecorded, "{census:?}");
        self.session.assert_filters();
    }

    /// Everyone leaves, and time passes: little may be left. A broker that answers all takes the rest.
    fn end(mut self) {
        if self.is_over {
            return;
        }
        self.leave_all();
        self.streams.clear();
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
        self.connect_at_last();
        self.settle();
        self.lose();
        self.session.assert_empty();
        let census = self.session.census();
        assert_eq!(census.deadlines, 0, "{census:?}");
        self.broker.check_empty();
    }

    /// Nobody waits for anything, all deadlines are over, and there is no connection.
    fn check_idle(&self) {
        let census = self.session.census();
        let of_callers = (census.calls, census.requests, census.reply_queues, census.subscribers, census.deadlines);
        assert_eq!(of_callers, (0, 0, 0, 0, 0), "{census:?}");
        let of_connection = (census.acks, census.unwritten, census.repeat, census.asked, census.held_back);
        assert_eq!(of_connection, (0, 0, 0, 0, 0), "{census:?}");
        assert_eq!(census.holds, 0, "{census:?}");
        assert!(census.queued <= self.options.max_queued, "{census:?}");
        assert!(census.places <= 2 * census.queued + KEPT, "{census:?}");
        assert!(census.due <= 2 * census.filters + 64, "{census:?}");
    }

    fn settle(&mut self) {
        loop {
            self.transmit();
            self.write(usize::MAX);
            if !self.broker_owes() {
                return;
            }
            assert!(self.session.wants_read(), "who does not read is not answered");
            while self.broker_owes() {
                self.answer(0);
            }
        }
    }
}

fn options(kind: Bits, input: &mut Input<'_>) -> Options {
    let options = Options::new("localhost")
        .version(input.pick(&[Version::V311, Version::V5, Version::V5, Version::Auto]))
        .keep_alive(input.pick(&[Duration::ZERO, STEPS[3], STEPS[6]]))
        .write_timeout(STEPS[4])
        .reply_linger(input.pick(&[Duration::ZERO, STEPS[3]]))
        .max_in_flight(input.pick(&[1, 3, 100]))
        .max_queued(input.pick(&[2, 500]))
        .max_queued_bytes(100_000)
        .max_filters_per_subscribe(input.pick(&[1, 2, 100]))
        .max_packet_size(input.pick(&[256, 1 << 20]));
    if !kind.has(0) {
        return options;
    }
    let options = options.holding(input.pick(&[1, 2, MAX_HOLDS]));
    match kind.has(1) {
        true => options.client_id("fuzz").clean_session(false),
        false => options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_what_wants_an_answer_stops_at_the_bound() {
        let flood = [MANY, 63, 9, 4, 255, 0x62, 2, 0, 1];
        session(&[&[0; 8][..], &[14, 0, 0], &flood, &flood].concat());
    }
}
