//! What a session holds, counted for the tests of its bounds.

use super::in_flight::On;
use super::Session;

/// The lengths of all lists and tables.
#[derive(Debug, Default)]
pub(crate) struct Census {
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
    /// Messages that have not told yet what became of them.
    pub(crate) holds: usize,
    /// Acknowledgements that wait for those, or for others before them.
    pub(crate) held_back: usize,
    /// Acknowledgements that may still be given.
    pub(crate) unsettled: usize,
    /// QoS 2 messages without a PUBREC.
    pub(crate) unrecorded: usize,
    pub(crate) deadlines: usize,
}

impl Session {
    pub(crate) fn census(&self) -> Census {
        let mut census = Census {
            published: self.in_flight.len(On::Published),
            released: self.in_flight.len(On::Released),
            asked: self.in_flight.len(On::Asked),
            filters: self.subscriptions.filters.len(),
            routed: self.subscriptions.router.len(),
            due: self.subscriptions.due.len(),
            subscribers: self.subscriptions.subscribers.len(),
            deadlines: self.deadlines.len() + self.lingering.len(),
            ..Census::default()
        };
        self.receiving.count(&mut census);
        self.publishes.count(&mut census);
        self.requests.count(&mut census);
        census
    }

    /// Who relies on which filter adds up, and the router knows the subscribers.
    pub(crate) fn assert_filters(&self) {
        self.subscriptions.assert_covers();
        self.subscriptions.assert_routes();
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
