//! The receiving end of a subscription's channel.

use std::task::{ready, Context, Poll};

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::Receiver;
use tokio::task::coop::poll_proceed;
use tokio_util::sync::ReusableBoxFuture;

use crate::command::Event;

/// Takes what is there at once. Only where there is nothing a future is made, which holds the receiver until there is.
pub(crate) struct Events {
    receiver: Option<Receiver<Event>>,
    waiting: ReusableBoxFuture<'static, (Received, Receiver<Event>)>,
}

/// An event, or why there is none: some were lost, or there will be no more.
type Received = Result<Event, RecvError>;

impl Events {
    pub(crate) fn new(receiver: Receiver<Event>) -> Self {
        let idle = std::future::pending();
        Self { receiver: Some(receiver), waiting: ReusableBoxFuture::new(idle) }
    }

    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let Some(receiver) = &mut self.receiver {
            // As the channel's own future does: one that is always full must not keep its thread to itself.
            let coop = ready!(poll_proceed(cx));
            let received = match receiver.try_recv() {
                Ok(event) => Some(Ok(event)),
                Err(TryRecvError::Lagged(lost)) => Some(Err(RecvError::Lagged(lost))),
                Err(TryRecvError::Closed) => Some(Err(RecvError::Closed)),
                Err(TryRecvError::Empty) => None,
            };
            if let Some(received) = received {
                coop.made_progress();
                return Poll::Ready(received);
            }
            if let Some(receiver) = self.receiver.take() {
                self.waiting.set(wait(receiver));
            }
        }
        let (received, receiver) = ready!(self.waiting.poll(cx));
        self.receiver = Some(receiver);
        Poll::Ready(received)
    }
}

async fn wait(mut receiver: Receiver<Event>) -> (Received, Receiver<Event>) {
    let received = receiver.recv().await;
    (received, receiver)
}
