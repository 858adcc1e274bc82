//! Filters that need no place at the broker, because another one brings their messages too.
//!
//! A broker may send a message once for each filter that matches it (MQTT-3.3.5-1), and nothing in a copy says which one
//! it is for. So a filter that is covered by another, granted at least its QoS, relies on that: it is not left
//! subscribed, and the router delivers its messages all the same. What it was asked for alone is still done with a
//! SUBSCRIBE of its own, as retained messages come by nothing else; it is given up again once that is confirmed.
//!
//! There is never a gap: before a filter on which others rely goes, they rely on another, or are subscribed again and
//! confirmed.

use super::shared::{LinkState, Shared, Step};
use super::subscriptions::{FilterKey, Subscriptions};
use crate::QoS;

/// On which filter one relies, and how many rely on it.
#[derive(Debug, Default)]
pub(super) struct Cover {
    on: Option<FilterKey>,
    /// The other one is about to go: this one stays with it until it is confirmed by itself.
    is_parting: bool,
    dependents: u32,
}

impl Cover {
    /// Whether the messages come by another filter, for as long as is known.
    pub(super) fn is_enough(&self) -> bool {
        self.on.is_some() && !self.is_parting
    }

    pub(super) fn is_parting(&self) -> bool {
        self.is_parting
    }

    pub(super) fn has_dependents(&self) -> bool {
        self.dependents > 0
    }
}

impl Subscriptions {
    /// The QoS at which the messages of a filter come: by itself, or by the one on which it relies.
    pub(super) fn granted(&self, key: FilterKey) -> Option<QoS> {
        let shared = self.filters.get(key)?;
        shared.granted.or_else(|| self.filters.get(shared.cover.on?)?.granted)
    }

    /// Whether filters may rely on others. Where the broker tells by which filter a copy comes they need not.
    pub(super) fn set_covering(&mut self, is_covering: bool) {
        if std::mem::replace(&mut self.is_covering, is_covering) && !is_covering {
            let relying = self.filters.iter().filter(|(_, shared)| shared.cover.on.is_some());
            for key in relying.map(|(key, _)| key).collect::<Vec<_>>() {
                self.part(key);
            }
        }
    }

    /// A filter that is not at the broker and was not asked for: lets it rely on another, if there is one.
    pub(super) fn try_cover(&mut self, key: FilterKey) {
        if let Some(on) = self.find_cover(key) {
            self.rely(key, on);
        }
    }

    /// The broker confirmed a filter, which had this QoS before.
    pub(super) fn handle_held(&mut self, key: FilterKey, before: Option<QoS>) {
        self.release(key);
        if !self.is_covering {
            return;
        }
        if before > self.filters.get(key).and_then(|shared| shared.granted) {
            self.vacate(key);
        }
        match self.find_cover(key) {
            Some(on) => {
                for other in self.dependents(key) {
                    self.release(other);
                    self.rely(other, on);
                }
                self.rely(key, on);
            }
            None => self.take_over(key),
        }
    }

    /// Nobody wants this filter any more, or it is worth less than before: those that rely on it go elsewhere.
    pub(super) fn vacate(&mut self, key: FilterKey) {
        for other in self.dependents(key) {
            // One that went elsewhere may have taken others with it.
            let Some(shared) = self.filters.get(other).filter(|shared| shared.cover.on == Some(key)) else { continue };
            if shared.links.is_empty() {
                self.release(other);
            } else if !shared.cover.is_parting && !self.filters[key].can_cover(shared) {
                self.part(other);
            }
        }
    }

    /// Parts a filter from the one it relies on: for another one, or to stand by itself.
    fn part(&mut self, key: FilterKey) {
        let shared = &self.filters[key];
        let is_at_broker = shared.granted.is_some();
        if let Some(on) = self.find_cover(key) {
            self.release(key);
            self.rely(key, on);
        } else if is_at_broker {
            self.release(key);
        } else {
            let shared = &mut self.filters[key];
            shared.cover.is_parting = true;
            shared.ask_again();
        }
        if self.filters[key].is_idle() {
            self.settle(key);
        }
    }

    /// Every filter that this one covers relies on it from now on.
    fn take_over(&mut self, key: FilterKey) {
        let shared = &self.filters[key];
        if !shared.filter.has_wildcards() || shared.filter.share_group().is_some() || shared.links.is_empty() {
            return;
        }
        let mut covered = Vec::new();
        self.router.for_each_covered(&shared.filter, |other| {
            let is_held = |other: &Shared| other.cover.on.is_some() || (other.granted.is_some() && other.is_idle());
            let other = other.filter;
            if other != key && self.filters.get(other).is_some_and(|other| is_held(other) && shared.can_cover(other)) {
                covered.push(other);
            }
        });
        for other in covered {
            // None relies on one that relies on another itself.
            for dependent in self.dependents(other) {
                self.release(dependent);
                self.rely(dependent, key);
            }
            self.release(other);
            self.rely(other, key);
            if self.filters[other].is_idle() {
                self.settle(other);
            }
        }
    }

    fn find_cover(&self, key: FilterKey) -> Option<FilterKey> {
        let shared =
            self.filters.get(key).filter(|shared| self.is_covering && shared.filter.share_group().is_none())?;
        let mut found = None;
        self.router.for_each_cover(&shared.filter, |other| {
            let other = other.filter;
            if other != key && self.filters.get(other).is_some_and(|other| other.can_cover(shared)) {
                found = Some(other);
            }
        });
        found
    }

    fn dependents(&self, key: FilterKey) -> Vec<FilterKey> {
        let mut dependents = Vec::new();
        let shared = &self.filters[key];
        if shared.cover.has_dependents() {
            self.router.for_each_covered(&shared.filter, |other| {
                let other = other.filter;
                if self.filters.get(other).is_some_and(|other| other.cover.on == Some(key)) {
                    dependents.push(other);
                }
            });
        }
        dependents
    }

    fn rely(&mut self, key: FilterKey, on: FilterKey) {
        self.filters[key].cover.on = Some(on);
        self.filters[on].cover.dependents += 1;
    }

    /// Ends a filter's reliance on another, which may go then.
    pub(super) fn release(&mut self, key: FilterKey) {
        let Some(shared) = self.filters.get_mut(key) else { return };
        shared.cover.is_parting = false;
        let Some(on) = shared.cover.on.take() else { return };
        let other = &mut self.filters[on];
        other.cover.dependents -= 1;
        if other.cover.dependents == 0 && other.is_idle() {
            self.settle(on);
        }
    }
}

impl Shared {
    /// Whether the broker sends all that `other` wants by this filter, if this one covers it.
    fn can_cover(&self, other: &Self) -> bool {
        let is_staying = !self.links.is_empty() && self.cover.on.is_none() && self.step != Step::Unsubscribing;
        if [self, other].into_iter().any(|shared| shared.no_local || shared.retain_as_published) {
            // Its messages are not those of any other.
            return false;
        }
        is_staying && self.granted.is_some_and(|granted| granted >= other.granted.unwrap_or_else(|| other.wished()))
    }

    /// Nothing is in flight.
    fn is_idle(&self) -> bool {
        matches!(self.step, Step::Settled | Step::Due)
    }

    fn ask_again(&mut self) {
        for link in &mut self.links {
            if link.state == LinkState::Ready {
                link.state = LinkState::Waiting;
                self.waiting += 1;
            }
        }
    }
}

#[cfg(any(fuzzing, test))]
impl Subscriptions {
    /// Each filter on which another relies knows of it, stays, and is held by the broker.
    pub(super) fn assert_covers(&self) {
        let mut dependents = std::collections::HashMap::new();
        for shared in self.filters.values() {
            let Some(on) = shared.cover.on else { continue };
            *dependents.entry(on).or_insert(0) += 1;
            let other = &self.filters[on];
            assert!(other.granted.is_some() && other.cover.on.is_none(), "{shared:?} relies on {other:?}");
        }
        for (key, shared) in self.filters.iter() {
            assert_eq!(shared.cover.dependents, dependents.get(&key).copied().unwrap_or_default(), "{shared:?}");
        }
    }
}
