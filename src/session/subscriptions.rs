//! Filters at the broker, and the local subscribers that share them.
//!
//! A filter is brought in line step by step: it is marked due when what the broker holds differs from what the
//! subscribers want, and a due filter becomes part of the next SUBSCRIBE or UNSUBSCRIBE. At most one packet per filter
//! is in flight, so acknowledgements cannot be confused, and after a lost connection the same marking asks for all
//! that is missing.

use std::collections::VecDeque;

use smallvec::SmallVec;
use tokio::sync::{broadcast, mpsc};

use super::request::ReplyQueue;
use super::shared::{Farewell, Link, LinkState, Shared, Step, Window};
use crate::command::{Event, Feed, Notice, Reply, SubscriberKey, Wish};
use crate::options::Offline;
use crate::router::Router;
use crate::slots::{self, Slots};
use crate::{Error, Filter};

slots::key! {
    pub(super) struct FilterKey;
}

/// What the router knows of a filter: as much as most messages need on their way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) filter: FilterKey,
    /// The subscriber, if there is one only, and it wants every message that is not retained. It may be gone already
    /// when nobody has come after it.
    pub(super) only: Option<SubscriberKey>,
}

#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) router: Router<Route>,
    pub(super) filters: Slots<FilterKey, Shared>,
    pub(super) subscribers: Slots<SubscriberKey, Subscriber>,
    /// Filters to SUBSCRIBE or UNSUBSCRIBE, in the order in which they were asked for.
    pub(super) due: VecDeque<FilterKey>,
    /// Numbers the deliveries, so that one reaches a subscriber once however many of its filters match.
    pub(super) delivery: u64,
    /// Kept between deliveries for their memory only.
    pub(super) matched: Vec<Route>,
    pub(super) answered: Vec<SubscriberKey>,
    pub(super) hasher: Hasher,
    /// Whether filters may rely on others.
    pub(super) is_covering: bool,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    /// The number of subscribers at which those whose callers left are swept out.
    sweep_at: usize,
    /// The subscription identifier of the next SUBSCRIBE.
    next_identifier: u32,
}

type Hasher = foldhash::fast::RandomState;

/// Lists up to this length are not worth a sweep.
const MIN_SWEEP: usize = 64;

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) sink: Sink,
    /// Mostly one.
    pub(super) filters: SmallVec<[Membership; 1]>,
    /// Filters without their first SUBACK.
    pub(super) pending: usize,
    /// The last delivery it took.
    pub(super) delivery: u64,
}

/// A filter of a subscriber, and the place of its link there.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) filter: FilterKey,
    at: u32,
}

#[derive(Debug)]
pub(super) enum Sink {
    /// A stream whose caller waits for the SUBACKs.
    Pending {
        offline: Offline,
        events: broadcast::Sender<Event>,
        first: broadcast::Receiver<Event>,
        reply: Reply<Feed>,
    },
    Stream(broadcast::Sender<Event>),
    Replies(ReplyQueue),
}

impl Subscriptions {
    pub(super) fn new(notices: mpsc::UnboundedSender<Notice>, first_identifier: u32) -> Self {
        Self {
            router: Router::new(),
            filters: Slots::new(),
            subscribers: Slots::new(),
            due: VecDeque::new(),
            delivery: 0,
            matched: Vec::new(),
            answered: Vec::new(),
            hasher: Hasher::default(),
            is_covering: true,
            notices,
            sweep_at: MIN_SWEEP,
            next_identifier: first_identifier,
        }
    }

    /// A subscription identifier, each of which is as good as unused: there are 268,435,455 (MQTT 5, section 3.8.2.1.2).
    pub(super) fn new_identifier(&mut self) -> u32 {
        const LARGEST: u32 = 268_435_455;
        let identifier = self.next_identifier;
        self.next_identifier = identifier % LARGEST + 1;
        identifier
    }

    /// Refuses what does not go together with the way in which others subscribe one of these filters: the broker has one
    /// subscription of it for all.
    pub(super) fn check_conflict(&self, filters: &[Filter], wish: Wish) -> Result<(), Error> {
        let conflict = filters.iter().find(|filter| {
            let shared = self.router.get(filter).and_then(|route| self.filters.get(route.filter));
            shared.is_some_and(|shared| !shared.links.is_empty() && shared.differs(wish))
        });
        match conflict {
            None => Ok(()),
            Some(filter) => Err(Error::invalid_argument(format!(
                "{filter} is subscribed by others of this agent with another no_local or retain_as_published: \
                 the broker has one subscription for all of them, so use an agent of its own"
            ))),
        }
    }

    pub(super) fn contains(&self, subscriber: SubscriberKey) -> bool {
        self.subscribers.contains(subscriber)
    }

    pub(super) fn reply_queue_mut(&mut self, subscriber: SubscriberKey) -> Option<&mut ReplyQueue> {
        match &mut self.subscribers.get_mut(subscriber)?.sink {
            Sink::Replies(queue) => Some(queue),
            Sink::Pending { .. } | Sink::Stream(_) => None,
        }
    }

    /// Whether a call still waits for this subscriber's SUBACKs.
    pub(super) fn is_pending(&self, subscriber: SubscriberKey) -> bool {
        self.subscribers.get(subscriber).is_some_and(|entry| matches!(entry.sink, Sink::Pending { .. }))
    }

    /// Whether the broker holds all filters of a subscriber and has said so.
    pub(super) fn is_ready(&self, subscriber: SubscriberKey) -> bool {
        self.subscribers.get(subscriber).is_some_and(|entry| {
            let link = |member: &Membership| self.filters.get(member.filter)?.links.get(member.at as usize);
            entry.filters.iter().all(|member| link(member).is_some_and(|link| link.state == LinkState::Ready))
        })
    }

    /// A caller that leaves before its SUBACK says nothing; each holds the room of a stream until then.
    pub(super) fn sweep(&mut self) {
        if self.subscribers.len() < self.sweep_at {
            return;
        }
        self.sweep_left();
        self.sweep_at = (2 * self.subscribers.len()).max(MIN_SWEEP);
    }

    pub(super) fn sweep_left(&mut self) {
        let left =
            |subscriber: &Subscriber| matches!(&subscriber.sink, Sink::Pending { reply, .. } if reply.is_abandoned());
        let gone: Vec<_> = self.subscribers.iter().filter(|(_, entry)| left(entry)).map(|(key, _)| key).collect();
        for subscriber in gone {
            self.remove(subscriber, None);
        }
    }

    pub(super) fn add(&mut self, sink: Sink, filters: &[Filter], wish: Wish) -> SubscriberKey {
        let keys = SmallVec::with_capacity(filters.len());
        let subscriber = self.subscribers.insert(Subscriber { sink, filters: keys, pending: 0, delivery: 0 });
        for filter in filters {
            self.link(subscriber, filter, wish);
        }
        subscriber
    }

    fn link(&mut self, subscriber: SubscriberKey, filter: &Filter, wish: Wish) {
        let Self { router, filters, .. } = self;
        let mut is_new = false;
        let route = router.get_or_insert_with(filter, || {
            is_new = true;
            Route { filter: filters.insert(Shared::new(filter.clone())), only: None }
        });
        let key = route.filter;
        if is_new && !wish.retained.wants_any() {
            self.try_cover(key);
        }
        let held = self.granted(key).filter(|_| self.filters[key].cover.is_enough());
        let shared = &mut self.filters[key];
        if shared.links.last().is_some_and(|link| link.subscriber == subscriber) {
            return; // The same filter twice in one call: nobody else came in between.
        }
        let state = shared.join(wish, held);
        if shared.step != Step::Unsubscribing {
            // There will be no UNSUBACK to wait for.
            shared.leaving.clear();
        }
        let established = state == LinkState::Ready;
        let Wish { qos, retained, .. } = wish;
        let entry = &mut self.subscribers[subscriber];
        let at = entry.filters.len() as u32;
        entry.filters.push(Membership { filter: key, at: shared.links.len() as u32 });
        // It was about to go, and is not: what it can do for others counts again.
        let is_back = shared.links.is_empty() && shared.granted.is_some();
        let granted = shared.granted;
        shared.push(Link { subscriber, at, qos, retained, state, established, window: Window::Closed });
        entry.pending += usize::from(!established);
        self.reroute(key);
        if is_back {
            self.handle_held(key, granted);
        }
        if self.filters[key].step == Step::Settled {
            self.settle(key);
        }
    }

    /// The links of a filter are others than before.
    fn reroute(&mut self, key: FilterKey) {
        let shared = &self.filters[key];
        if let Some(route) = self.router.get_mut(&shared.filter) {
            route.only = shared.only_taker();
        }
    }

    /// Ends a subscriber; what nobody wants any more will be unsubscribed. `reply` is answered when the broker has
    /// confirmed that.
    pub(super) fn remove(&mut self, key: SubscriberKey, reply: Option<Reply<()>>) -> Option<Subscriber> {
        let farewell = reply.map(Farewell::new);
        let subscriber = self.subscribers.remove(key)?;
        for Membership { filter, at } in &subscriber.filters {
            let Some(shared) = self.filters.get_mut(*filter) else { continue };
            if let Some(moved) = shared.remove(*at) {
                self.subscribers[moved.subscriber].filters[moved.at as usize].at = *at;
            }
            match shared.links.is_empty() {
                true => shared.leaving.extend(farewell.clone()),
                false => self.reroute(*filter),
            }
        }
        // After all have gone: none is subscribed again only to go next.
        for Membership { filter, .. } in &subscriber.filters {
            let shared = self.filters.get(*filter);
            if shared.is_some_and(|shared| shared.links.is_empty() && matches!(shared.step, Step::Settled | Step::Due))
            {
                self.settle(*filter);
            }
        }
        Some(subscriber)
    }

    /// The agent ends: every stream ends, and whoever waits for an answer of the broker is told.
    pub(super) fn abandon(&mut self) {
        self.subscribers.drain().for_each(drop);
        for shared in self.filters.drain() {
            shared.leaving.into_iter().for_each(Farewell::fail);
        }
    }

    /// Nothing is in flight for this filter: marks what is there to do next, or forgets it.
    pub(super) fn settle(&mut self, key: FilterKey) {
        let Some(shared) = self.filters.get_mut(key) else { return };
        if shared.links.is_empty() {
            self.release(key);
            self.vacate(key);
        } else {
            // A newcomer took the filter over: there is no UNSUBACK to wait for.
            shared.leaving.clear();
        }
        let Some(shared) = self.filters.get_mut(key) else { return };
        if shared.needs_subscribe() || shared.needs_unsubscribe() {
            if shared.step != Step::Due {
                shared.step = Step::Due;
                self.due.push_back(key);
            }
            return;
        }
        shared.step = Step::Settled;
        if shared.links.is_empty() && !shared.cover.has_dependents() {
            if let Some(shared) = self.filters.remove(key) {
                self.router.remove(&shared.filter);
                self.sweep_due();
            }
        }
    }

    /// Without a connection nobody takes forgotten filters out of the list of those due.
    fn sweep_due(&mut self) {
        let Self { filters, due, .. } = self;
        if due.len() > 2 * filters.len() + MIN_SWEEP {
            due.retain(|key| filters.contains(*key));
            due.shrink_to(2 * due.len() + MIN_SWEEP);
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Subscriptions {
    /// The router knows of each filter what the filter's own state says.
    pub(super) fn assert_routes(&self) {
        for (key, shared) in self.filters.iter() {
            let route = self.router.get(&shared.filter);
            let is_known = |route: &Route| route.filter == key && route.only == shared.only_taker();
            assert!(route.is_some_and(|route| shared.links.is_empty() || is_known(route)), "{route:?}, {shared:?}");
        }
    }

    pub(super) fn assert_empty(&self) {
        let held = (self.router.len(), self.filters.len(), self.subscribers.len(), self.due.len());
        assert_eq!(held, (0, 0, 0, 0));
    }
}
