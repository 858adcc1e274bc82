//! Cancels a future at each of the points where it can be cancelled.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;

use super::{within, LIMIT};

/// Polls `future` at most `polls` times, then drops it at once. `Some` if it ended before, so a
/// test tries 0, 1, 2, ... until it gets `Some`.
pub async fn drop_after_polls<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    poll_times(future, polls, false).await
}

/// Like [`drop_after_polls`], but waits for the wake-up after the last poll and drops the future
/// instead of the poll that would follow: what it waited for has arrived and is never picked up.
pub async fn drop_when_woken_after_polls<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    poll_times(future, polls, true).await
}

async fn poll_times<F: Future>(future: F, polls: usize, woken_last: bool) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let woken = Arc::new(Woken(Notify::new()));
    let waker = Waker::from(Arc::clone(&woken));
    for poll in 1..=polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        if poll < polls || woken_last {
            let wake_up = format!("wake-up after poll {poll} of {polls}");
            within(LIMIT, &wake_up, woken.0.notified()).await;
            tokio::task::yield_now().await;
        }
    }
    None
}

struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
