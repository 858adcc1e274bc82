//! One filter at the broker, and the links of the subscribers that share it.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::covers::Cover;
use crate::command::{Reply, SubscriberKey, Wish};
use crate::subscribe::Retained;
use crate::wire::Ask;
use crate::{Error, Filter, Message, QoS, ReasonCode};

/// One filter, shared by all subscribers that want it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) filter: Filter,
    /// Most filters have one, and there may be a hundred thousand filters.
    pub(super) links: SmallVec<[Link; 1]>,
    /// How many of the links are waiting, and how many ask for each QoS.
    pub(super) waiting: u32,
    wishes: [u32; 3],
    /// The QoS of the last SUBSCRIBE, if the broker may hold it.
    pub(super) asked: Option<QoS>,
    /// The QoS of the SUBACK, if the broker does hold it.
    pub(super) granted: Option<QoS>,
    /// The last SUBSCRIBE was never answered: at which QoS the broker holds the filter has to be asked.
    is_unsure: bool,
    pub(super) step: Step,
    pub(super) cover: Cover,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    /// What messages by it carry, where the broker has such identifiers. It stays the same when the filter is asked for
    /// again, because what comes meanwhile may carry the one or the other.
    pub(super) identifier: Option<u32>,
    /// Callers that wait for the UNSUBACK.
    pub(super) leaving: Vec<Arc<Farewell>>,
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
    pub(super) at: u32,
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
    #[expect(clippy::box_collection, reason = "few links have one, and all would hold room for it")]
    Once(Box<HashSet<u64, Hasher>>),
    /// Too many topics to remember: all, until the SUBACK of a SUBSCRIBE that others asked for.
    All,
}

type Hasher = foldhash::fast::RandomState;

/// The most topics that one link remembers.
const REMEMBERED: usize = 4096;

/// Shared by the filters that a caller of `unsubscribe` waits for: the last to go drops it, and that answers.
#[derive(Debug)]
pub(super) struct Farewell {
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
    pub(super) fn new(reply: Reply<()>) -> Arc<Self> {
        Arc::new(Self { reply: Some(reply), refused: OnceLock::new() })
    }

    /// Answers "closed" if this was the last share.
    pub(super) fn fail(self: Arc<Self>) {
        if let Some(mut farewell) = Arc::into_inner(self) {
            drop(farewell.reply.take());
        }
    }
}

impl Shared {
    pub(super) fn new(filter: Filter) -> Self {
        Self {
            filter,
            links: SmallVec::new(),
            waiting: 0,
            wishes: [0; 3],
            asked: None,
            granted: None,
            is_unsure: false,
            step: Step::Settled,
            cover: Cover::default(),
            no_local: false,
            retain_as_published: false,
            identifier: None,
            leaving: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, link: Link) {
        self.waiting += u32::from(link.state == LinkState::Waiting);
        self.wishes[link.qos as usize] += 1;
        self.links.push(link);
    }

    /// Takes out a link; the one that has its place now.
    pub(super) fn remove(&mut self, at: u32) -> Option<&Link> {
        let link = self.links.swap_remove(at as usize);
        self.waiting -= u32::from(link.state == LinkState::Waiting);
        self.wishes[link.qos as usize] -= 1;
        self.links.get(at as usize)
    }

    /// The subscriber of the only link, if it takes all messages that are not retained.
    pub(super) fn only_taker(&self) -> Option<SubscriberKey> {
        match &self.links[..] {
            [link] if self.retain_as_published || link.retained != Retained::Only => Some(link.subscriber),
            _ => None,
        }
    }

    pub(super) fn differs(&self, wish: Wish) -> bool {
        (self.no_local, self.retain_as_published) != (wish.no_local, wish.retain_as_published)
    }

    /// The state of a new link: ready if the broker already holds all it wants, be it by another filter, at this QoS.
    pub(super) fn join(&mut self, wish: Wish, covered: Option<QoS>) -> LinkState {
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
        self.waiting > 0 || (self.is_unsure && !self.links.is_empty() && !self.cover.is_enough())
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
        self.is_unsure = false;
        self.asked = Some(qos);
        self.waiting = 0;
        for link in &mut self.links {
            if link.state == LinkState::Waiting {
                link.state = LinkState::Asked;
                if self.cover.is_parting() && link.established {
                    // It had its retained messages, and wants the others only.
                    link.window = Window::Closed;
                } else if link.retained.wants_any() {
                    link.window = Window::Once(Box::default());
                }
            }
        }
    }

    /// The packet in flight will not be answered any more.
    pub(super) fn handle_unanswered(&mut self) {
        self.is_unsure = self.step == Step::Subscribing && self.granted.is_some() && self.asked > self.granted;
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
        self.is_unsure = false;
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
        self.is_unsure = false;
        self.cover = Cover::default();
        self.waiting = self.links.len() as u32;
        self.identifier = None;
        for link in &mut self.links {
            link.state = LinkState::Waiting;
        }
    }
}

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
