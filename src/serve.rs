//! Answer requests: the other side of a call.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::call::deadline_after;
use crate::error::RemoteError;
use crate::subscribe::{Retained, Subscribe};
use crate::{Error, QoS};

mod answered;
mod pattern;
mod reply;
mod request;
mod responder;
mod server;

use pattern::{Pattern, Template};
pub use reply::{IntoReply, ReplyBody};
pub use request::IncomingRequest;
use server::{Counters, Server, Stop};

type Answering = Pin<Box<dyn Future<Output = Result<ReplyBody, RemoteError>> + Send>>;
type Handler = dyn Fn(IncomingRequest) -> Answering + Send + Sync;

/// A service about to be started; made by [`Agent::serve`]. Await it. The closures of the settings are run in the tasks
/// of the service, so they have to be quick and must not wait; one that panics is logged, and taken for one that found
/// nothing.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::RemoteError;
/// use std::time::Duration;
///
/// let service = agent
///     .serve("dev/42/rpc", |request| async move {
///         match request.json_at::<String>("/method").as_deref() {
///             Ok("ping") => Ok(r#"{"result":"pong"}"#),
///             _ => Err(RemoteError::new("no such method").with_code(404)),
///         }
///     })
///     .reply_by(|request| Some(format!("{}/rpc", request.json_at::<String>("/src").ok()?)))
///     .same_by(|request| Some(request.json_at::<u64>("/id").ok()?.to_string()))
///     .error_payload(|_, error| format!(r#"{{"error":{{"code":{}}}}}"#, error.code.unwrap_or_default()))
///     .concurrency(8)
///     .await?;
/// service.stop(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is served until this is awaited"]
pub struct Serve {
    agent: Agent,
    pattern: Result<Pattern, Error>,
    reply_to: Option<String>,
    capacity: usize,
    timeout: Duration,
    setup: Setup,
}

/// What a service does with a request.
struct Setup {
    handler: Arc<Handler>,
    reply_to: ReplyTo,
    reply_qos: QoS,
    qos: QoS,
    concurrency: usize,
    remembered: usize,
    remembered_for: Duration,
    error_payload: Option<Arc<ErrorPayload>>,
    same_by: Option<Arc<SameBy>>,
}

/// Where an answer goes that the request says nothing of.
enum ReplyTo {
    Nowhere,
    Template(Template),
    Closure(Box<ReplyBy>),
}

type ReplyBy = dyn Fn(&IncomingRequest) -> Option<String> + Send + Sync;
type ErrorPayload = dyn Fn(&IncomingRequest, &RemoteError) -> Bytes + Send + Sync;
type SameBy = dyn Fn(&IncomingRequest) -> Option<Bytes> + Send + Sync;

/// Handlers that run at the same time unless said otherwise.
const CONCURRENCY: usize = 64;
/// Answers that are remembered for requests that come twice, and for how long.
const REMEMBERED: usize = 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

impl Serve {
    pub(crate) fn new<H, F, R>(agent: Agent, pattern: &str, handler: H) -> Self
    where
        H: Fn(IncomingRequest) -> F + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
        R: IntoReply,
    {
        let (capacity, timeout) = (agent.options().stream_capacity, agent.options().timeout);
        let handler = Arc::new(move |request| -> Answering {
            let answer = handler(request);
            Box::pin(async move { answer.await.into_reply() })
        });
        let setup = Setup {
            handler,
            reply_to: ReplyTo::Nowhere,
            reply_qos: QoS::default(),
            qos: QoS::default(),
            concurrency: CONCURRENCY,
            remembered: REMEMBERED,
            remembered_for: REMEMBERED_FOR,
            error_payload: None,
            same_by: None,
        };
        Self { agent, pattern: Pattern::new(pattern), reply_to: None, capacity, timeout, setup }
    }

    /// The topic of the answer, where the request has no response topic of MQTT 5: with the names of the pattern in
    /// braces, such as `dev/{id}/rpc/res`. Without this and [`reply_by`](Self::reply_by), of which a service may have one,
    /// such a request is handled and not answered.
    pub fn reply_to(mut self, topic: impl Into<String>) -> Self {
        self.reply_to = Some(topic.into());
        self
    }

    /// In place of [`reply_to`](Self::reply_to), read from the request, such as the `src` of a JSON-RPC frame. Where it
    /// finds nothing, or no valid topic, the request is handled and not answered.
    pub fn reply_by<F>(mut self, topic: F) -> Self
    where
        F: Fn(&IncomingRequest) -> Option<String> + Send + Sync + 'static,
    {
        self.setup.reply_to = ReplyTo::Closure(Box::new(topic));
        self
    }

    /// The payload of an answer that is an error, such as the error object of a JSON-RPC frame. Default: the text of the
    /// error.
    pub fn error_payload<F, B>(mut self, payload: F) -> Self
    where
        F: Fn(&IncomingRequest, &RemoteError) -> B + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        self.setup.error_payload = Some(Arc::new(move |request, error| payload(request, error).into()));
        self
    }

    /// How many handlers may run at the same time, at least 1; each counts until the broker has its answer, and so does
    /// an answer that is given again. Further requests wait, as many as the [`capacity`](Self::capacity). Default: 64.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.setup.concurrency = concurrency.max(1);
        self
    }

    /// How many requests may wait for a handler before the oldest is lost, 1 to 1,048,576; see
    /// [`ServiceStats::lost`]. Default: the agent's [`stream_capacity`](crate::Options::stream_capacity).
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The quality of service to receive with. Default: [`QoS::AtLeastOnce`].
    pub fn qos(mut self, qos: QoS) -> Self {
        self.setup.qos = qos;
        self
    }

    /// The quality of service to answer with. Default: [`QoS::AtLeastOnce`].
    pub fn reply_qos(mut self, qos: QoS) -> Self {
        self.setup.reply_qos = qos;
        self
    }

    /// How many answers are remembered, and for how long, to be given again to a request that comes once more; they take
    /// 16 MiB at most, all that is kept of them counted. A request that comes again while its handler runs has its answer
    /// from that, once. 0 remembers none. Default: 1024, for a minute.
    pub fn remember(mut self, answers: usize, age: Duration) -> Self {
        (self.setup.remembered, self.setup.remembered_for) = (answers, age);
        self
    }

    /// What makes two requests with the same reply topic the same one, delivered twice: such as their JSON `id`. Default:
    /// the correlation data of MQTT 5; requests without that are all different.
    pub fn same_by<F, K>(mut self, key: F) -> Self
    where
        F: Fn(&IncomingRequest) -> Option<K> + Send + Sync + 'static,
        K: Into<Bytes>,
    {
        self.setup.same_by = Some(Arc::new(move |request| key(request).map(Into::into)));
        self
    }

    /// How long to wait for the broker's confirmation of the filter, counted from when this is first polled, and for
    /// that of each answer. Default: the agent's [`timeout`](crate::Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn start(self) -> Result<Service, Error> {
        let pattern = Arc::new(self.pattern?);
        let mut setup = self.setup;
        if let Some(template) = &self.reply_to {
            if !matches!(setup.reply_to, ReplyTo::Nowhere) {
                return Err(Error::invalid_argument("a service has reply_to or reply_by, not both"));
            }
            setup.reply_to = ReplyTo::Template(Template::new(template, &pattern)?);
        }
        let subscribe = Subscribe::new(self.agent.clone(), Ok(vec![pattern.filter().clone()]));
        let subscribe = subscribe.qos(setup.qos).retained(Retained::Ignore).capacity(self.capacity);
        let subscription = subscribe.timeout(self.timeout).await?;
        let counters = Arc::new(Counters::default());
        let (stop, stops) = oneshot::channel();
        let runtime = self.agent.runtime().clone();
        let server = Server::new(self.agent, subscription, pattern, setup, self.capacity, counters.clone(), stops);
        runtime.spawn(server.run(self.timeout));
        Ok(Service { stop, counters })
    }
}

impl IntoFuture for Serve {
    type Output = Result<Service, Error>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        ServeFuture(Box::pin(self.start()))
    }
}

/// The future of a [`Serve`].
///
/// # Cancel safety
///
/// Dropped at any point, it leaves no service behind.
#[must_use = "nothing is served until this is awaited"]
pub struct ServeFuture(Pin<Box<dyn Future<Output = Result<Service, Error>> + Send>>);

impl Future for ServeFuture {
    type Output = Result<Service, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// A service that runs; made by [`Agent::serve`]. It goes on over a reconnect.
///
/// Dropping it ends it at once: the filter is given up, handlers that run are aborted, and what they were to answer is
/// answered with an error. [`stop`](Self::stop) lets them finish.
#[must_use = "dropping a service ends it"]
pub struct Service {
    stop: oneshot::Sender<Stop>,
    counters: Arc<Counters>,
}

/// What a service has done and holds, at one moment; see [`Service::stats`]. All but the last two only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServiceStats {
    /// Requests whose handler returned an answer.
    pub answered: u64,
    /// Requests whose handler returned an error or panicked.
    pub failed: u64,
    /// Requests that came twice: answered from memory, or by the handler that runs for the first.
    pub duplicates: u64,
    /// Requests that had expired before a handler was free.
    pub expired: u64,
    /// Requests that were lost because too many waited.
    pub lost: u64,
    /// Answers that could not be sent, or not as they were.
    pub unsent: u64,
    /// Now: handlers that run, and answers that the broker does not have yet.
    pub running: u64,
    /// Now: requests that wait for a handler.
    pub waiting: u64,
}

impl Service {
    /// Takes no new requests, lets the handlers that run finish for at most `timeout`, and returns how many did not:
    /// these were aborted. What they, and the requests that waited for a handler, were asked is answered with an error.
    /// Where there is a connection, it also waits, within the same time, until the broker has confirmed that it sends no
    /// more of them (UNSUBACK). What comes until then is acknowledged and not handled: whoever asked hears nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping this does not stop the end, once it was polled; before that it ends the service as dropping it does.
    pub async fn stop(self, timeout: Duration) -> usize {
        let (reply, answer) = oneshot::channel();
        match self.stop.send(Stop { until: deadline_after(timeout), reply }) {
            Ok(()) => answer.await.unwrap_or_default(),
            // The agent was closed before.
            Err(_) => 0,
        }
    }

    /// What the service has done and holds.
    pub fn stats(&self) -> ServiceStats {
        self.counters.snapshot()
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
