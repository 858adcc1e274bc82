//! Filters at the broker, and the local subscribers that share them.
//!
//! A filter is brought in line step by step: it is marked due when what the broker holds differs from what the
//! subscribers want, and a due filter becomes part of the next SUBSCRIBE or UNSUBSCRIBE. At most one packet per filter
//! is in flight, so acknowledgements cannot be confused, and after a lost connection the same marking asks for all
//! that is missing.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use slotmap::SlotMap;
use tokio::sync::{broadcast, mpsc};

use super::covers::Cover;
use super::request::ReplyQueue;
use crate::command::{Event, Feed, Notice, Reply, SubscriberKey, Wish};
use crate::options::Offline;
use crate::router::Router;
use crate::subscribe::Retained;
use crate::wire::Ask;
use crate::{Error, Filter, Message, QoS, ReasonCode};

slotmap::new_key_type! {
    pub(super) struct FilterKey;
}

#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) router: Router<FilterKey>,
    pub(super) filters: SlotMap<FilterKey, Shared>,
    pub(super) subscribers: SlotMap<SubscriberKey, Subscriber>,
    /// Filters to SUBSCRIBE or UNSUBSCRIBE, in the order in which they were asked for.
    pub(super) due: VecDeque<FilterKey>,
    /// Numbers the deliveries, so that one reaches a subscriber once however many of its filters match.
    pub(super) delivery: u64,
    /// Kept between deliveries for their memory only.
    pub(super) matched: Vec<FilterKey>,
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

/// One filter, shared by all subscribers that want it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) filter: Filter,
    pub(super) links: Vec<Link>,
    /// How many of the links are waiting, and how many ask for each QoS.
    pub(super) waiting: u32,
    wishes: [u32; 3],
    /// The QoS of the last SUBSCRIBE, if the broker may hold it.
    pub(super) asked: Option<QoS>,
    /// The QoS of the SUBACK, if the broker does hold it.
    pub(super) granted: Option<QoS>,
    pub(super) step: Step,
    pub(super) cover: Cover,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    /// What messages by it carry, where the broker has such identifiers. It stays the same when the filter is asked for
    /// again, because what comes meanwhile may carry the one or the other.
    pub(super) identifier: Option<u32>,
    /// Callers that wait for the UNSUBACK.
    leaving: Vec<Arc<Farewell>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Settled,
    /// Stands in `Subscriptions::due`.
    Due,
    Subscribing,
    Unsubscribing,
}

/// A subscriber's share in a filter.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) subscriber: SubscriberKey,
    /// Its place among the subscriber's filters.
    at: u32,
    pub(super) qos: QoS,
    pub(super) retained: Retained,
    pub(super) state: LinkState,
    /// It was confirmed before: a refusal now is an item of its stream, not the answer to its call.
    pub(super) established: bool,
    pub(super) window: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Needs a SUBSCRIBE that was not sent yet.
    Waiting,
    /// Is part of the SUBSCRIBE in flight.
    Asked,
    Ready,
}

/// Which retained messages of a filter are for a link. The broker sends them all at each SUBSCRIBE, whoever of us asked
/// for it, and nothing in them says which SUBSCRIBE they belong to. They may come after the SUBACK of the next.
#[derive(Debug)]
pub(super) enum Window {
    /// None: it did not ask for them.
    Closed,
    /// Each topic once; these hashes of topics were there.
    Once(HashSet<u64, Hasher>),
    /// Too many topics to remember: all, until the SUBACK of a SUBSCRIBE that others asked for.
    All,
}

type Hasher = foldhash::fast::RandomState;

/// Lists up to this length are not worth a sweep.
const MIN_SWEEP: usize = 64;

/// The most topics that one link remembers.
const REMEMBERED: usize = 4096;

impl Window {
    fn takes(&mut self, topic: u64) -> bool {
        match self {
            Self::Closed => false,
            Self::All => true,
            Self::Once(topics) if topics.len() < REMEMBERED => topics.insert(topic),
            Self::Once(topics) if topics.contains(&topic) => false,
            Self::Once(_) => {
                *self = Self::All;
                true
            }
        }
    }

    /// The retained messages that come from now on were asked for by others.
    pub(super) fn narrow(&mut self) {
        if matches!(self, Self::All) {
            *self = Self::Closed;
        }
    }
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) sink: Sink,
    pub(super) filters: Vec<Membership>,
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

/// Shared by the filters that a caller of `unsubscribe` waits for: the last to go drops it, and that answers.
#[derive(Debug)]
struct Farewell {
    reply: Option<Reply<()>>,
    refused: OnceLock<Error>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply.send(self.refused.take().map_or(Ok(()), Err));
        }
    }
}

impl Farewell {
    /// Answers "closed" if this was the last share.
    fn fail(self: Arc<Self>) {
        if let Some(mut farewell) = Arc::into_inner(self) {
            drop(farewell.reply.take());
        }
    }
}

impl Subscriptions {
    pub(super) fn new(notices: mpsc::UnboundedSender<Notice>, first_identifier: u32) -> Self {
        Self {
            router: Router::new(),
            filters: SlotMap::with_key(),
            subscribers: SlotMap::with_key(),
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

    /// The filter that others subscribe in a way that does not go together with this wish: the broker has one
    /// subscription of it for all.
    pub(super) fn conflict<'f>(&self, filters: &'f [Filter], wish: Wish) -> Option<&'f Filter> {
        filters.iter().find(|filter| {
            let shared = self.router.get(filter).and_then(|key| self.filters.get(*key));
            shared.is_some_and(|shared| !shared.links.is_empty() && shared.differs(wish))
        })
    }

    pub(super) fn contains(&self, subscriber: SubscriberKey) -> bool {
        self.subscribers.contains_key(subscriber)
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
        let keys = Vec::with_capacity(filters.len());
        let subscriber = self.subscribers.insert(Subscriber { sink, filters: keys, pending: 0, delivery: 0 });
        for filter in filters {
            self.link(subscriber, filter, wish);
        }
        subscriber
    }

    fn link(&mut self, subscriber: SubscriberKey, filter: &Filter, wish: Wish) {
        let Self { router, filters, .. } = self;
        let mut is_new = false;
        let key = *router.get_or_insert_with(filter, || {
            is_new = true;
            filters.insert(Shared::new(filter.clone()))
        });
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
        shared.push(Link { subscriber, at, qos, retained, state, established, window: Window::Closed });
        entry.pending += usize::from(!established);
        if is_back {
            let granted = shared.granted;
            self.handle_held(key, granted);
        }
        if self.filters[key].step == Step::Settled {
            self.settle(key);
        }
    }

    /// Ends a subscriber; what nobody wants any more will be unsubscribed. `reply` is answered when the broker has
    /// confirmed that.
    pub(super) fn remove(&mut self, key: SubscriberKey, reply: Option<Reply<()>>) -> Option<Subscriber> {
        let farewell = reply.map(|reply| Arc::new(Farewell { reply: Some(reply), refused: OnceLock::new() }));
        let subscriber = self.subscribers.remove(key)?;
        for Membership { filter, at } in &subscriber.filters {
            let Some(shared) = self.filters.get_mut(*filter) else { continue };
            if let Some(moved) = shared.remove(*at) {
                self.subscribers[moved.subscriber].filters[moved.at as usize].at = *at;
            }
            if shared.links.is_empty() {
                shared.leaving.extend(farewell.clone());
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
        self.subscribers.clear();
        for (_, shared) in self.filters.drain() {
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
            due.retain(|key| filters.contains_key(*key));
            due.shrink_to(2 * due.len() + MIN_SWEEP);
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Subscriptions {
    pub(super) fn assert_empty(&self) {
        let held = (self.router.len(), self.filters.len(), self.subscribers.len(), self.due.len());
        assert_eq!(held, (0, 0, 0, 0));
    }
}

impl Shared {
    fn new(filter: Filter) -> Self {
        // Most filters have one subscriber, and there may be a hundred thousand filters.
        Self {
            filter,
            links: Vec::with_capacity(1),
            waiting: 0,
            wishes: [0; 3],
            asked: None,
            granted: None,
            step: Step::Settled,
            cover: Cover::default(),
            no_local: false,
            retain_as_published: false,
            identifier: None,
            leaving: Vec::new(),
        }
    }

    fn push(&mut self, link: Link) {
        self.waiting += u32::from(link.state == LinkState::Waiting);
        self.wishes[link.qos as usize] += 1;
        self.links.push(link);
    }

    /// Takes out a link; the one that has its place now.
    fn remove(&mut self, at: u32) -> Option<&Link> {
        let link = self.links.swap_remove(at as usize);
        self.waiting -= u32::from(link.state == LinkState::Waiting);
        self.wishes[link.qos as usize] -= 1;
        self.links.get(at as usize)
    }

    fn differs(&self, wish: Wish) -> bool {
        (self.no_local, self.retain_as_published) != (wish.no_local, wish.retain_as_published)
    }

    /// The state of a new link: ready if the broker already holds all it wants, be it by another filter, at this QoS.
    fn join(&mut self, wish: Wish, covered: Option<QoS>) -> LinkState {
        // Only if nobody else is there, see `conflict`.
        let is_changed = self.differs(wish);
        self.no_local = wish.no_local;
        self.retain_as_published = wish.retain_as_published;
        if is_changed || self.asked.max(covered).is_none_or(|asked| asked < wish.qos) || wish.retained.needs_subscribe()
        {
            LinkState::Waiting
        } else if self.granted.is_some() || covered.is_some() {
            LinkState::Ready
        } else if self.step == Step::Subscribing {
            LinkState::Asked
        } else {
            LinkState::Waiting
        }
    }

    pub(super) fn needs_subscribe(&self) -> bool {
        self.waiting > 0
    }

    pub(super) fn needs_unsubscribe(&self) -> bool {
        let is_unneeded = self.links.is_empty() || (self.cover.is_enough() && self.waiting == 0);
        is_unneeded && self.asked.is_some() && !self.cover.has_dependents()
    }

    /// What to ask for now.
    pub(super) fn ask(&self) -> Ask {
        let waiting = |link: &&Link| link.state == LinkState::Waiting;
        Ask {
            filter: self.filter.clone(),
            qos: self.wanted(),
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            retained: self.links.iter().filter(waiting).any(|link| link.retained.wants_any()),
        }
    }

    /// The QoS to ask for: the highest wanted; never lower than what is held, so that nobody loses by a newcomer.
    pub(super) fn wanted(&self) -> QoS {
        Some(self.wished()).max(self.asked).unwrap_or_default()
    }

    /// The highest QoS that a subscriber wants.
    pub(super) fn wished(&self) -> QoS {
        let wished = [QoS::ExactlyOnce, QoS::AtLeastOnce].into_iter().find(|qos| self.wishes[*qos as usize] > 0);
        wished.unwrap_or(QoS::AtMostOnce)
    }

    pub(super) fn handle_asked(&mut self, qos: QoS) {
        self.step = Step::Subscribing;
        self.asked = Some(qos);
        self.waiting = 0;
        for link in &mut self.links {
            if link.state == LinkState::Waiting {
                link.state = LinkState::Asked;
                if self.cover.is_parting() && link.established {
                    // It had its retained messages, and wants the others only.
                    link.window = Window::Closed;
                } else if link.retained.wants_any() {
                    link.window = Window::Once(HashSet::default());
                }
            }
        }
    }

    /// The packet in flight will not be answered any more.
    pub(super) fn handle_unanswered(&mut self) {
        self.step = Step::Settled;
        for link in &mut self.links {
            if link.state == LinkState::Asked {
                link.state = LinkState::Waiting;
                self.waiting += 1;
            }
        }
    }

    pub(super) fn handle_unsubscribed(&mut self, reason: ReasonCode) {
        self.step = Step::Settled;
        self.asked = None;
        for farewell in self.leaving.drain(..) {
            if reason.is_failure() {
                let error = Error::unsubscribe_refused(self.filter.as_str(), &reason.into());
                // The first refusal is the one told.
                let _ = farewell.refused.set(error);
            }
        }
    }

    /// The broker holds nothing of this.
    pub(super) fn handle_session_lost(&mut self) {
        self.asked = None;
        self.granted = None;
        self.cover = Cover::default();
        self.waiting = self.links.len() as u32;
        self.identifier = None;
        for link in &mut self.links {
            link.state = LinkState::Waiting;
        }
    }
}

impl Link {
    /// `topic` is a hash of the message's topic, the same for the same topic.
    pub(super) fn accepts(&mut self, message: &Message, topic: u64) -> bool {
        // Whatever the state: the broker may hold a filter from before, for an earlier process too, and what it has queued
        // for it comes ahead of the SUBACK.
        match (message.is_retained(), self.retained) {
            (true, Retained::Ignore) | (false, Retained::Only) => false,
            (true, _) => self.window.takes(topic),
            (false, _) => true,
        }
    }
}
