//! The end: what was accepted is finished or reported, then DISCONNECT.

use std::time::Duration;

use tokio::time::Instant;

use super::shared::{Shared, Step};
use super::Session;
use crate::command::{self, Reply, Unfinished};
use crate::wire::{Codec, Outbound, Output};
use crate::ReasonCode;

#[derive(Debug)]
pub(super) struct Closing {
    /// Accepted work may go on until then.
    drain_until: Option<Instant>,
    replies: Vec<Reply<Unfinished>>,
    /// The last packet is encoded; it is given this long to be written.
    disconnect_until: Option<Instant>,
}

/// How long a peer that does not read can hold up the end.
const GOODBYE: Duration = Duration::from_secs(1);

impl Closing {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.disconnect_until.or(self.drain_until)
    }
}

impl Session {
    pub(super) fn handle_close(&mut self, close: command::Close) {
        let closing = self.closing.get_or_insert(Closing {
            drain_until: close.drain_until,
            replies: Vec::new(),
            disconnect_until: None,
        });
        // The most impatient of several callers decides.
        closing.drain_until = closing.drain_until.min(close.drain_until);
        closing.replies.push(close.reply);
    }

    /// The last handle is gone: what was accepted may still be sent.
    pub(crate) fn handle_abandoned(&mut self, drain_until: Instant) {
        self.subscriptions.sweep_left();
        self.closing.get_or_insert(Closing {
            drain_until: Some(drain_until),
            replies: Vec::new(),
            disconnect_until: None,
        });
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether accepted work has had its time.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.drain_until.is_none_or(|until| until <= now))
    }

    /// MQTT-3.14.4-2: nothing may follow a DISCONNECT.
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.disconnect_until.is_some())
    }

    /// Whether nothing is left to wait for.
    fn is_drained(&self, now: Instant) -> bool {
        let is_idle = || {
            let is_done = self.unfinished_publishes() == 0 && self.requests.len() == 0 && self.receiving.held() == 0;
            is_done && !self.has_to_unsubscribe()
        };
        self.is_closing() && (self.is_overdue(now) || is_idle())
    }

    /// Whether a session that outlives its subscription holds a filter of it: the broker would queue for it for ever.
    fn has_to_unsubscribe(&self) -> bool {
        let is_left = |shared: &Shared| shared.needs_unsubscribe() && shared.step != Step::Unsubscribing;
        self.limits.is_kept && self.receiving.is_holding() && self.subscriptions.filters.values().any(is_left)
    }

    pub(super) fn transmit_disconnect(&mut self, codec: &mut Codec, output: &mut Output, now: Instant) {
        if !self.is_drained(now) {
            return;
        }
        if let Some(closing) = &mut self.closing {
            closing.disconnect_until = Some(now + GOODBYE);
            codec.encode(Outbound::Disconnect(ReasonCode::SUCCESS), output);
        }
    }

    /// Whether the end has come: the goodbye is written, or there is nobody to say it to.
    pub(crate) fn is_finished(&self, now: Instant) -> bool {
        let Some(connection) = &self.connection else { return self.has_said_goodbye() || self.is_drained(now) };
        match self.closing.as_ref().and_then(|closing| closing.disconnect_until) {
            Some(until) => connection.written == connection.encoded || until <= now,
            None => false,
        }
    }

    /// Answers everyone who still waits. What comes back is for whoever asked for the end, once it is complete.
    pub(crate) fn finish(&mut self) -> (Vec<Reply<Unfinished>>, Unfinished) {
        let requests = self.abandon_requests();
        let publishes = self.abandon_publishes();
        let unacknowledged = self.receiving.held();
        self.subscriptions.abandon();
        self.count();
        let replies = self.closing.take().map(|closing| closing.replies).unwrap_or_default();
        (replies, Unfinished { publishes, requests, unacknowledged })
    }
}

/// The actor's task may end without a word: by the end of its runtime, or a panic. Callers on other runtimes are then told
/// what became of their messages, as at any other end.
impl Drop for Session {
    fn drop(&mut self) {
        self.finish();
    }
}
