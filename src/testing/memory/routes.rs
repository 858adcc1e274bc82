//! Who gets a message of the broker in memory: filters, groups and retained messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::session::Delivery;
use crate::router::Router;
use crate::wire::{Ask, Publish};
use crate::Filter;

pub(super) struct Routes {
    router: Router<Route>,
    /// By topic.
    retained: BTreeMap<String, Arc<Publish>>,
    /// Whose turn it is in every group.
    turn: usize,
}

struct Route {
    is_shared: bool,
    members: Vec<Member>,
}

struct Member {
    session: u64,
    ask: Ask,
    identifier: Option<usize>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self { router: Router::new(), retained: BTreeMap::new(), turn: 0 }
    }

    /// In place of what the session asked before with this filter.
    pub(super) fn subscribe(&mut self, session: u64, ask: Ask, identifier: Option<usize>) {
        let is_shared = ask.filter.share_group().is_some();
        let new = || Route { is_shared, members: Vec::new() };
        let members = &mut self.router.get_or_insert_with(&ask.filter.clone(), new).members;
        let member = Member { session, ask, identifier };
        match members.iter_mut().find(|held| held.session == session) {
            Some(held) => *held = member,
            None => members.push(member),
        }
    }

    pub(super) fn unsubscribe(&mut self, session: u64, filter: &Filter) {
        let Some(mut route) = self.router.remove(filter) else { return };
        route.members.retain(|member| member.session != session);
        if !route.members.is_empty() {
            self.router.get_or_insert_with(filter, || route);
        }
    }

    /// Keeps a message for those that subscribe later, or forgets it by an empty one (MQTT-3.3.1-6).
    pub(super) fn retain(&mut self, message: &Arc<Publish>) {
        let topic = message.topic.as_str();
        match message.payload.is_empty() {
            true => self.retained.remove(topic),
            false => self.retained.insert(topic.to_owned(), message.clone()),
        };
    }

    /// The retained messages for a subscription, in the order of their topics.
    pub(super) fn retained(&self, ask: &Ask, identifier: Option<usize>) -> Vec<Delivery> {
        if !ask.retained || ask.filter.share_group().is_some() {
            return Vec::new();
        }
        let wanted = self.retained.values().filter(|message| ask.filter.matches(&message.topic));
        wanted.map(|message| Delivery { retain: true, ..delivery(message, ask, identifier) }).collect()
    }

    /// The copies of a message: one for each session with filters that match, and one for each group, whose members take
    /// turns as far as they are connected.
    pub(super) fn deliveries(
        &mut self,
        message: &Arc<Publish>,
        from: u64,
        is_connected: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Delivery)> {
        let mut copies = BTreeMap::<u64, Delivery>::new();
        let mut shared = Vec::new();
        self.turn = self.turn.wrapping_add(1);
        self.router.for_each_match(message.topic.as_str(), |Route { is_shared, members }| {
            if *is_shared {
                let here: Vec<_> = members.iter().filter(|member| is_connected(member.session)).collect();
                let member = if here.is_empty() { &members[0] } else { here[self.turn % here.len()] };
                shared.push((member.session, delivery(message, &member.ask, member.identifier)));
                return;
            }
            for Member { session, ask, identifier } in members {
                if ask.no_local && *session == from {
                    continue;
                }
                let copy = delivery(message, ask, *identifier);
                match copies.get_mut(session) {
                    Some(held) => held.merge(copy),
                    None => drop(copies.insert(*session, copy)),
                }
            }
        });
        copies.into_iter().chain(shared).collect()
    }
}

fn delivery(message: &Arc<Publish>, ask: &Ask, identifier: Option<usize>) -> Delivery {
    Delivery {
        message: message.clone(),
        qos: message.qos.min(ask.qos),
        retain: message.retain && ask.retain_as_published,
        identifiers: identifier.into_iter().collect(),
        id: 0,
        is_released: false,
    }
}

impl Delivery {
    /// One copy serves two filters (MQTT-3.3.4-2 of MQTT 5).
    fn merge(&mut self, other: Self) {
        self.qos = self.qos.max(other.qos);
        self.retain |= other.retain;
        self.identifiers.extend(other.identifiers);
    }
}
