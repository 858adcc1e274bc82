//! The handle: each method checks, sends one command, awaits one reply.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;

use crate::actor::Lanes;
use crate::allowance::{Allowance, Share};
use crate::call::deadline_after;
use crate::collect::Collect;
use crate::command::{Command, Notice, RequestId, Unfinished};
use crate::options::Options;
use crate::publish::Publish;
use crate::request::{Request, RequestEach};
use crate::runtime::Runtime;
use crate::serve::{IncomingRequest, IntoReply, Serve};
use crate::siblings::Siblings;
use crate::state::State;
use crate::stats::{Counters, Stats};
use crate::subscribe::{IntoFilters, Subscribe};
use crate::{Error, QoS, Topic};

mod end;
mod start;

/// A handle to one connection to a broker, kept for the life of the process.
///
/// It is cheap to clone and may be used from any task or thread: hand clones to request handlers, workers and
/// background tasks. All of them share one connection, one set of subscriptions and one set of limits. It lives on the
/// Tokio runtime that it was connected on; its calls may be awaited there, on another one, or by any other executor.
///
/// When the last handle is dropped, what was accepted is still sent and acknowledged (for at most the agent's
/// [`timeout`](Options::timeout)), then the agent disconnects. A [`Subscription`](crate::Subscription) is no handle; a
/// call that is being awaited is.
///
/// ```no_run
/// use mqtt_agent::{Agent, Error};
///
/// /// Cloned, it goes wherever it is needed; all clones are one agent.
/// async fn example() -> Result<(), Error> {
///     let agent = Agent::connect("mqtt://localhost").await?;
///     let clone = agent.clone();
///     let task = tokio::spawn(async move { clone.publish("devices/42/led", "on").await });
///     agent.publish("devices/43/led", "on").await?;
///     task.await.expect("it does not panic")?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Shared>,
}

/// What all clones of a handle have in common.
pub(crate) struct Shared {
    pub(crate) lanes: Lanes,
    allowance: Arc<Allowance>,
    options: Arc<Options>,
    counters: Arc<Counters>,
    requests: AtomicU64,
    siblings: Arc<Siblings>,
    pub(crate) runtime: Runtime,
    /// Tells the correlation data of this agent from that of earlier ones with the same reply topic.
    nonce: u64,
}

impl Agent {
    /// Publishes a message.
    ///
    /// Awaited, it returns when the message is written to the socket (QoS 0), acknowledged by PUBACK (QoS 1, the
    /// default) or completed by PUBCOMP (QoS 2). An accepted QoS 1 or 2 message is sent again after a reconnect, in its
    /// first order, until it is acknowledged or its deadline has passed.
    ///
    /// Without a connection it does what its [`offline`](Publish::offline) says: by default it waits for one until its
    /// deadline.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// agent.publish("devices/42/led", "on").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// A message whose call is dropped before it was sent is not sent.
    ///
    /// # Errors
    ///
    /// [`Error::outcome`] tells whether it is safe to try again. Kinds:
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic), [`InvalidArgument`](crate::ErrorKind::InvalidArgument) (a
    /// property that does not fit its field, a value that cannot be written as JSON),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (properties before MQTT 5, a QoS or a retained message that this
    /// broker does not take), [`TooLarge`](crate::ErrorKind::TooLarge),
    /// [`PublishRefused`](crate::ErrorKind::PublishRefused), [`Timeout`](crate::ErrorKind::Timeout),
    /// [`Offline`](crate::ErrorKind::Offline), [`QueueFull`](crate::ErrorKind::QueueFull) (only with
    /// [`Offline::Queue`](crate::Offline::Queue)), [`Connection`](crate::ErrorKind::Connection) (QoS 0, lost before or
    /// while it was written), [`Closed`](crate::ErrorKind::Closed).
    pub fn publish<T>(&self, topic: T, payload: impl Into<Bytes>) -> Publish
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        Publish::new(self.clone(), topic.try_into().map_err(Into::into), payload.into())
    }

    /// Hands a QoS 0 message over without waiting for anything: returns when it is queued, and nobody hears of its
    /// outcome. [`Publish::try_send`] does the same with other settings. Without a connection it stays queued for the
    /// next one.
    ///
    /// ```no_run
    /// # fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// agent.try_publish("metrics/requests", "1")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::QueueFull`](crate::ErrorKind::QueueFull): as many messages wait as
    /// [`max_queued`](Options::max_queued) or [`max_queued_bytes`](Options::max_queued_bytes) allow, or they come
    /// faster than the agent's task takes them. The new message is the one refused.
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed), [`ErrorKind::InvalidTopic`](crate::ErrorKind::InvalidTopic),
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
    pub fn try_publish<T>(&self, topic: T, payload: impl Into<Bytes>) -> Result<(), Error>
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        self.publish(topic, payload).qos(QoS::AtMostOnce).try_send()
    }

    /// Subscribes to one filter or several, as one [`Subscription`](crate::Subscription): a stream of their messages.
    ///
    /// Awaited, it returns when the broker has confirmed all of them (SUBACK), at once where the agent holds them
    /// already: however many subscribers a filter has, the broker sees one. Without a connection it does what its
    /// [`offline`](Subscribe::offline) says; filters that the agent holds already are asked for again at the next one,
    /// and nobody waits for that.
    ///
    /// A slow subscriber loses the oldest messages and is told how many; [`acks`](Subscribe::acks) is for those that
    /// must lose nothing. `$share/<group>/<filter>` spreads the messages of a filter over all members of the group, each
    /// to one: the way to have many machines work on what is too much for one. The members are agents; subscribers to
    /// it within one agent are one member, and each of them gets what that member gets.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let mut readings = agent.subscribe(["sensors/+/temp", "sensors/+/humidity"]).await?;
    /// while let Some(item) = readings.recv().await {
    ///     match item {
    ///         Ok(reading) => println!("{}: {}", reading.topic(), reading.text().unwrap_or("not text")),
    ///         Err(gap) => eprintln!("{gap}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Filters that match the same messages
    ///
    /// Each subscription gets a message once, whatever the number of its filters that match. But a broker may send a
    /// message once for each of the agent's filters (MQTT-3.3.5-1), and in MQTT 3.1.1 nothing tells such a copy from
    /// another message. So a filter that another one covers (`a/#` covers `a/b` and `a/+`) is not left subscribed at the
    /// broker while that one is, at no lower QoS; it is subscribed again, and confirmed, before the other one leaves.
    ///
    /// What remains: filters that overlap and do not cover each other (`a/+` and `+/b`), or do at a lower QoS (`a/#` at
    /// QoS 0, `a/b` at QoS 1). With a broker that sends a copy for each, every subscription that matches gets each copy;
    /// with one that sends a single copy at the lowest QoS of them (mosquitto 2.0 does), a message may come at a lower
    /// QoS than asked for. For the moment in which one filter takes over from another, the broker holds both.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped leaves no subscription behind.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidFilter`](crate::ErrorKind::InvalidFilter),
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) (no filter, a capacity out of bounds, a client
    /// identifier that another subscription has), [`ErrorKind::Refused`](crate::ErrorKind::Refused) if it is to have a
    /// session of its own ([`acks`](Subscribe::acks)) and the broker refuses that,
    /// [`ErrorKind::SubscribeRefused`](crate::ErrorKind::SubscribeRefused) naming the filter, whereupon the others are
    /// given up too, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) (a setting before MQTT 5, wildcards or
    /// `$share` with a broker that has none), [`ErrorKind::Timeout`](crate::ErrorKind::Timeout),
    /// [`ErrorKind::Offline`](crate::ErrorKind::Offline),
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub fn subscribe(&self, filters: impl IntoFilters) -> Subscribe {
        Subscribe::new(self.clone(), filters.into_filters())
    }

    /// Subscribes, waits for `count` messages or until `timeout` has passed, and unsubscribes.
    ///
    /// Without a connection it does what its [`offline`](Collect::offline) says; one that is lost later does not end it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let readings = match agent.collect("sensors/+/temp", 10, Duration::from_secs(5)).await {
    ///     Ok(readings) => readings,
    ///     Err(error) if error.is_timeout() => error.into_messages(), // what came in time
    ///     Err(error) => return Err(error),
    /// };
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped leaves no subscription behind; what came so far is lost with it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) with what came in [`Error::messages`];
    /// [`ErrorKind::Lagged`](crate::ErrorKind::Lagged), with the same, if more came at once than there is room for:
    /// for `count` up to 65,536, or the agent's [`stream_capacity`](Options::stream_capacity) where that is more;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a count of 0; those of
    /// [`subscribe`](Self::subscribe).
    pub fn collect(&self, filters: impl IntoFilters, count: usize, timeout: Duration) -> Collect {
        Collect::new(self.subscribe(filters), count, timeout)
    }

    /// Calls a device: publishes a message and awaits its reply.
    ///
    /// The reply filter is subscribed, and confirmed, before the message leaves; it stays subscribed for the agent's
    /// [`reply_linger`](Options::reply_linger) after the last call, so the second call to a device costs one round
    /// trip. A reconnect in the middle of a call does not end it. On MQTT 5 the message expires with the call, and
    /// nothing has to be said about the way of the reply: `agent.request(topic, payload).await` tells the other side a
    /// topic of this agent's own.
    ///
    /// Without a connection it does what its [`offline`](Request::offline) says.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let pong = agent
    ///     .request("dev/42/rpc", r#"{"id":1,"method":"RPC.Ping"}"#)
    ///     .reply_to("dev/42/rpc/res")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped frees its place at once; a request that was not sent is not sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if no reply came, with [`Error::outcome`] telling whether the
    /// request left; [`ErrorKind::Remote`](crate::ErrorKind::Remote) if the reply is an error (see
    /// [`Request::error_from`]), with the reply in [`Error::messages`];
    /// [`ErrorKind::NoResponders`](crate::ErrorKind::NoResponders) if the broker says that nobody is there;
    /// [`ErrorKind::KeyInUse`](crate::ErrorKind::KeyInUse) if another call waits for the same reply;
    /// [`ErrorKind::SubscribeRefused`](crate::ErrorKind::SubscribeRefused) if the broker refuses the reply filter,
    /// [`ErrorKind::PublishRefused`](crate::ErrorKind::PublishRefused) if it refuses the message;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) without a
    /// [`reply_to`](Request::reply_to) before MQTT 5, or [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// where only the connection showed the version; [`InvalidTopic`](crate::ErrorKind::InvalidTopic),
    /// [`InvalidFilter`](crate::ErrorKind::InvalidFilter), [`TooLarge`](crate::ErrorKind::TooLarge),
    /// [`Offline`](crate::ErrorKind::Offline), [`Connection`](crate::ErrorKind::Connection) (at QoS 0, lost before or
    /// while it was written), [`Closed`](crate::ErrorKind::Closed).
    pub fn request<T>(&self, topic: T, payload: impl Into<Bytes>) -> Request
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        Request::new(self.clone(), topic.try_into().map_err(Into::into), payload.into())
    }

    /// Makes many calls, some at a time: a stream of their answers, each with its key, in the order in which they come.
    ///
    /// The requests are taken from the iterator one by one as there is room, so that there may be any number of them.
    /// Where the convention allows it, let them share one reply filter with a wildcard and tell the replies apart by a
    /// [`Correlation`](crate::rpc::Correlation): one subscription then serves them all.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::rpc::Correlation;
    /// use std::time::Duration;
    ///
    /// let calls = (0..10_000).map(|id| {
    ///     let call = agent.request(format!("dev/{id}/rpc"), "ping").reply_to("dev/+/rpc/res");
    ///     (id, call.correlation(Correlation::topic(id.to_string())))
    /// });
    /// let mut each = agent.request_each(calls).concurrency(500).timeout(Duration::from_secs(60)).attempts(3);
    /// while let Some((id, answer)) = each.recv().await {
    ///     match answer {
    ///         Ok(reply) => println!("{id}: {}", reply.text().unwrap_or("not text")),
    ///         Err(error) => eprintln!("{id}: {error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Without a connection each call does what its [`offline`](Request::offline) says.
    ///
    /// # Cancel safety
    ///
    /// Dropping the stream drops the calls under way, as [`request`](Self::request) says; those not begun are not made.
    ///
    /// # Errors
    ///
    /// Of each call by itself: those of [`request`](Self::request).
    pub fn request_each<K, I>(&self, requests: I) -> RequestEach<K, I::IntoIter>
    where
        I: IntoIterator<Item = (K, Request)>,
    {
        RequestEach::new(requests.into_iter())
    }

    /// Answers requests: runs `handler` for each message that comes by the pattern, and sends what it returns to where
    /// the request says (the response topic of MQTT 5, with its correlation data) or, for devices that say nothing, to
    /// where [`Serve::reply_to`] says.
    ///
    /// A pattern is a filter in which levels may have names: `dev/{id}/rpc` subscribes `dev/+/rpc`, and
    /// [`IncomingRequest::param`](crate::IncomingRequest::param) has the `id`; `{rest#}` as the last level takes all
    /// that follows. With `$share/<group>/…` each request goes to one of the services of the group. What the broker
    /// retains is no request.
    ///
    /// Awaited, it returns when the broker has confirmed the filter (SUBACK). Requests are then handled in tasks of their
    /// own on this Tokio runtime (the agent's, outside of one), [`concurrency`](Serve::concurrency) at a time; a request
    /// whose message expiry passed while it waited is not handled. The service is a handle: the agent does not end by
    /// itself while it runs, and is drained after its services were stopped, so that their last answers are sent.
    ///
    /// Without a connection it does what the agent's [`offline`](Options::offline) says. A service that runs outlives a
    /// connection, and goes on with the next.
    ///
    /// What a handler returns is sent, also an error: on MQTT 5 with the user property `error` (and `error-code`), so
    /// that [`request`](Self::request) fails with [`ErrorKind::Remote`](crate::ErrorKind::Remote); its payload is the
    /// text, or what [`Serve::error_payload`] makes of it. A handler that panics answers so, one that is aborted too, and
    /// the service goes on. So does one whose answer is larger than the broker takes, or has a property that does not fit
    /// its field. A request that comes twice is handled once: answered again if the first was, else
    /// by the one answer that is on its way.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let service = agent
    ///     .serve("dev/{id}/rpc", |request| async move {
    ///         match request.text() {
    ///             Ok("ping") => Ok(format!("pong from {}", request.param("id").unwrap_or_default())),
    ///             _ => Err("I know ping only"),
    ///         }
    ///     })
    ///     .reply_to("dev/{id}/rpc/res")
    ///     .await?;
    /// // …
    /// service.stop(Duration::from_secs(5)).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped leaves no service behind.
    ///
    /// # Errors
    ///
    /// [`InvalidFilter`](crate::ErrorKind::InvalidFilter) for a pattern, and
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic) for a reply topic, that cannot be used;
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for [`reply_to`](Serve::reply_to) beside
    /// [`reply_by`](Serve::reply_by); those of [`subscribe`](Self::subscribe).
    pub fn serve<H, F, R>(&self, pattern: impl AsRef<str>, handler: H) -> Serve
    where
        H: Fn(IncomingRequest) -> F + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
        R: IntoReply,
    {
        Serve::new(self.clone(), pattern.as_ref(), handler)
    }

    /// A number that this agent gives out once: to tell calls apart where their convention has a number for that, as
    /// with [`Correlation::topic`](crate::rpc::Correlation::topic). It is below 2^53, so that JSON can carry it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::rpc::Correlation;
    ///
    /// let id = agent.next_id();
    /// let call = agent.request(format!("v1/rpc/request/{id}"), "ping").reply_to("v1/rpc/response/+");
    /// let pong = call.correlation(Correlation::topic(id.to_string())).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_id(&self) -> u64 {
        self.next_request().0
    }

    /// A text of 16 characters that no other agent has: with [`next_id`](Self::next_id), what a convention needs to name
    /// its calls and where their replies come.
    pub fn unique_name(&self) -> String {
        format!("{:016x}", self.shared.nonce)
    }

    /// Whether there is a connection now: for a readiness probe. A call need not ask: it does what its
    /// [`offline`](Publish::offline) says.
    pub fn is_connected(&self) -> bool {
        self.shared.lanes.state.borrow().is_connected()
    }

    /// The state of the connection, to look at or to wait for a change of: the first that it tells of is one after this
    /// call. The receiver does not keep the agent alive; after the end it shows [`State::Closed`], and waiting for anything
    /// else is an error.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) {
    /// let mut state = agent.state();
    /// let _ = state.wait_for(|state| state.is_connected()).await;
    /// # }
    /// ```
    pub fn state(&self) -> watch::Receiver<State> {
        let mut state = self.shared.lanes.state.clone();
        state.mark_unchanged();
        state
    }

    pub(crate) fn state_now(&self) -> State {
        self.shared.lanes.state.borrow().clone()
    }

    /// What the agent has done and holds, the sessions of its subscriptions that acknowledge late
    /// ([`Acks`](crate::Acks)) included. Returns at once, and costs the agent's task nothing.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot().and(self.shared.siblings.stats())
    }

    /// Takes no more calls, finishes what was accepted for at most `timeout`, then disconnects. Subscriptions that
    /// acknowledge late ([`Acks`](crate::Acks)) get no more messages, and may finish and acknowledge those that they have.
    /// Returns what was not finished; the callers of that got their errors. Without a connection it waits for one, within
    /// the same time. A call that comes later fails with [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let unfinished = agent.drain(Duration::from_secs(5)).await?;
    /// assert!(unfinished.is_empty(), "{unfinished:?}");
    /// # Ok(())
    /// # }
    /// ```
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

    /// Disconnects now: everything that waits gets [`ErrorKind::Closed`](crate::ErrorKind::Closed), then the broker a
    /// DISCONNECT. Returns when that is done; at once without a connection. Closing twice is no error.
    /// [`drain`](Self::drain) finishes first what was accepted.
    ///
    /// # Cancel safety
    ///
    /// Dropping this does not stop the end, once it was polled.
    pub async fn close(&self) {
        // Only an agent that has ended answers with an error.
        let _ = self.end(None).await;
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    pub(crate) fn siblings(&self) -> &Arc<Siblings> {
        &self.shared.siblings
    }

    pub(crate) fn notices(&self) -> mpsc::UnboundedSender<Notice> {
        self.shared.lanes.notices.clone()
    }

    /// Whether it has ended, whoever ended it.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lanes.commands.is_closed()
    }

    pub(crate) fn into_shared(self) -> Arc<Shared> {
        self.shared
    }

    pub(crate) fn next_request(&self) -> RequestId {
        RequestId(self.shared.requests.fetch_add(1, Ordering::Relaxed))
    }

    /// Correlation data that no other request has, of this agent or another.
    pub(crate) fn correlation_data(&self, request: RequestId) -> [u8; 16] {
        let mut data = [0; 16];
        data[..8].copy_from_slice(&self.shared.nonce.to_be_bytes());
        data[8..].copy_from_slice(&request.0.to_be_bytes());
        data
    }

    /// A share of what may be handed over to be sent later, for a message of so many bytes.
    pub(crate) fn take_share(&self, bytes: usize) -> Result<Share, Error> {
        self.shared.allowance.take(bytes).ok_or_else(Error::queue_full)
    }

    pub(crate) fn try_command(&self, command: Command) -> Result<(), Error> {
        self.shared.lanes.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => Error::queue_full(),
            TrySendError::Closed(_) => Error::closed(),
        })
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("options", &self.shared.options)
            .field("state", &self.state_now())
            .finish_non_exhaustive()
    }
}
