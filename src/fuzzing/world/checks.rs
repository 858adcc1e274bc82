//! What must hold after each step, and at the end.

use std::time::Duration;

use super::broker::PACKETS;
use super::callers::Waiting;
use super::{World, HOLDS};
use crate::session::KEPT;

/// Where reading stops, and what one more turn can add.
const MAX_ACKS: usize = 16_384 + PACKETS;
/// Longer than any deadline that a caller sets.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl World {
    pub(super) fn finish(&mut self) {
        self.is_over = true;
        let (replies, unfinished) = self.session.finish();
        replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
        self.feeds.clear();
        self.take_answers();
        assert!(self.callers.is_empty(), "someone had no answer");
    }

    pub(in crate::fuzzing) fn check(&self) {
        if self.is_over {
            return;
        }
        let held = self.session.held();
        assert!(held.acks <= MAX_ACKS && held.holds <= HOLDS, "{held:?}");
        assert!(held.published + held.released <= self.max_in_flight, "{held:?}");
        assert!(held.requests == held.requests_by_id && held.filters == held.routed, "{held:?}");
        self.session.assert_covers();
    }

    /// Everyone leaves, and time passes: little may be left. A broker that answers all takes the rest.
    pub(in crate::fuzzing) fn end(mut self) {
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
        // What nobody took is left to the broker, until it forgets the session.
        self.connect(self.keeps_session && !self.is_holding);
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
