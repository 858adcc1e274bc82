//! How an agent ends at its user's word, and the sessions beside it with it.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Agent;
use crate::command::{Close, Notice, Reply, Unfinished};
use crate::Error;

impl Agent {
    pub(super) async fn end(&self, drain_until: Option<Instant>) -> Result<Unfinished, Error> {
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
