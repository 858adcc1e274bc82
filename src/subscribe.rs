//! Subscribe to filters, and take the messages as a stream.

use std::fmt;
use std::future::{poll_fn, Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{timeout, Instant};

use crate::agent::Agent;
use crate::call::{deadline_after, Call};
use crate::command::{self, Event, Feed, Reply, SubscriberGuard, Wish};
use crate::events::Events;
use crate::options::{check_capacity, Offline};
use crate::runtime::Runtime;
use crate::siblings::{self, Opened, Sibling};
use crate::stats::Counters;
use crate::{Error, Filter, Message, QoS};

mod into_filters;

pub use into_filters::IntoFilters;

/// Which of the messages that the broker retains a subscriber takes.
///
/// The broker sends the retained messages of a filter whenever it gets a SUBSCRIBE for it (MQTT-3.3.1-6).
/// [`Message::is_retained`] tells them from those that are published now.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Retained;
///
/// let mut events = agent.subscribe("doors/+/opened").retained(Retained::Ignore).await?; // only what comes from now on
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Retained {
    /// Those that come because this subscriber is the first on its filter. A later one starts with the next message
    /// and costs the broker nothing.
    #[default]
    IfFirst,
    /// All that there are, even where others have the filter already: costs one more SUBSCRIBE, whose retained
    /// messages go to this subscriber alone.
    Include,
    /// None: only what is published from now on.
    Ignore,
    /// Nothing else: no message that is published from now on. Costs what [`Include`](Self::Include) costs.
    Only,
}

impl Retained {
    pub(crate) fn needs_subscribe(self) -> bool {
        matches!(self, Self::Include | Self::Only)
    }

    pub(crate) fn wants_any(self) -> bool {
        self != Self::Ignore
    }
}

/// When a subscription's messages of QoS 1 and 2 are acknowledged to the broker.
///
/// Anything but [`OnArrival`](Self::OnArrival) gives the subscription a session and a connection of its own, made with
/// the agent's options except for the last will: MQTT has one order of acknowledgements, and one window for what is not
/// acknowledged, per session, so on the agent's own connection one slow consumer would hold up everybody's messages.
/// There, its stream holds at most [`capacity`](Subscribe::capacity) messages; then nothing more is read, so that the
/// broker keeps the rest, and nothing is lost, at QoS 0 neither (until the broker itself drops some). Other
/// subscriptions, publishes and requests go on whatever becomes of it. It belongs to the agent and ends with it.
///
/// With [`clean_session(false)`](crate::Options::clean_session) that session is kept by the broker as well, and what was
/// not acknowledged when the process died is sent again to the next process that makes the same subscription. Dropping
/// the subscription gives it up, at the broker too; to be continued later, [`close`](Agent::close) the agent, or
/// [`drain`](Agent::drain) it, first. The state of that connection is not part of [`Agent::state`]; it reconnects as the
/// agent does. If the policy gives it up while the agent lives, its stream ends with the reason as its last item. Messages
/// that came before a reconnect and were not acknowledged come again after it: at QoS 1 once more to a stream that has
/// them already, at QoS 2 not.
///
/// ```no_run
/// # async fn work(_: &mqtt_agent::Message) -> Result<(), std::io::Error> { Ok(()) }
/// # async fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{Acks, Agent};
///
/// let agent = Agent::builder("mqtt://localhost")?.client_id("worker-1").clean_session(false).connect().await?;
/// let mut jobs = agent.subscribe("jobs/#").acks(Acks::Manual).await?;
/// while let Some(job) = jobs.recv().await {
///     let job = job?;
///     if work(&job).await.is_err() {
///         // Not acknowledged, it would hold up those behind it.
///         agent.publish("failed-jobs", job.payload().clone()).await?;
///     }
///     job.ack();
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Acks {
    /// As they arrive. A stream that is not read loses the oldest and says so.
    #[default]
    OnArrival,
    /// As they are taken from the stream; where it has clones, when the last of them has taken it. What nobody took is
    /// not acknowledged.
    OnTake,
    /// By [`Message::ack`], for each message. At most [`capacity`](Subscribe::capacity) are unacknowledged at once.
    Manual,
}

/// A subscription about to be made; made by [`Agent::subscribe`]. Await it.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::QoS;
/// use std::time::Duration;
///
/// let readings = agent
///     .subscribe("sensors/#")
///     .qos(QoS::AtMostOnce)
///     .capacity(16_384) // for bursts
///     .timeout(Duration::from_secs(2))
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is subscribed until this is awaited"]
#[derive(Debug, Clone)]
pub struct Subscribe {
    agent: Agent,
    filters: Result<Vec<Filter>, Error>,
    wish: Wish,
    capacity: usize,
    timeout: Duration,
    offline: Offline,
    acks: Acks,
    client_id: Option<String>,
}

impl Subscribe {
    pub(crate) fn new(agent: Agent, filters: Result<Vec<Filter>, Error>) -> Self {
        let options = agent.options();
        let (capacity, timeout, offline) = (options.stream_capacity, options.timeout, options.offline);
        Self {
            agent,
            filters,
            wish: Wish::new(QoS::default(), Retained::default()),
            capacity,
            timeout,
            offline,
            acks: Acks::default(),
            client_id: None,
        }
    }

    /// The highest quality of service to receive with. Where several subscribers share a filter, the highest asked
    /// for counts for all. Default: [`QoS::AtLeastOnce`].
    pub fn qos(mut self, qos: QoS) -> Self {
        self.wish.qos = qos;
        self
    }

    /// Which retained messages to take. Default: [`Retained::IfFirst`].
    pub fn retained(mut self, retained: Retained) -> Self {
        self.wish.retained = retained;
        self
    }

    /// Whether messages that this agent publishes itself are left out. Needs MQTT 5: on a connection of an earlier
    /// version the call fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported). All subscribers of a
    /// filter in one agent must say the same, for the broker has one subscription for them all; a shared subscription
    /// cannot have it (MQTT-3.8.3-4). Default: false.
    pub fn no_local(mut self, no_local: bool) -> Self {
        self.wish.no_local = no_local;
        self
    }

    /// Whether messages keep the retain flag that they were published with, so that
    /// [`Message::is_retained`] tells that of live ones too. Needs MQTT 5. Retained messages then cannot be told from
    /// live ones: they come whenever the broker sends them, and [`Retained::Only`] is not possible. All subscribers of
    /// a filter in one agent must say the same. Default: false.
    pub fn retain_as_published(mut self, retain_as_published: bool) -> Self {
        self.wish.retain_as_published = retain_as_published;
        self
    }

    /// How many messages are held for this subscriber before it loses the oldest, 1 to 1,048,576; rounded up to a
    /// power of two. With [`acks`](Self::acks) other than [`Acks::OnArrival`], the exact number that may be
    /// unacknowledged, and nothing is lost. Default: the agent's [`stream_capacity`](crate::Options::stream_capacity).
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    pub(crate) fn capacity_of_at_least(mut self, capacity: usize) -> Self {
        self.capacity = self.capacity.max(capacity);
        self
    }

    /// How long to wait for the broker's confirmation, counted from when this is awaited or made a future. Default: the
    /// agent's [`timeout`](crate::Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What to do while there is no connection; [`Offline::Queue`] does here what [`Offline::Wait`] does. Default: the
    /// agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    /// When its messages are acknowledged; [`Acks`] has an example. Default: [`Acks::OnArrival`].
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// The client identifier of the session of its own that a subscription has with [`acks`](Self::acks) other than
    /// [`Acks::OnArrival`]. Default: random, where the agent's is; else the agent's, a hyphen and eight hexadecimal
    /// digits that follow from the filters, so that a session that the broker keeps is found again. MQTT 3.1 allows 23
    /// characters in all: with an agent's identifier of more than 14, this has to be set.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.agent.runtime()
    }

    fn check(&self) -> Result<Vec<Filter>, Error> {
        check_capacity(self.capacity).map_err(Error::invalid_argument)?;
        if self.acks == Acks::OnArrival && self.client_id.is_some() {
            return Err(Error::invalid_argument(
                "only a subscription that acknowledges late has a client_id of its own",
            ));
        }
        let filters = self.filters.clone()?;
        if filters.is_empty() {
            return Err(Error::invalid_argument("a subscription needs at least one filter"));
        }
        self.check_wish(&filters)?;
        Ok(filters)
    }

    fn check_wish(&self, filters: &[Filter]) -> Result<(), Error> {
        let Wish { retained, no_local, retain_as_published, .. } = self.wish;
        if (no_local || retain_as_published) && !self.agent.options().version.may_be_5() {
            let what = "no_local and retain_as_published belong to MQTT 5: set Options::version";
            return Err(Error::unsupported(what));
        }
        if retain_as_published && retained == Retained::Only {
            return Err(Error::invalid_argument(
                "with retain_as_published nothing tells which messages are Retained::Only",
            ));
        }
        if no_local && filters.iter().any(|filter| filter.share_group().is_some()) {
            return Err(Error::invalid_argument("a shared subscription cannot be no_local [MQTT-3.8.3-4]"));
        }
        Ok(())
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, Error>;
    type IntoFuture = SubscribeFuture;

    fn into_future(self) -> SubscribeFuture {
        let (timeout, acks) = (self.timeout, self.acks);
        let state = match self.check() {
            Ok(filters) => Subscribing::Start(Box::new(self), filters, deadline_after(timeout)),
            Err(error) => Subscribing::Refused(error),
        };
        SubscribeFuture { state, timeout, acks }
    }
}

/// The future of a [`Subscribe`].
///
/// # Cancel safety
///
/// Dropped at any point, it leaves nothing behind: a filter that only it wanted is unsubscribed, and a session of its own
/// ends.
#[must_use = "nothing is subscribed until this is awaited"]
pub struct SubscribeFuture {
    state: Subscribing,
    timeout: Duration,
    acks: Acks,
}

enum Subscribing {
    Refused(Error),
    Start(Box<Subscribe>, Vec<Filter>, Instant),
    Called { call: Box<Call<command::Subscribe, Feed>>, counters: Arc<Counters>, runtime: Runtime, own: Option<Own> },
    Done,
}

/// The session that a subscription is about to have of its own.
struct Own {
    sibling: Sibling,
    first: oneshot::Receiver<Result<(), Error>>,
    _beside: Agent,
}

impl Subscribe {
    fn start(self, filters: Vec<Filter>, deadline: Instant) -> Result<Subscribing, Error> {
        let (agent, offline, own) = match self.acks {
            Acks::OnArrival => (self.agent, self.offline, None),
            Acks::OnTake | Acks::Manual => {
                let is_patient = self.offline != Offline::Fail;
                if self.agent.is_closed() {
                    return Err(Error::closed());
                }
                if !is_patient && !self.agent.is_connected() {
                    return Err(Error::offline());
                }
                let options = siblings::options(self.agent.options(), self.client_id, &filters, self.capacity)?;
                let Opened { agent, sibling, first } = self.agent.siblings().open(&self.agent, options, is_patient)?;
                // It has no connection yet, and is being given one.
                (agent, Offline::Wait, Some(Own { sibling, first, _beside: self.agent }))
            }
        };
        let (reply, answer) = Reply::channel();
        let command =
            command::Subscribe { filters, wish: self.wish, capacity: self.capacity, offline, deadline, reply };
        let (counters, runtime) = (agent.counters(), agent.runtime().clone());
        let call = Call::new(agent.into_shared(), command, answer, deadline);
        Ok(Subscribing::Called { call: Box::new(call), counters, runtime, own })
    }
}

impl Future for SubscribeFuture {
    type Output = Result<Subscription, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.state = match std::mem::replace(&mut self.state, Subscribing::Done) {
            Subscribing::Refused(error) => return Poll::Ready(Err(error)),
            Subscribing::Start(subscribe, filters, deadline) => subscribe.start(filters, deadline)?,
            state => state,
        };
        // Polled after it was ready.
        let Subscribing::Called { call, .. } = &mut self.state else { return Poll::Pending };
        let answer = ready!(call.poll(cx));
        let called = std::mem::replace(&mut self.state, Subscribing::Done);
        let Subscribing::Called { counters, runtime, own, .. } = called else { return Poll::Pending };
        Poll::Ready(match (answer, own) {
            (Ok(feed), own) => {
                let guard = Guard { subscriber: feed.guard, _own: own.map(|own| Box::new(own.sibling)) };
                Ok(Subscription {
                    events: Events::new(feed.events),
                    channel: feed.channel,
                    guard: Arc::new(guard),
                    granted: feed.granted.into(),
                    counters,
                    runtime,
                    timeout: self.timeout,
                    acks: self.acks,
                    is_ended: false,
                })
            }
            // A session that could not be had says why; the call was only closed by that.
            (Err(error), Some(mut own)) => Err(own.first.try_recv().ok().and_then(Result::err).unwrap_or(error)),
            (Err(error), None) => Err(error),
        })
    }
}

/// The messages of one or several filters, as a [`Stream`].
///
/// An item is a message, or an error in its place: [`ErrorKind::Lagged`](crate::ErrorKind::Lagged) with the number of
/// messages lost because they were not taken in time (never with [`Acks::OnTake`] or [`Acks::Manual`]), or
/// [`ErrorKind::SubscribeRefused`](crate::ErrorKind::SubscribeRefused) when the broker did not take the filter back
/// after a reconnect. The stream goes on after either. It ends when the agent does: it does not keep the agent alive. One
/// that has a session of its own ends with that too, and its last item is then the reason ([`Acks`]).
///
/// A clone is one more receiver of the same messages, from now on. When the last one is dropped, in any thread, in or
/// outside of a runtime, the filters that nobody else wants are unsubscribed.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// let mut readings = agent.subscribe(["sensors/+/temp", "sensors/+/humidity"]).await?;
/// while let Some(item) = readings.recv().await {
///     match item {
///         Ok(message) => println!("{}: {} bytes", message.topic(), message.payload().len()),
///         Err(gap) => eprintln!("{gap}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a subscription ends it"]
pub struct Subscription {
    events: Events,
    channel: broadcast::WeakSender<Event>,
    guard: Arc<Guard>,
    granted: Arc<[(Filter, QoS)]>,
    counters: Arc<Counters>,
    runtime: Runtime,
    timeout: Duration,
    acks: Acks,
    is_ended: bool,
}

/// Ends the subscription, then the session that it has of its own.
struct Guard {
    subscriber: SubscriberGuard,
    /// Boxed, as few have one.
    _own: Option<Box<Sibling>>,
}

impl Subscription {
    /// The next item; None after the end. The same as the stream's, without a trait to import.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped takes nothing.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The filters and the QoS the broker granted each when the subscription was made; it may be lower than asked for.
    ///
    /// Where messages filled a subscription with [`Acks::OnTake`] or [`Acks::Manual`] before the broker had confirmed
    /// all filters, the call returned with those, and the filters that were confirmed by then.
    pub fn granted(&self) -> &[(Filter, QoS)] {
        &self.granted
    }

    /// Ends the subscription and returns when the broker has confirmed (UNSUBACK), at once where others still want the
    /// filters, also those of a clone. Without a connection it waits for the next one, within the
    /// [`timeout`](Subscribe::timeout) the subscription was made with.
    ///
    /// # Cancel safety
    ///
    /// The subscription ends even if this is dropped.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let alarms = agent.subscribe("alarms/#").await?;
    /// alarms.unsubscribe().await?; // from now on the broker sends none
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the broker did not confirm in time; the subscription has
    /// ended for this side all the same. [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the agent ends before.
    pub async fn unsubscribe(self) -> Result<(), Error> {
        let Some(guard) = Arc::into_inner(self.guard) else { return Ok(()) };
        let answer = guard.subscriber.unsubscribe();
        match self.runtime.timed(|| timeout(self.timeout, answer)).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(Error::closed())),
            Err(_) => Err(Error::timeout("the broker did not confirm the end of the subscription in time")),
        }
    }
}

impl Clone for Subscription {
    fn clone(&self) -> Self {
        let events = match self.channel.upgrade() {
            Some(channel) => channel.subscribe(),
            // The agent has ended, and so does this stream.
            None => broadcast::channel(1).1,
        };
        Self {
            events: Events::new(events),
            channel: self.channel.clone(),
            guard: self.guard.clone(),
            granted: self.granted.clone(),
            counters: self.counters.clone(),
            runtime: self.runtime.clone(),
            timeout: self.timeout,
            acks: self.acks,
            is_ended: false,
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.events.poll_recv(cx)) {
            Ok(mut event) => {
                let by_hand = |message: &Message| self.acks == Acks::Manual && message.qos() != QoS::AtMostOnce;
                if let Some(message) = event.as_mut().ok().filter(|message| !by_hand(message)) {
                    message.take();
                }
                Some(event)
            }
            Err(RecvError::Lagged(lost)) => {
                self.counters.lagged().add_shared(lost);
                Some(Err(Error::lagging(lost)))
            }
            Err(RecvError::Closed) => {
                self.is_ended = true;
                None
            }
        })
    }
}

impl FusedStream for Subscription {
    fn is_terminated(&self) -> bool {
        self.is_ended
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("granted", &self.granted).finish_non_exhaustive()
    }
}

impl fmt::Debug for SubscribeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeFuture").finish_non_exhaustive()
    }
}
