//! Many calls, some at a time.

use std::fmt;
use std::future::{poll_fn, Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use backon::ExponentialBackoff;
use futures_core::{FusedStream, Stream};
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep, Instant, Sleep};

use super::{Request, RequestFuture};
use crate::call::deadline_after;
use crate::reconnect::Backoff;
use crate::{Error, ErrorKind, Message, Outcome};

/// Many calls, some at a time, as a [`Stream`] of their keys and answers; made by
/// [`Agent::request_each`](crate::Agent::request_each).
///
/// The settings go before the first poll. Nothing is called before that. Without a connection each call does what its
/// [`offline`](Request::offline) says.
///
/// # Cancel safety
///
/// Dropped, it drops the calls under way; those not begun are not made.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use std::time::Duration;
///
/// let calls = ["hall", "yard"].map(|door| {
///     (door, agent.request(format!("door/{door}/cmd"), "lock").reply_to(format!("door/{door}/ack")))
/// });
/// let each = agent.request_each(calls).timeout(Duration::from_secs(10)).attempts(3);
/// let (locked, failures) = each.partition().await;
/// for (door, error) in failures {
///     eprintln!("{door}: {error}");
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent until this is polled"]
pub struct RequestEach<K, I> {
    /// None when it has given its last.
    requests: Option<I>,
    running: FuturesUnordered<Attempts<K>>,
    concurrency: usize,
    timeout: Option<Duration>,
    /// Set at the first poll.
    deadline: Option<Instant>,
    retry: Retry,
    on_progress: Option<Box<dyn FnMut(Progress) + Send>>,
    progress: Progress,
}

/// How far a [`RequestEach`] is; given to what [`RequestEach::on_progress`] was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Calls that are over, well or not.
    pub done: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// How many there are in all, where the iterator knows.
    pub total: Option<usize>,
}

/// When a call is made once more.
#[derive(Clone)]
struct Retry {
    attempts: usize,
    backoff: Backoff,
    is_worth_it: Arc<dyn Fn(&Error) -> bool + Send + Sync>,
}

/// With the replies of some hundred devices on their way the connection is busy; more would only fill queues.
const CONCURRENCY: usize = 500;

impl<K, I: Iterator<Item = (K, Request)>> RequestEach<K, I> {
    pub(crate) fn new(requests: I) -> Self {
        let total = match requests.size_hint() {
            (least, Some(most)) if least == most => Some(most),
            _ => None,
        };
        Self {
            requests: Some(requests),
            running: FuturesUnordered::new(),
            concurrency: CONCURRENCY,
            timeout: None,
            deadline: None,
            retry: Retry {
                attempts: 1,
                backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
                is_worth_it: Arc::new(is_safe),
            },
            on_progress: None,
            progress: Progress { total, ..Progress::default() },
        }
    }

    /// How many calls may be under way at the same time, at least 1. One that waits to be tried again counts. Default:
    /// 500.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// How long all of it may take, counted from the first poll. Each call has its own
    /// [`timeout`](Request::timeout) besides; the sooner counts. Those that were not begun by then are not made, and
    /// come as [`ErrorKind::Timeout`] with [`Outcome::NotSent`]. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How often a call is made at most, at least once. One that failed is made again after a delay that doubles from 1 s
    /// to 1 min, with a random share, if [`retry_if`](Self::retry_if) says so and time is left. The answers of the others
    /// do not wait for it. Default: once.
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.retry.attempts = attempts.max(1);
        self
    }

    /// The shortest, at least 10 ms, and the longest delay before a further attempt. Default: from 1 s to 1 min.
    pub fn backoff(mut self, shortest: Duration, longest: Duration) -> Self {
        self.retry.backoff = Backoff::new(shortest, longest);
        self
    }

    /// Which failures are worth a further attempt. Default: those after which it is certain that nothing was sent
    /// ([`Outcome::NotSent`]) and that time may mend. With `|_| true` every failed call is made again, also one that may
    /// have been carried out; but none once the agent has ended.
    pub fn retry_if(mut self, is_worth_it: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.retry.is_worth_it = Arc::new(is_worth_it);
        self
    }

    /// Is told after each call that is over how many are. It runs where the stream is polled.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let calls = (0..100).map(|id| (id, agent.request(format!("dev/{id}/rpc"), "ping").reply_to(format!("dev/{id}/res"))));
    /// let each = agent.request_each(calls).on_progress(|progress| println!("{} of {:?}", progress.done, progress.total));
    /// let (replies, failures) = each.partition().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_progress(mut self, on_progress: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(on_progress));
        self
    }

    /// The next answer with its key; None after the last. The same as the stream's, without a trait to import.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped takes nothing.
    pub async fn recv(&mut self) -> Option<(K, Result<Message, Error>)> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Waits for all of them: the replies, and the failures, each with its key, in the order in which they came.
    ///
    /// # Cancel safety
    ///
    /// Dropping this drops the calls under way, and the answers that came.
    pub async fn partition(mut self) -> (Vec<(K, Message)>, Vec<(K, Error)>) {
        let (mut replies, mut failures) = (Vec::new(), Vec::new());
        while let Some((key, answer)) = self.recv().await {
            match answer {
                Ok(reply) => replies.push((key, reply)),
                Err(error) => failures.push((key, error)),
            }
        }
        (replies, failures)
    }

    /// Begins as many calls as there is room for.
    fn fill(&mut self) {
        let deadline = self.deadline.or_else(|| self.timeout.map(deadline_after));
        self.deadline = deadline;
        while self.running.len() < self.concurrency {
            let Some((key, request)) = self.requests.as_mut().and_then(Iterator::next) else {
                self.requests = None;
                return;
            };
            self.running.push(Attempts::new(key, request, self.retry.clone(), deadline));
        }
    }
}

impl<K, I: Iterator<Item = (K, Request)>> Stream for RequestEach<K, I> {
    type Item = (K, Result<Message, Error>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let each = &mut *self;
        each.fill();
        let over = ready!(Pin::new(&mut each.running).poll_next(cx));
        if let Some((_, answer)) = &over {
            each.progress.done += 1;
            each.progress.failed += usize::from(answer.is_err());
            if let Some(on_progress) = &mut each.on_progress {
                on_progress(each.progress);
            }
        }
        Poll::Ready(over)
    }
}

impl<K, I: Iterator<Item = (K, Request)>> FusedStream for RequestEach<K, I> {
    fn is_terminated(&self) -> bool {
        self.requests.is_none() && self.running.is_empty()
    }
}

/// Nothing in it is pinned in place.
impl<K, I> Unpin for RequestEach<K, I> {}

/// One call, made once or several times.
struct Attempts<K> {
    key: Option<K>,
    /// For a further attempt; None where there will be none.
    request: Option<Request>,
    now: Now,
    left: usize,
    backoff: ExponentialBackoff,
    is_worth_it: Arc<dyn Fn(&Error) -> bool + Send + Sync>,
    deadline: Option<Instant>,
}

enum Now {
    Calling(RequestFuture),
    Resting(Pin<Box<Sleep>>),
}

impl<K> Attempts<K> {
    fn new(key: K, mut request: Request, retry: Retry, deadline: Option<Instant>) -> Self {
        let left = retry.attempts - 1;
        let again = (left > 0).then(|| request.clone());
        limit(&mut request, deadline);
        Self {
            key: Some(key),
            request: again,
            now: Now::Calling(request.into_future()),
            left,
            backoff: retry.backoff.delays(),
            is_worth_it: retry.is_worth_it,
            deadline,
        }
    }

    /// The wait before the next attempt, if there is to be one.
    fn rest(&mut self, error: &Error) -> Option<Pin<Box<Sleep>>> {
        let request = self.request.as_ref()?;
        if self.left == 0 || request.agent.is_closed() || !(self.is_worth_it)(error) {
            return None;
        }
        self.left -= 1;
        let delay = self.backoff.next()?;
        let is_in_time = self.deadline.is_none_or(|deadline| Instant::now() + delay < deadline);
        is_in_time.then(|| Box::pin(request.agent.runtime().timed(|| sleep(delay))))
    }
}

impl<K> Future for Attempts<K> {
    type Output = (K, Result<Message, Error>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let attempts = &mut *self;
        loop {
            match &mut attempts.now {
                Now::Calling(call) => {
                    let answer = ready!(Pin::new(call).poll(cx));
                    let rest = answer.as_ref().err().and_then(|error| attempts.rest(error));
                    match (rest, attempts.key.take()) {
                        (Some(rest), key) => {
                            attempts.key = key;
                            attempts.now = Now::Resting(rest);
                        }
                        (None, Some(key)) => return Poll::Ready((key, answer)),
                        // Polled after it was ready.
                        (None, None) => return Poll::Pending,
                    }
                }
                Now::Resting(rest) => {
                    // An agent that has ended has nothing to wait for, and maybe no runtime to wait by.
                    if !attempts.request.as_ref().is_some_and(|request| request.agent.is_closed()) {
                        ready!(rest.as_mut().poll(cx));
                    }
                    let next = if attempts.left > 0 { attempts.request.clone() } else { attempts.request.take() };
                    let Some(mut request) = next else { return Poll::Pending };
                    limit(&mut request, attempts.deadline);
                    attempts.now = Now::Calling(request.into_future());
                }
            }
        }
    }
}

impl<K> Unpin for Attempts<K> {}

/// No call goes on after the deadline of all.
fn limit(request: &mut Request, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        request.timeout = request.timeout.min(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Nothing was sent, and it may be otherwise next time.
fn is_safe(error: &Error) -> bool {
    let passes = [ErrorKind::Timeout, ErrorKind::Offline, ErrorKind::Connection, ErrorKind::KeyInUse];
    error.outcome() == Outcome::NotSent && passes.contains(&error.kind())
}

impl<K, I> fmt::Debug for RequestEach<K, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestEach")
            .field("running", &self.running.len())
            .field("concurrency", &self.concurrency)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}
