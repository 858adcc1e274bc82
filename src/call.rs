//! The way of every call: one command to the actor, one answer back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::{timeout_at, Instant};
use tracing::Span;

use crate::agent::Shared;
use crate::command::Command;
use crate::options::FAR;
use crate::{telemetry, Error};

/// A call that starts when it is first polled. Dropping it withdraws what was not sent.
pub(crate) struct Call<C, T> {
    stage: Stage<C, T>,
    /// From its first poll to its answer.
    span: Span,
}

type Answer<T> = oneshot::Receiver<Result<T, Error>>;

enum Stage<C, T> {
    Refused(Error),
    Start {
        shared: Arc<Shared>,
        command: C,
        answer: Answer<T>,
        deadline: Instant,
    },
    /// The lane to the actor is full. The actor always reads it, connected or not, so this does not last.
    Queueing {
        sending: Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>,
        answer: Answer<T>,
        _open: Arc<Shared>,
    },
    /// `_open` keeps the agent from closing for want of handles.
    Waiting {
        answer: Answer<T>,
        _open: Arc<Shared>,
    },
    Done,
}

/// When something that starts now is out of time.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(FAR)
}

impl<C: Into<Command>, T> Call<C, T> {
    pub(crate) fn new(shared: Arc<Shared>, command: C, answer: Answer<T>, deadline: Instant) -> Self {
        Self { stage: Stage::Start { shared, command, answer, deadline }, span: Span::none() }
    }

    /// A call whose arguments cannot be used.
    pub(crate) fn refused(error: Error) -> Self {
        Self { stage: Stage::Refused(error), span: Span::none() }
    }

    /// Whether the actor may know of it, so that it has to be told when the caller leaves.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Queueing { .. } | Stage::Waiting { .. })
    }

    /// Ends it for the caller; the actor sees that nobody listens.
    pub(crate) fn give_up(&mut self) {
        self.stage = Stage::Done;
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        self.poll_judged(cx, Ok)
    }

    /// As `poll`, where the answer may turn out to be a failure of the call: its span tells of that too.
    pub(crate) fn poll_judged<U>(
        &mut self,
        cx: &mut Context<'_>,
        judge: impl FnOnce(T) -> Result<U, Error>,
    ) -> Poll<Result<U, Error>> {
        let answer = ready!(self.poll_answer(cx)).and_then(judge);
        telemetry::finish(&mut self.span, &answer);
        Poll::Ready(answer)
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        loop {
            match &mut self.stage {
                Stage::Waiting { answer, .. } => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    self.stage = Stage::Done;
                    return Poll::Ready(answer.unwrap_or_else(|_| Err(Error::closed())));
                }
                Stage::Queueing { sending, .. } => {
                    let sent = ready!(sending.as_mut().poll(cx));
                    self.handle_queued(sent);
                }
                Stage::Start { .. } => self.start(),
                Stage::Refused(_) => {
                    if let Stage::Refused(error) = std::mem::replace(&mut self.stage, Stage::Done) {
                        return Poll::Ready(Err(error));
                    }
                }
                // Polled after it was ready.
                Stage::Done => return Poll::Pending,
            }
        }
    }

    fn start(&mut self) {
        let Stage::Start { shared, command, answer, deadline } = std::mem::replace(&mut self.stage, Stage::Done) else {
            return;
        };
        let command = command.into();
        self.span = telemetry::call(&command);
        self.stage = match shared.lanes.commands.try_send(command) {
            Ok(()) => Stage::Waiting { answer, _open: shared },
            Err(TrySendError::Closed(_)) => Stage::Refused(Error::closed()),
            Err(TrySendError::Full(command)) => {
                let commands = shared.lanes.commands.clone();
                let sending = async move { commands.send(command).await };
                let sending = shared.runtime.timed(|| timeout_at(deadline, sending));
                let sending = async move {
                    match sending.await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) => Err(Error::closed()),
                        Err(_) => Err(Error::timeout("the agent could not take the call before its deadline")),
                    }
                };
                Stage::Queueing { sending: Box::pin(sending), answer, _open: shared }
            }
        };
    }

    fn handle_queued(&mut self, sent: Result<(), Error>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        self.stage = match (stage, sent) {
            (Stage::Queueing { answer, _open, .. }, Ok(())) => Stage::Waiting { answer, _open },
            (_, Err(error)) => Stage::Refused(error),
            (other, Ok(())) => other,
        };
    }
}
