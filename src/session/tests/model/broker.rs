//! The server side, by the book.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The server side of MQTT 3.1.1 for one client.
#[derive(Default)]
pub(super) struct Broker {
    pub(super) subscriptions: BTreeMap<String, QoS>,
    /// QoS 2 messages received and not released.
    pub(super) received: BTreeSet<PacketId>,
    /// Sent to the client and not acknowledged in full.
    pub(super) outgoing: Vec<Outgoing>,
    /// How often each message was passed on, and how often in this session.
    pub(super) accepted: BTreeMap<u32, u32>,
    pub(super) accepted_in_session: BTreeMap<u32, u32>,
    /// On their way to the client, on this connection.
    pub(super) answers: VecDeque<Inbound>,
    /// Identifiers in use on this connection, as seen from here.
    pub(super) in_use: BTreeSet<PacketId>,
    pub(super) last_id: PacketId,
    pub(super) last_tag: u32,
    pub(super) said_goodbye: bool,
}

#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) id: PacketId,
    pub(super) topic: &'static str,
    pub(super) qos: QoS,
    pub(super) tag: u32,
    pub(super) is_released: bool,
}

impl Broker {
    pub(super) fn handle(&mut self, packet: Sent) {
        assert!(!self.said_goodbye, "{packet:?} came after DISCONNECT");
        match packet {
            Sent::Publish { payload, qos, id, dup, .. } => {
                if qos != QOS0 {
                    assert!(self.in_use.insert(id), "identifier {id} is in use twice on one connection");
                }
                assert!(!dup || qos != QOS0);
                if qos != QOS2 || self.received.insert(id) {
                    let tag = tag(&payload);
                    *self.accepted.entry(tag).or_default() += 1;
                    let times = self.accepted_in_session.entry(tag).or_default();
                    *times += 1;
                    assert!(qos != QOS2 || *times == 1, "QoS 2 message {tag} was passed on twice");
                }
                match qos {
                    QOS0 => {}
                    QOS1 => self.answers.push_back(puback(id)),
                    QOS2 => self.answers.push_back(pubrec(id)),
                }
            }
            Sent::PubRel(id) => {
                self.received.remove(&id);
                // A release that is sent again on the next connection comes without its publish.
                self.in_use.insert(id);
                self.answers.push_back(Inbound::PubComp(id));
            }
            Sent::Subscribe(id, filters) => {
                assert!(self.in_use.insert(id), "identifier {id} is in use twice on one connection");
                let granted = filters.into_iter().map(|(filter, qos)| {
                    let granted = match filter.split('/').next() {
                        Some("no") => return refused(),
                        Some("low") => QOS0,
                        _ => qos,
                    };
                    self.subscriptions.insert(filter, granted);
                    Ok(granted)
                });
                let granted = granted.collect();
                self.answers.push_back(Inbound::SubAck { id, granted });
            }
            Sent::Unsubscribe(id, filters) => {
                assert!(self.in_use.insert(id), "identifier {id} is in use twice on one connection");
                for filter in filters {
                    self.subscriptions.remove(&filter);
                }
                self.answers.push_back(unsuback(id));
            }
            Sent::PubAck(id) => self.finish(id, QOS1, false),
            Sent::PubRec(id) => {
                let sent = self.outgoing.iter_mut().find(|sent| sent.id == id && sent.qos == QOS2);
                sent.expect("a PUBREC for what was sent").is_released = true;
                self.answers.push_back(Inbound::PubRel(id));
            }
            Sent::PubComp(id) => self.finish(id, QOS2, true),
            Sent::PingReq => self.answers.push_back(Inbound::PingResp),
            Sent::Disconnect => self.said_goodbye = true,
        }
    }

    /// Whether the messages of a filter come, by itself or by another.
    pub(super) fn brings(&self, filter: &str) -> bool {
        self.subscriptions.keys().any(|held| covers(held, filter))
    }

    pub(super) fn finish(&mut self, id: PacketId, qos: QoS, is_released: bool) {
        // A second acknowledgement of what came twice finds nothing.
        self.outgoing.retain(|sent| !(sent.id == id && sent.qos == qos && sent.is_released == is_released));
    }

    /// The client got this.
    pub(super) fn note_answered(&mut self, inbound: &Inbound) {
        if let Inbound::PubAck { id, .. }
        | Inbound::PubComp(id)
        | Inbound::UnsubAck { id, .. }
        | Inbound::SubAck { id, .. } = inbound
        {
            self.in_use.remove(id);
        }
    }

    pub(super) fn push(&mut self, topic: &'static str, qos: QoS) -> Option<Inbound> {
        let matches = |filter: &str| Filter::new(filter).unwrap().matches(topic);
        let granted = self.subscriptions.iter().filter(|(filter, _)| matches(filter)).map(|(_, qos)| *qos).max()?;
        let qos = qos.min(granted);
        self.last_tag += 1;
        self.last_id += 1;
        let sent = Outgoing { id: self.last_id, topic, qos, tag: self.last_tag, is_released: false };
        if qos != QOS0 {
            self.outgoing.push(sent.clone());
        }
        Some(sent.publish(false))
    }

    pub(super) fn connect(&mut self, keep: bool) {
        if !keep {
            let Self { accepted, last_id, last_tag, .. } = std::mem::take(self);
            *self = Self { accepted, last_id, last_tag, ..Self::default() };
        }
        self.answers.clear();
        self.in_use.clear();
        self.said_goodbye = false;
        for sent in &self.outgoing {
            let again = if sent.is_released { Inbound::PubRel(sent.id) } else { sent.publish(true) };
            self.answers.push_back(again);
        }
    }
}

impl Outgoing {
    pub(super) fn publish(&self, dup: bool) -> Inbound {
        let (topic, payload) = (Topic::new(self.topic).unwrap(), payload(self.tag, false));
        let id = if self.qos == QOS0 { 0 } else { self.id };
        Inbound::Publish(Incoming { dup, ..plain(topic, payload, self.qos, id) })
    }
}

pub(super) fn payload(tag: u32, is_large: bool) -> Bytes {
    let mut payload = tag.to_be_bytes().to_vec();
    payload.resize(if is_large { 40 * 1024 } else { 4 }, 0);
    payload.into()
}

pub(super) fn tag(payload: &Bytes) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}
