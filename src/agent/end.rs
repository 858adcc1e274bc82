//! How an agent ends at its user's word: with what was accepted finished, or at once.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Agent;
use crate::call::deadline_after;
use crate::command::{Close, Notice, Reply, Unfinished};
use crate::Error;

impl Agent {
    /// Takes no more calls, finishes what was accepted for at most `timeout`, then disconnects. Subscriptions that
    /// acknowledge late ([`Acks`](crate::Acks)) get no more messages, and may finish and acknowledge those that they have.
    /// Returns what was not finished; the callers of that got their errors. Without a connection it waits for one, within
    /// the same time.
    ///
    /// # Cancel safety
    ///
    /// Dropping this does not stop the end, once it was polled.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the agent had ended before.
    pub async fn drain(&self, timeout: Duration) -> Result<Unfinished, Error> {
        self.end(Some(deadline_after(timeout))).await
    }

    /// Disconnects now: everything that waits gets an error, then the broker a DISCONNECT. Closing twice is no error.
    ///
    /// # Cancel safety
    ///
    /// Dropping this does not stop the end, once it was polled.
    pub async fn close(&self) {
        // Only an agent that has ended answers with an error.
        let _ = self.end(None).await;
    }

    async fn end(&self, drain_until: Option<Instant>) -> Result<Unfinished, Error> {
        // All are told before the first is waited for: that may be as long as a caller cares to.
        let others: Vec<_> = self.shared.siblings.close().iter().map(|agent| agent.begin_end(drain_until)).collect();
        let own = self.begin_end(drain_until);
        let mut unfinished = own.await.unwrap_or_else(|_| Err(Error::closed()));
        for other in others {
            // One that had ended before left nothing unfinished.
            if let Ok(Ok(more)) = other.await {
                unfinished = unfinished.map(|unfinished| unfinished.and(more));
            }
        }
        unfinished
    }

    fn begin_end(&self, drain_until: Option<Instant>) -> oneshot::Receiver<Result<Unfinished, Error>> {
        let (reply, answer) = Reply::channel();
        // Not sent, it answers "closed".
        let _ = self.shared.lanes.notices.send(Notice::Close(Close { drain_until, reply }));
        answer
    }
}
