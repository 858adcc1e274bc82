//! Subscribe to filters, and take the messages as a stream.

use std::fmt;
use std::future::{poll_fn, Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::call::{deadline_after, Call};
use crate::command::{self, Command, Event, Feed, Reply, SubscriberGuard, Wish};
use crate::events::Events;
use crate::options::{check_capacity, Offline};
use crate::stats::Counters;
use crate::{Error, Filter, Message, QoS, Topic, Version};

/// Which of the messages that the broker retains a subscriber takes.
///
/// The broker sends the retained messages of a filter whenever it gets a SUBSCRIBE for it (MQTT-3.3.1-6).
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

/// One filter or several: a text, a [`Filter`], a [`Topic`], or an array, a slice or a `Vec` of them, owned or lent.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// let one = agent.subscribe("sensors/+/temp").await?;
/// let two = agent.subscribe(["sensors/+/temp", "sensors/+/humidity"]).await?;
/// let many: Vec<String> = (0..100).map(|id| format!("devices/{id}/state")).collect();
/// let many = agent.subscribe(&many).await?;
/// # Ok(())
/// # }
/// ```
pub trait IntoFilters: sealed::Sealed {
    /// The filters, each checked.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidFilter`](crate::ErrorKind::InvalidFilter) for the first that is none.
    fn into_filters(self) -> Result<Vec<Filter>, Error>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! one_filter {
    ($($type:ty),*) => {$(
        impl sealed::Sealed for $type {}

        impl IntoFilters for $type {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                Ok(vec![self.try_into()?])
            }
        }
    )*};
}

one_filter!(&str, String, &String, Filter, &Filter, Topic, &Topic);

macro_rules! many_filters {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}

        impl<$($generics)*> IntoFilters for $type
        where
            T: TryInto<Filter>,
            T::Error: Into<Error>,
        {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                self.into_iter().map(|filter| filter.try_into().map_err(Into::into)).collect()
            }
        }
    )*};
}

many_filters!([T, const N: usize] [T; N], [T] Vec<T>);

macro_rules! lent_filters {
    ($([$($generics:tt)*] $type:ty),*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}

        impl<$($generics)*> IntoFilters for $type
        where
            T: TryInto<Filter> + Clone,
            T::Error: Into<Error>,
        {
            fn into_filters(self) -> Result<Vec<Filter>, Error> {
                self.iter().map(|filter| filter.clone().try_into().map_err(Into::into)).collect()
            }
        }
    )*};
}

lent_filters!([T] &[T], [T, const N: usize] &[T; N], [T] &Vec<T>);

/// A subscription about to be made; made by [`Agent::subscribe`]. Await it.
#[must_use = "nothing is subscribed until this is awaited"]
#[derive(Debug, Clone)]
pub struct Subscribe {
    agent: Agent,
    filters: Result<Vec<Filter>, Error>,
    wish: Wish,
    capacity: usize,
    timeout: Duration,
    offline: Offline,
}

impl Subscribe {
    pub(crate) fn new(agent: Agent, filters: Result<Vec<Filter>, Error>) -> Self {
        let options = agent.options();
        let (capacity, timeout, offline) = (options.stream_capacity, options.timeout, options.offline);
        let wish = Wish::new(QoS::default(), Retained::default());
        Self { agent, filters, wish, capacity, timeout, offline }
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

    /// Whether messages that this agent publishes itself are left out. Needs MQTT 5. All subscribers of a filter in one
    /// agent must say the same, for the broker has one subscription for them all; a shared subscription cannot have it
    /// (MQTT-3.8.3-4). Default: false.
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
    /// power of two. Default: the agent's [`stream_capacity`](crate::Options::stream_capacity).
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

    /// What to do while there is no connection. Default: the agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    fn check(&self) -> Result<Vec<Filter>, Error> {
        check_capacity(self.capacity).map_err(Error::invalid_argument)?;
        let filters = self.filters.clone()?;
        if filters.is_empty() {
            return Err(Error::invalid_argument("a subscription needs at least one filter"));
        }
        self.check_wish(&filters)?;
        Ok(filters)
    }

    fn check_wish(&self, filters: &[Filter]) -> Result<(), Error> {
        let Wish { retained, no_local, retain_as_published, .. } = self.wish;
        if (no_local || retain_as_published) && matches!(self.agent.options().version, Version::V31 | Version::V311) {
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
        let counters = self.agent.counters();
        let filters = match self.check() {
            Ok(filters) => filters,
            Err(error) => return SubscribeFuture { call: Call::refused(error), counters, timeout: self.timeout },
        };
        let deadline = deadline_after(self.timeout);
        let (reply, answer) = Reply::channel();
        let command = command::Subscribe {
            filters,
            wish: self.wish,
            capacity: self.capacity,
            offline: self.offline,
            deadline,
            reply,
        };
        let call = Call::new(self.agent.into_shared(), Command::Subscribe(command), answer, deadline);
        SubscribeFuture { call, counters, timeout: self.timeout }
    }
}

/// The future of a [`Subscribe`].
///
/// # Cancel safety
///
/// Dropped at any point, it leaves nothing behind: a filter that only it wanted is unsubscribed.
#[must_use = "nothing is subscribed until this is awaited"]
pub struct SubscribeFuture {
    call: Call<Feed>,
    counters: Arc<Counters>,
    timeout: Duration,
}

impl Future for SubscribeFuture {
    type Output = Result<Subscription, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let feed = ready!(self.call.poll(cx))?;
        Poll::Ready(Ok(Subscription::new(feed, self.counters.clone(), self.timeout)))
    }
}

/// The messages of one or several filters, as a [`Stream`].
///
/// An item is a message, or an error in its place: [`ErrorKind::Lagged`](crate::ErrorKind::Lagged) with the number of
/// messages lost because they were not taken in time, or
/// [`ErrorKind::SubscribeRefused`](crate::ErrorKind::SubscribeRefused) when the broker did not take the filter back
/// after a reconnect. The stream goes on after either. It ends when the agent does: it does not keep the agent alive.
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
    guard: Arc<SubscriberGuard>,
    granted: Arc<[(Filter, QoS)]>,
    counters: Arc<Counters>,
    timeout: Duration,
    is_ended: bool,
}

impl Subscription {
    fn new(feed: Feed, counters: Arc<Counters>, timeout: Duration) -> Self {
        Self {
            events: Events::new(feed.events),
            channel: feed.channel,
            guard: Arc::new(feed.guard),
            granted: feed.granted.into(),
            counters,
            timeout,
            is_ended: false,
        }
    }

    /// The next item; None after the agent has ended. The same as the stream's, without a trait to import.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped takes nothing.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The filters and the QoS the broker granted each when the subscription was made; it may be lower than asked for.
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
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if the broker did not confirm in time; the subscription has
    /// ended for this side all the same. [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the agent ends before.
    pub async fn unsubscribe(self) -> Result<(), Error> {
        let Some(guard) = Arc::into_inner(self.guard) else { return Ok(()) };
        match timeout(self.timeout, guard.unsubscribe()).await {
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
            timeout: self.timeout,
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
            Ok(event) => Some(event),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_in_many_forms() {
        fn texts(filters: impl IntoFilters) -> Vec<String> {
            filters.into_filters().unwrap().into_iter().map(String::from).collect()
        }
        let both = ["a", "b/#"];
        let (lent, topic) = (&both, &Topic::new("a").unwrap());
        let owned: Vec<String> = both.map(Into::into).into();
        assert_eq!(texts(both), both);
        assert_eq!(texts(lent), both);
        assert_eq!(texts(&both[..]), both);
        assert_eq!(texts(both.to_vec()), both);
        assert_eq!(texts(&owned), both);
        assert_eq!(texts(&owned[..]), both);
        assert_eq!(texts(owned), both);
        assert_eq!(texts(both.map(|text| Filter::new(text).unwrap())), both);
        assert_eq!(texts("a"), ["a"]);
        assert_eq!(texts(topic), ["a"]);
        assert!(["a", "#/b"].into_filters().is_err());
    }
}
