//! One stream over all brokers of a registry.

use std::collections::HashMap;
use std::fmt;
use std::future::{poll_fn, Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{ready, Context, Poll};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::StreamMap;

use super::Registry;
use crate::{Agent, Error, Message, Offline, Subscribe, SubscribeFuture, Subscription};

/// The messages of all brokers of a registry, each with the name of its broker, as a [`Stream`]; made by
/// [`Brokers::subscribe`](crate::Brokers::subscribe).
///
/// An item is a message or an error in its place, as in a [`Subscription`]. When a broker refuses the filters or its
/// agent ends, an item says so, and it is the last of that broker. What comes from one broker comes in its order; the
/// brokers take turns. A broker that is removed leaves the stream without a word. The stream ends when the registry is
/// drained or dropped, which it does not prevent.
///
/// # Cancel safety
///
/// Dropping it gives all its subscriptions up.
///
/// ```no_run
/// # async fn example(brokers: mqtt_agent::Brokers) {
/// use std::time::Duration;
///
/// let mut alarms = brokers.subscribe(|agent| agent.subscribe("alarms/#"));
/// // Those that can be reached confirm; the others join when they are back.
/// let _ = tokio::time::timeout(Duration::from_secs(5), alarms.joined()).await;
/// while let Some((broker, item)) = alarms.recv().await {
///     match item {
///         Ok(alarm) => println!("{broker}: {}", alarm.topic()),
///         Err(error) => eprintln!("{broker}: {error}"),
///     }
/// }
/// # }
/// ```
#[must_use = "dropping a subscription ends it"]
pub struct BrokersSubscription {
    registry: Weak<Registry>,
    changes: WatchStream<()>,
    subscribe: Box<dyn Fn(&Agent) -> Subscribe + Send>,
    /// The generations of the brokers that were asked to join, also of those that have left since.
    asked: HashMap<Arc<str>, u64>,
    feeds: StreamMap<Arc<str>, Feed>,
    is_over: bool,
}

/// The part of one broker.
enum Feed {
    Joining(SubscribeFuture),
    Following(Subscription),
    Failed(Error),
    Ended,
}

impl BrokersSubscription {
    pub(super) fn new(registry: &Arc<Registry>, subscribe: Box<dyn Fn(&Agent) -> Subscribe + Send>) -> Self {
        Self {
            registry: Arc::downgrade(registry),
            // Its first item stands for the brokers there are.
            changes: WatchStream::new(registry.changes.subscribe()),
            subscribe,
            asked: HashMap::new(),
            feeds: StreamMap::new(),
            is_over: false,
        }
    }

    /// The next item with the name of its broker; None after the end. The same as the stream's, without a trait to
    /// import.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped takes nothing.
    pub async fn recv(&mut self) -> Option<(Arc<str>, Result<Message, Error>)> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns when each broker there is has confirmed the subscription or refused it, which its next item then says.
    /// A broker that cannot be reached holds this up: put a limit on it, and read on without that broker.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped loses nothing.
    pub async fn joined(&mut self) {
        poll_fn(|cx| {
            self.poll_changes(cx);
            let mut pending = false;
            for (_, feed) in self.feeds.iter_mut() {
                pending |= feed.poll_joined(cx).is_pending();
            }
            match pending {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    fn poll_changes(&mut self, cx: &mut Context<'_>) {
        while !self.is_over {
            match Pin::new(&mut self.changes).poll_next(cx) {
                Poll::Ready(Some(_)) => self.ask_brokers(),
                Poll::Ready(None) => self.handle_end(),
                Poll::Pending => return,
            }
        }
    }

    /// The registry is gone. A call that is under way is a handle, and would keep its agent alive for as long as the
    /// broker cannot be reached.
    fn handle_end(&mut self) {
        self.is_over = true;
        for (_, feed) in self.feeds.iter_mut().filter(|(_, feed)| matches!(feed, Feed::Joining(_))) {
            *feed = Feed::Failed(Error::closed());
        }
    }

    fn ask_brokers(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let there: HashMap<_, _> = registry.brokers.iter().map(|it| (it.key().clone(), it.generation)).collect();
        let gone: Vec<_> = self.asked.keys().filter(|name| !there.contains_key(*name)).cloned().collect();
        for name in gone {
            self.asked.remove(&name);
            self.feeds.remove(&name);
        }
        if registry.check_open().is_err() {
            self.is_over = true;
            return;
        }
        for (name, generation) in there {
            if self.asked.insert(name.clone(), generation) != Some(generation) {
                let feed = match registry.get(&name) {
                    Ok(agent) => Feed::join((self.subscribe)(&agent)),
                    Err(error) => Feed::Failed(error),
                };
                self.feeds.insert(name, feed);
            }
        }
    }
}

impl Stream for BrokersSubscription {
    type Item = (Arc<str>, Result<Message, Error>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_changes(cx);
        match Pin::new(&mut self.feeds).poll_next(cx) {
            // Another broker may be added.
            Poll::Ready(None) if !self.is_over => Poll::Pending,
            next => next,
        }
    }
}

impl FusedStream for BrokersSubscription {
    fn is_terminated(&self) -> bool {
        self.is_over && self.feeds.is_empty()
    }
}

impl Feed {
    fn join(subscribe: Subscribe) -> Self {
        Self::Joining(subscribe.timeout(Duration::MAX).offline(Offline::Wait).into_future())
    }

    fn poll_joined(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Joining(joining) = self {
            *self = match ready!(Pin::new(joining).poll(cx)) {
                Ok(subscription) => Self::Following(subscription),
                Err(error) => Self::Failed(error),
            };
        }
        Poll::Ready(())
    }
}

impl Stream for Feed {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ready!(self.poll_joined(cx));
        if let Self::Following(subscription) = &mut *self {
            if let Some(item) = ready!(Pin::new(subscription).poll_next(cx)) {
                return Poll::Ready(Some(item));
            }
            *self = Self::Failed(Error::closed());
        }
        match std::mem::replace(&mut *self, Self::Ended) {
            Self::Failed(error) => Poll::Ready(Some(Err(error))),
            _ => Poll::Ready(None),
        }
    }
}

impl fmt::Debug for BrokersSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokersSubscription").field("brokers", &self.asked.keys()).finish_non_exhaustive()
    }
}
