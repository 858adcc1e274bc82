//! The task of a service: takes requests, runs handlers, remembers answers.

use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, Instant, Sleep};
use tracing::Instrument;

use super::answered::{Answered, Known, Same};
use super::pattern::Pattern;
use super::reply::ReplyBody;
use super::request::IncomingRequest;
use super::responder::{reply_topic, same_key, Owed, Responder};
use super::{ServiceStats, Setup};
use crate::agent::Agent;
use crate::error::RemoteError;
use crate::telemetry::{self, TARGET};
use crate::{Message, Subscription, Topic};

pub(super) struct Server {
    agent: Agent,
    /// None when no more is taken.
    subscription: Option<Subscription>,
    pattern: Arc<Pattern>,
    setup: Arc<Setup>,
    waiting: VecDeque<Waiting>,
    capacity: usize,
    running: JoinSet<Done>,
    answered: Answered,
    counters: Arc<Counters>,
    stops: oneshot::Receiver<Stop>,
    stopping: Option<Stopping>,
    /// Until the broker has confirmed that no more will come.
    leaving: Option<BoxFuture<'static, ()>>,
    timeout: Duration,
}

/// No more requests; those that run have this long.
pub(super) struct Stop {
    pub(super) until: Instant,
    /// Gets how many handlers did not finish.
    pub(super) reply: oneshot::Sender<usize>,
}

struct Stopping {
    timer: Pin<Box<Sleep>>,
    reply: oneshot::Sender<usize>,
}

/// A request without a handler yet.
struct Waiting {
    request: IncomingRequest,
    reply_to: Option<Topic>,
    same: Option<Same>,
    expires: Option<Instant>,
    /// What it was answered the first time: it needs no handler.
    answer: Option<ReplyBody>,
}

/// A request has its answer.
#[derive(Default)]
struct Done {
    same: Option<Same>,
    /// What to answer if the same request comes again.
    body: Option<ReplyBody>,
}

impl Server {
    pub(super) fn new(
        agent: Agent,
        subscription: Subscription,
        pattern: Arc<Pattern>,
        setup: Setup,
        capacity: usize,
        counters: Arc<Counters>,
        stops: oneshot::Receiver<Stop>,
    ) -> Self {
        Self {
            agent,
            subscription: Some(subscription),
            pattern,
            answered: Answered::new(setup.remembered, setup.remembered_for),
            setup: Arc::new(setup),
            waiting: VecDeque::new(),
            capacity,
            running: JoinSet::new(),
            counters,
            stops,
            stopping: None,
            leaving: None,
            timeout: Duration::ZERO,
        }
    }

    pub(super) async fn run(mut self, timeout: Duration) {
        self.timeout = timeout;
        poll_fn(|cx| self.poll(cx)).await;
        // What still runs is aborted with the set, and what waits is answered with an error.
        let unfinished = self.running.len();
        self.refuse_waiting();
        self.running.shutdown().await;
        if let Some(Stopping { reply, .. }) = self.stopping {
            let _ = reply.send(unfinished);
        }
    }

    /// Ready at the end of the service.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut progress = false;
            if self.poll_stop(cx).is_ready() {
                return Poll::Ready(());
            }
            while let Poll::Ready(Some(done)) = self.running.poll_join_next(cx) {
                self.handle_done(done.ok());
                progress = true;
            }
            progress |= self.poll_requests(cx);
            progress |= self.start_waiting();
            self.counters.hold(self.running.len(), self.waiting.len());
            let has_left = self.subscription.is_none() && self.poll_leaving(cx).is_ready();
            if has_left && self.running.is_empty() {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Ready when nobody wants the service any more, or what runs has had its time.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stopping.is_none() {
            match Pin::new(&mut self.stops).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(Stop { until, reply })) => {
                    // Those that came before are told as well.
                    self.poll_requests(cx);
                    self.leave();
                    self.refuse_waiting();
                    self.stopping = Some(Stopping { timer: Box::pin(sleep_until(until)), reply });
                }
            }
        }
        match &mut self.stopping {
            Some(stopping) => stopping.timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Gives the filter up. Without a connection nobody can confirm that.
    fn leave(&mut self) {
        let subscription = self.subscription.take().filter(|_| self.agent.is_connected());
        self.leaving = subscription.map(|subscription| subscription.unsubscribe().map(drop).boxed());
    }

    fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(leaving) = &mut self.leaving {
            ready!(leaving.as_mut().poll(cx));
            self.leaving = None;
        }
        Poll::Ready(())
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(subscription) = &mut self.subscription {
            let Poll::Ready(item) = Pin::new(subscription).poll_next(cx) else { break };
            progress = true;
            match item {
                Some(Ok(message)) => self.handle_message(message, Instant::now()),
                Some(Err(gap)) => {
                    let filter = self.pattern.filter();
                    tracing::warn!(name: "mqtt.requests_lost", target: TARGET, %filter, error = %gap, "requests were lost");
                    self.counters.lost(gap.lagged().unwrap_or_default());
                }
                // The agent has ended.
                None => self.subscription = None,
            }
        }
        progress
    }

    fn handle_message(&mut self, message: Message, now: Instant) {
        let expires = message.properties().message_expiry.map(|expiry| now + expiry);
        let request = IncomingRequest::new(message, self.pattern.clone());
        let reply_to = reply_topic(&self.setup, &request);
        let key = same_key(&self.setup, &request);
        let same = reply_to.clone().zip(key).map(|(reply_to, key)| Same::new(reply_to, &key));
        match same.as_ref().map_or(Known::New, |same| self.answered.note(same, now)) {
            Known::New => self.enqueue(Waiting { request, reply_to, same, expires, answer: None }, now),
            Known::Running => self.counters.duplicates(1),
            Known::Answered(body) => {
                self.counters.duplicates(1);
                // In the line of the others, so that those who repeat themselves are held to its bounds.
                self.enqueue(Waiting { request, reply_to, same: None, expires, answer: Some(body) }, now);
            }
        }
    }

    fn enqueue(&mut self, waiting: Waiting, now: Instant) {
        self.waiting.push_back(waiting);
        // First, so that nothing is lost while a handler is free.
        self.start_waiting();
        if self.waiting.len() > self.capacity {
            self.counters.lost(1);
            if let Some(same) = self.waiting.pop_front().and_then(|oldest| oldest.same) {
                self.answered.settle(same, None, now);
            }
        }
    }

    fn start_waiting(&mut self) -> bool {
        let mut progress = false;
        while self.running.len() < self.setup.concurrency {
            let Some(waiting) = self.waiting.pop_front() else { break };
            progress = true;
            self.start(waiting);
        }
        progress
    }

    fn start(&mut self, waiting: Waiting) {
        let Waiting { request, reply_to, same, expires, answer } = waiting;
        let now = Instant::now();
        if expires.is_some_and(|expires| expires <= now) {
            // Nobody waits for the answer any more.
            self.counters.expired(1);
            if let Some(same) = same {
                self.answered.settle(same, None, now);
            }
            return;
        }
        let responder = self.responder(request.clone(), reply_to, answer.clone());
        match answer {
            None => self.handle(request, same, responder),
            Some(body) => {
                self.running.spawn(async move {
                    responder.send(body).await;
                    Done::default()
                });
            }
        }
    }

    fn handle(&mut self, request: IncomingRequest, same: Option<Same>, responder: Responder) {
        let (handler, counters) = (self.setup.handler.clone(), self.counters.clone());
        let span = telemetry::serving(request.message());
        self.running.spawn(async move {
            let handling = AssertUnwindSafe(async move { handler(request).await }).catch_unwind();
            let answer = handling.instrument(span.clone()).await;
            let answer = answer.unwrap_or_else(|_| Err(RemoteError::new("the handler panicked")));
            counters.note(&answer);
            if answer.is_err() {
                span.record("failed", true);
            }
            drop(span);
            let body = responder.body(answer);
            let again = same.is_some().then(|| body.clone());
            responder.send(body).await;
            Done { same, body: again }
        });
    }

    fn handle_done(&mut self, done: Option<Done>) {
        if let Some(Done { same: Some(same), body }) = done {
            self.answered.settle(same, body, Instant::now());
        }
    }

    /// Those that wait will have no handler.
    fn refuse_waiting(&mut self) {
        for Waiting { request, reply_to, answer, .. } in std::mem::take(&mut self.waiting) {
            drop(self.responder(request, reply_to, answer));
        }
    }

    fn responder(&self, request: IncomingRequest, reply_to: Option<Topic>, answer: Option<ReplyBody>) -> Responder {
        let (agent, setup, counters) = (self.agent.clone(), self.setup.clone(), self.counters.clone());
        let owed = answer.map_or(Owed::Anything, Owed::Body);
        Responder { agent, setup, counters, request, reply_to, timeout: self.timeout, owed }
    }
}

macro_rules! counters {
    ($($name:ident),+) => {
        #[derive(Default)]
        pub(super) struct Counters {
            $($name: AtomicU64,)+
            running: AtomicU64,
            waiting: AtomicU64,
        }

        impl Counters {
            $(pub(super) fn $name(&self, n: u64) {
                self.$name.fetch_add(n, Relaxed);
            })+

            pub(super) fn snapshot(&self) -> ServiceStats {
                ServiceStats {
                    $($name: self.$name.load(Relaxed),)+
                    running: self.running.load(Relaxed),
                    waiting: self.waiting.load(Relaxed),
                }
            }
        }
    };
}

counters!(answered, failed, duplicates, expired, lost, unsent);

impl Counters {
    fn note(&self, answer: &Result<ReplyBody, RemoteError>) {
        match answer {
            Ok(_) => self.answered(1),
            Err(_) => self.failed(1),
        }
    }

    fn hold(&self, running: usize, waiting: usize) {
        self.running.store(running as u64, Relaxed);
        self.waiting.store(waiting as u64, Relaxed);
    }
}
