//! One request, its replies as a stream.

use std::fmt;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use tokio::sync::broadcast;
use tokio::time::{sleep_until, Sleep};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::BroadcastStream;

use super::{Judge, Pending, Request};
use crate::call::deadline_after;
use crate::command::Wanted;
use crate::runtime::Runtime;
use crate::stats::Counters;
use crate::{Error, Message};

/// The replies of a call, as a [`Stream`]; made by [`Request::stream`].
///
/// An item is a reply; or [`ErrorKind::Remote`](crate::ErrorKind::Remote) for one that is an error; or
/// [`ErrorKind::Lagged`](crate::ErrorKind::Lagged) with the number of replies lost because they were not taken in time.
/// The stream goes on after these. It ends at the call's deadline, or by its [`gap`](Self::gap). If
/// until then no reply came at all, its last item is [`ErrorKind::Timeout`](crate::ErrorKind::Timeout); any other error
/// of a call, such as a refused reply filter, is its last item too.
///
/// # Cancel safety
///
/// Dropped before the request was sent, it is not sent. Dropped after that, further replies are counted as late.
#[must_use = "nothing is sent until this is polled"]
pub struct Replies {
    events: BroadcastStream<Message>,
    pending: Pending,
    judge: Judge,
    gap: Option<Duration>,
    /// Until when the next reply must come.
    quiet: Option<Pin<Box<Sleep>>>,
    counters: Arc<Counters>,
    runtime: Runtime,
    /// How the call ended, until what came before that is taken.
    end: Option<Result<(), Error>>,
    is_ended: bool,
}

impl Replies {
    pub(super) fn new(request: Request) -> Self {
        let (counters, capacity) = (request.agent.counters(), request.agent.options().stream_capacity);
        let runtime = request.agent.runtime().clone();
        let (events, first) = broadcast::channel(capacity);
        let (pending, judge) = request.start(Wanted::Each(events));
        let events = BroadcastStream::new(first);
        Self { events, pending, judge, gap: None, quiet: None, counters, runtime, end: None, is_ended: false }
    }

    /// Ends the stream when no further reply has come for so long after one. For the first reply there is the whole
    /// [`timeout`](Request::timeout) of the call. Default: no limit.
    pub fn gap(mut self, gap: Duration) -> Self {
        self.gap = Some(gap);
        self
    }

    /// The next item; None after the end. The same as the stream's, without a trait to import.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped takes nothing.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.end.is_none() {
            // It is also what sends the request.
            if let Poll::Ready(end) = self.pending.call.poll(cx) {
                self.end = Some(end.map(drop));
            }
        }
        // What came before the end is in the channel by then.
        match ready!(Pin::new(&mut self.events).poll_next(cx)) {
            Some(Ok(reply)) => {
                self.note_reply();
                Poll::Ready(Some(self.judge.check(reply)))
            }
            Some(Err(BroadcastStreamRecvError::Lagged(lost))) => {
                self.counters.lagged().add_shared(lost);
                Poll::Ready(Some(Err(Error::lagging(lost))))
            }
            None => match self.end.take() {
                Some(end) => {
                    self.is_ended = true;
                    Poll::Ready(end.err().map(Err))
                }
                None => Poll::Pending,
            },
        }
    }

    /// A reply came: the next has so long.
    fn note_reply(&mut self) {
        let Some(gap) = self.gap else { return };
        let until = deadline_after(gap);
        match &mut self.quiet {
            Some(quiet) => quiet.as_mut().reset(until),
            None => self.quiet = Some(Box::pin(self.runtime.timed(|| sleep_until(until)))),
        }
    }
}

impl Stream for Replies {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(item) = self.poll_event(cx) {
            return Poll::Ready(item);
        }
        let Some(quiet) = &mut self.quiet else { return Poll::Pending };
        ready!(quiet.as_mut().poll(cx));
        self.is_ended = true;
        self.pending.give_up();
        Poll::Ready(None)
    }
}

impl FusedStream for Replies {
    fn is_terminated(&self) -> bool {
        self.is_ended
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}
