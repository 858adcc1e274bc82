//! What a broker says, be it an answer or not.

use super::{World, TOPICS};
use crate::fuzzing::input::Input;
use crate::wire::peer::Sent;
use crate::wire::{Inbound, PacketId};
use crate::{QoS, Version};

/// As many as the actor hands on in one turn.
pub(super) const PACKETS: usize = 512;

impl World {
    /// Bytes from the broker. Where no more may be read they stay with it.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if !self.is_connected || !self.session.wants_read() {
            return;
        }
        self.input.extend_from_slice(bytes);
        self.session.handle_received(self.now);
        for _ in 0..PACKETS {
            if !self.session.wants_read() {
                break;
            }
            match self.codec.decode(&mut self.input) {
                Ok(None) => break,
                Err(_) => return self.lose(),
                Ok(Some(inbound)) => {
                    self.note_inbound(&inbound);
                    if self.session.handle_inbound(inbound, self.now).is_err() {
                        return self.lose();
                    }
                }
            }
        }
    }

    fn note_inbound(&mut self, inbound: &Inbound) {
        match inbound {
            Inbound::Publish(incoming) if incoming.qos == QoS::ExactlyOnce => {
                self.unreleased.insert(incoming.id);
            }
            Inbound::Oversized { qos: QoS::ExactlyOnce, id, .. } => {
                self.unreleased.insert(*id);
            }
            Inbound::PubRel(id) => {
                self.unreleased.remove(id);
            }
            _ => {}
        }
    }

    /// What a broker says to something that was sent; high values of `how` refuse.
    pub(super) fn answer(&mut self, how: u8) {
        if self.sent.is_empty() {
            return;
        }
        let refuses = how >= 0xe0;
        let Some(sent) = self.sent.remove(usize::from(how % 8) % self.sent.len()) else { return };
        let id = |first: u8, id: PacketId| vec![first, 2, (id >> 8) as u8, id as u8];
        let bytes = match sent {
            Sent::Publish { qos: QoS::AtLeastOnce, id, .. } if refuses => {
                vec![0x40, 3, (id >> 8) as u8, id as u8, 0x87]
            }
            Sent::Publish { qos: QoS::ExactlyOnce, id, .. } if refuses => {
                vec![0x50, 3, (id >> 8) as u8, id as u8, 0x87]
            }
            Sent::Publish { qos: QoS::AtLeastOnce, id: of, .. } => id(0x40, of),
            Sent::Publish { qos: QoS::ExactlyOnce, id: of, .. } => id(0x50, of),
            Sent::PubRec(of) => id(0x62, of),
            Sent::PubRel(of) => id(0x70, of),
            Sent::Subscribe(id, filters) => {
                let codes = filters.iter().map(|(_, qos)| if refuses { 0x80 } else { *qos as u8 });
                let mut bytes = vec![0x90];
                let properties = self.properties();
                put_length(&mut bytes, 2 + properties.len() + filters.len());
                bytes.extend([(id >> 8) as u8, id as u8].iter().chain(properties));
                bytes.extend(codes);
                bytes
            }
            Sent::Unsubscribe(of, filters) if self.version == Version::V5 => {
                let mut bytes = vec![0xb0];
                put_length(&mut bytes, 3 + filters.len());
                bytes.extend([(of >> 8) as u8, of as u8, 0]);
                bytes.extend(filters.iter().map(|_| if refuses { 0x80 } else { 0 }));
                bytes
            }
            Sent::Unsubscribe(of, _) => id(0xb0, of),
            Sent::PingReq => vec![0xd0, 0],
            Sent::Publish { .. } | Sent::PubAck(_) | Sent::PubComp(_) | Sent::Disconnect => return,
        };
        self.receive(&bytes);
    }

    /// A message of the broker.
    pub(super) fn push(&mut self, input: &mut Input<'_>) {
        let (flags, topic, id, size) = (input.byte() & 0x0f, input.pick(&TOPICS), input.byte(), input.byte());
        let mut packet = vec![0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        if flags & 0b0110 != 0 {
            packet.extend_from_slice(&[0, id]);
        }
        packet.extend_from_slice(self.properties());
        packet.resize(packet.len() + usize::from(size), 0);
        let mut bytes = vec![0x30 | flags];
        put_length(&mut bytes, packet.len());
        bytes.extend_from_slice(&packet);
        self.receive(&bytes);
    }

    /// No properties, where there is a place for them.
    fn properties(&self) -> &'static [u8] {
        match self.version {
            Version::V5 => &[0],
            _ => &[],
        }
    }
}

fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}
