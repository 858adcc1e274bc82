//! What a session holds, counted for the tests of its bounds.

use super::in_flight::On;
use super::Session;

/// The lengths of all lists and tables.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) queued: usize,
    /// Queued messages, and the gaps between them.
    pub(crate) places: usize,
    pub(crate) calls: usize,
    pub(crate) repeat: usize,
    pub(crate) unwritten: usize,
    pub(crate) published: usize,
    pub(crate) released: usize,
    pub(crate) asked: usize,
    pub(crate) requests: usize,
    pub(crate) requests_by_id: usize,
    pub(crate) reply_queues: usize,
    pub(crate) filters: usize,
    pub(crate) routed: usize,
    pub(crate) due: usize,
    pub(crate) subscribers: usize,
    pub(crate) acks: usize,
    /// Messages that are neither acknowledged nor given up.
    pub(crate) holds: usize,
    pub(crate) deadlines: usize,
}

impl Session {
    pub(crate) fn held(&self) -> Held {
        let mut held = Held {
            published: self.in_flight.len(On::Published),
            released: self.in_flight.len(On::Released),
            asked: self.in_flight.len(On::Asked),
            filters: self.subscriptions.filters.len(),
            routed: self.subscriptions.router.len(),
            due: self.subscriptions.due.len(),
            subscribers: self.subscriptions.subscribers.len(),
            acks: self.receiving.waiting_acks(),
            holds: self.receiving.held(),
            deadlines: self.deadlines.len(),
            ..Held::default()
        };
        self.publishes.count_held(&mut held);
        self.requests.count_held(&mut held);
        held
    }

    /// Who relies on which filter adds up.
    pub(crate) fn assert_covers(&self) {
        self.subscriptions.assert_covers();
    }

    /// Nothing is held, nor much memory for it.
    pub(crate) fn assert_empty(&self) {
        self.publishes.assert_empty();
        self.requests.assert_empty();
        self.receiving.assert_empty();
        self.subscriptions.assert_empty();
        for on in [On::Published, On::Released, On::Asked] {
            assert_eq!(self.in_flight.len(on), 0, "{on:?}");
        }
    }
}
