//! One request, several replies.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Judge, Pending, Request};
use crate::call::Call;
use crate::command::Wanted;
use crate::{Error, Message};

/// A call with several replies; made by [`Request::replies`] or [`Request::replies_up_to`]. Await it.
///
/// If one of the replies is an error (see [`Request::error_from`]), the call fails with that, and all replies are in
/// [`Error::messages`]. A call whose reply comes by turns has the reply filter to itself until it is over.
#[must_use = "nothing is sent until this is awaited"]
#[derive(Debug, Clone)]
pub struct RequestMany {
    request: Request,
    count: usize,
    or_fewer: bool,
}

impl RequestMany {
    pub(super) fn exactly(request: Request, count: usize) -> Self {
        Self { request, count, or_fewer: false }
    }

    pub(super) fn up_to(request: Request, count: usize) -> Self {
        Self { request, count, or_fewer: true }
    }
}

impl IntoFuture for RequestMany {
    type Output = Result<Vec<Message>, Error>;
    type IntoFuture = RequestManyFuture;

    fn into_future(self) -> RequestManyFuture {
        let wanted = if self.or_fewer { Wanted::UpTo(self.count) } else { Wanted::Exactly(self.count) };
        let (mut pending, judge) = self.request.start(wanted);
        if self.count == 0 {
            let error = Error::invalid_argument("a request needs at least one reply: use publish for none");
            pending.call = Call::refused(error);
        }
        RequestManyFuture { pending, judge }
    }
}

/// The future of a [`RequestMany`].
///
/// # Cancel safety
///
/// As that of [`RequestFuture`](super::RequestFuture); the replies that came so far are lost with it.
#[must_use = "nothing is sent until this is awaited"]
pub struct RequestManyFuture {
    pending: Pending,
    judge: Judge,
}

impl Future for RequestManyFuture {
    type Output = Result<Vec<Message>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pending, judge } = &mut *self;
        pending.call.poll_judged(cx, |replies| judge.check_all(replies.into_vec()))
    }
}

impl fmt::Debug for RequestManyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestManyFuture").finish_non_exhaustive()
    }
}
