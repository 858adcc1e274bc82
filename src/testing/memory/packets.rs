//! What the broker in memory does with each packet.

use std::sync::Arc;

use super::hub::{End, Hub};
use super::session::Session;
use crate::testing::packets::{Fate, Packet};
use crate::wire::peer::{Answer, Carried, Hello, Sent};
use crate::wire::{Ask, PacketId, Publish};
use crate::{Error, Filter, QoS, ReasonCode, Topic};

impl Hub {
    pub(super) fn handle_hello(&mut self, link: u64, mut hello: Hello) {
        if let Some(code) = self.refusals.pop_front() {
            return self.refuse(link, hello.version, code);
        }
        let made = hello.client_id.is_empty().then(|| format!("memory-{}", self.next_number()));
        hello.client_id.extend(made.iter().map(String::as_str));
        if let Some(earlier) = self.names.get(&hello.client_id).copied() {
            if let Some(link) = self.sessions.get(&earlier).and_then(|session| session.link) {
                self.answer(link, Answer::Disconnect(ReasonCode::SESSION_TAKEN_OVER));
                self.detach(link, End::Close);
            }
            if hello.clean_session {
                self.forget(earlier);
            }
        }
        let held = self.names.get(&hello.client_id).copied();
        let session = held.unwrap_or_else(|| {
            let number = self.next_number();
            self.names.insert(hello.client_id.clone(), number);
            self.sessions.insert(number, Session::new(hello.client_id.clone()));
            number
        });
        if let (Some(held), Some(link_held)) = (self.sessions.get_mut(&session), self.links.get_mut(&link)) {
            held.begin(hello, link);
            link_held.session = Some(session);
        }
        let (session_present, code) = (held.is_some(), ReasonCode::SUCCESS);
        self.answer(link, Answer::ConnAck { session_present, code, client_id: made.as_deref() });
        self.pump(session);
    }

    pub(super) fn handle_packet(&mut self, link: u64, session: u64, sent: Sent, carried: Carried) -> Result<(), Error> {
        let Some(held) = self.sessions.get_mut(&session) else { return Ok(()) };
        match sent {
            Sent::Publish { topic, payload, qos, retain, id, .. } => {
                let properties = (!carried.properties.is_empty()).then(|| Box::new(carried.properties));
                let publish = Publish { topic: Topic::new(topic)?, payload, qos, retain, properties, lenient: true };
                self.handle_publish(link, session, publish, id);
            }
            Sent::PubAck(id) | Sent::PubComp(id) => {
                held.handle_done(id);
                self.pump(session);
            }
            Sent::PubRec(id) => {
                held.handle_received(id);
                self.answer(link, Answer::PubRel(id));
            }
            Sent::PubRel(id) => {
                held.received.remove(&id);
                self.answer(link, Answer::PubComp(id));
            }
            Sent::Subscribe(id, _) => self.handle_subscribe(link, session, id, carried),
            Sent::Unsubscribe(id, filters) => {
                let filters = filters.into_iter().map(Filter::new).collect::<Result<Vec<_>, _>>()?;
                let had: Vec<_> = filters.iter().map(|filter| held.filters.remove(filter)).collect();
                filters.iter().for_each(|filter| self.routes.unsubscribe(session, filter));
                let code = |had| if had { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED };
                let codes: Vec<_> = had.into_iter().map(code).collect();
                self.answer(link, Answer::UnsubAck(id, &codes));
            }
            Sent::PingReq => self.answer(link, Answer::PingResp),
            Sent::Disconnect => {
                if carried.reason == ReasonCode::SUCCESS {
                    held.last_will = None;
                }
                self.detach(link, End::Close);
            }
        }
        Ok(())
    }

    fn handle_publish(&mut self, link: u64, session: u64, publish: Publish, id: PacketId) {
        let qos = publish.qos;
        let held = self.sessions.get_mut(&session);
        // One that comes again before its release was passed on already (MQTT-4.3.3-2).
        let is_new = qos != QoS::ExactlyOnce || held.is_some_and(|session| session.received.insert(id));
        let code = match is_new && !self.route(publish, session) {
            true => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            false => ReasonCode::SUCCESS,
        };
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.answer(link, Answer::PubAck(id, code)),
            QoS::ExactlyOnce => self.answer(link, Answer::PubRec(id, code)),
        }
    }

    /// Passes a message on; whether anybody gets it.
    fn route(&mut self, publish: Publish, from: u64) -> bool {
        let message = Arc::new(publish);
        if message.retain {
            self.routes.retain(&message);
        }
        let is_connected = |number| self.sessions.get(&number).is_some_and(|session| session.link.is_some());
        let deliveries = self.routes.deliveries(&message, from, is_connected);
        let anybody = !deliveries.is_empty();
        for (to, delivery) in deliveries {
            let has_room = self.sessions.get_mut(&to).is_none_or(|session| session.push(delivery));
            self.lost += u64::from(!has_room);
            self.pump(to);
        }
        anybody
    }

    fn handle_subscribe(&mut self, link: u64, session: u64, id: PacketId, carried: Carried) {
        let fate = self.fate(Packet::SubAck);
        let Carried { asks, identifier, .. } = carried;
        let is_refused = fate == Fate::Refuse;
        let code = |ask: &Ask| if is_refused { ReasonCode::UNSPECIFIED_ERROR } else { ReasonCode(ask.qos as u8) };
        let codes: Vec<_> = asks.iter().map(code).collect();
        if fate != Fate::Drop {
            self.put_answer(link, Answer::SubAck(id, &codes));
        }
        let Some(held) = self.sessions.get_mut(&session).filter(|_| !is_refused) else { return };
        for ask in asks {
            for delivery in self.routes.retained(&ask, identifier) {
                self.lost += u64::from(!held.push(delivery));
            }
            held.filters.insert(ask.filter.clone());
            self.routes.subscribe(session, ask, identifier);
        }
        self.pump(session);
    }

    /// A session has lost its connection.
    pub(super) fn leave(&mut self, session: u64) {
        let Some(held) = self.sessions.get_mut(&session) else { return };
        held.end();
        let last_will = held.last_will.take();
        if !held.is_kept {
            self.forget(session);
        }
        if let Some(will) = last_will {
            self.route(will, session);
        }
    }

    fn forget(&mut self, session: u64) {
        let Some(held) = self.sessions.remove(&session) else { return };
        self.names.remove(&held.client_id);
        held.filters.iter().for_each(|filter| self.routes.unsubscribe(session, filter));
    }
}
