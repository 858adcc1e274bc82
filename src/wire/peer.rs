//! The other end of the wire, for tests and fuzzing: what a client sent.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{self, Packet};

use super::v4::from_wire;
use super::PacketId;
use crate::QoS;

/// A packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    Publish { topic: String, payload: Bytes, qos: QoS, retain: bool, dup: bool, id: PacketId },
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    Subscribe(PacketId, Vec<(String, QoS)>),
    Unsubscribe(PacketId, Vec<String>),
    PingReq,
    Disconnect,
}

/// Takes the next whole packet out of `buf`.
pub(crate) fn decode_client_packet(buf: &mut BytesMut) -> Option<Sent> {
    let packet = match Packet::read(buf, super::MAX_REMAINING_LENGTH) {
        Ok(packet) => packet,
        Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => return None,
        Err(error) => panic!("the client sent something malformed: {error}"),
    };
    Some(match packet {
        Packet::Publish(v4::Publish { dup, qos, retain, topic, pkid, payload }) => {
            Sent::Publish { topic, payload, qos: from_wire(qos), retain, dup, id: pkid }
        }
        Packet::PubAck(ack) => Sent::PubAck(ack.pkid),
        Packet::PubRec(ack) => Sent::PubRec(ack.pkid),
        Packet::PubRel(ack) => Sent::PubRel(ack.pkid),
        Packet::PubComp(ack) => Sent::PubComp(ack.pkid),
        Packet::Subscribe(v4::Subscribe { pkid, filters }) => {
            Sent::Subscribe(pkid, filters.into_iter().map(|filter| (filter.path, from_wire(filter.qos))).collect())
        }
        Packet::Unsubscribe(v4::Unsubscribe { pkid, topics }) => Sent::Unsubscribe(pkid, topics),
        Packet::PingReq => Sent::PingReq,
        Packet::Disconnect => Sent::Disconnect,
        other => panic!("a client does not send {other:?}"),
    })
}
