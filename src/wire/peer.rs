//! The other end of the wire, for tests and fuzzing: what a client sent.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5::{self, RetainForwardRule};
use rumqttc::v5::mqttbytes::QoS as QoSV5;

use super::{v4 as words_v4, Ask, Frame, Incoming, PacketId};
use crate::{Filter, QoS, Topic, Version};

/// A packet of a client, in what all versions have.
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

/// What a packet carried that only MQTT 5 has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Carried {
    pub(crate) expiry: Option<u32>,
    pub(crate) alias: Option<u16>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) identifier: Option<usize>,
    pub(crate) asks: Vec<Ask>,
}

/// A message with nothing special about it.
pub(crate) fn plain(topic: Topic, payload: Bytes, qos: QoS, id: PacketId) -> Incoming {
    Incoming { topic, payload, qos, retain: false, dup: false, id, properties: None, subscriptions: Vec::new() }
}

/// Takes the next whole packet out of `buf`.
pub(crate) fn decode_client_packet(version: Version, buf: &mut BytesMut) -> Option<(Sent, Carried)> {
    let frame = Frame::peek(buf).expect("a length that is not malformed")?;
    if buf.len() < frame.len() {
        return None;
    }
    let mut packet = buf.split_to(frame.len());
    Some(match version {
        Version::V31 | Version::V311 => (translate_v4(&mut packet), Carried::default()),
        Version::V5 | Version::Auto if frame.kind() == super::frame::DISCONNECT => {
            (Sent::Disconnect, Carried::default())
        }
        Version::V5 | Version::Auto => translate_v5(&mut packet),
    })
}

fn translate_v4(packet: &mut BytesMut) -> Sent {
    use v4::Packet;
    match Packet::read(packet, super::MAX_REMAINING_LENGTH).expect("a well-formed packet") {
        Packet::Publish(v4::Publish { dup, qos, retain, topic, pkid, payload }) => {
            Sent::Publish { topic, payload, qos: words_v4::from_wire(qos), retain, dup, id: pkid }
        }
        Packet::PubAck(ack) => Sent::PubAck(ack.pkid),
        Packet::PubRec(ack) => Sent::PubRec(ack.pkid),
        Packet::PubRel(ack) => Sent::PubRel(ack.pkid),
        Packet::PubComp(ack) => Sent::PubComp(ack.pkid),
        Packet::Subscribe(v4::Subscribe { pkid, filters }) => {
            let filters = filters.into_iter().map(|filter| (filter.path, words_v4::from_wire(filter.qos)));
            Sent::Subscribe(pkid, filters.collect())
        }
        Packet::Unsubscribe(v4::Unsubscribe { pkid, topics }) => Sent::Unsubscribe(pkid, topics),
        Packet::PingReq => Sent::PingReq,
        Packet::Disconnect => Sent::Disconnect,
        other => panic!("a client does not send {other:?}"),
    }
}

fn translate_v5(packet: &mut BytesMut) -> (Sent, Carried) {
    use v5::Packet;
    let mut carried = Carried::default();
    let sent = match Packet::read(packet, None).expect("a well-formed packet") {
        Packet::Publish(publish) => {
            let properties = publish.properties.unwrap_or_default();
            carried.expiry = properties.message_expiry_interval;
            carried.alias = properties.topic_alias;
            carried.response_topic = properties.response_topic;
            carried.correlation_data = properties.correlation_data;
            carried.user_properties = properties.user_properties;
            Sent::Publish {
                topic: String::from_utf8(publish.topic.to_vec()).expect("a topic in UTF-8"),
                payload: publish.payload,
                qos: from_wire_v5(publish.qos),
                retain: publish.retain,
                dup: publish.dup,
                id: publish.pkid,
            }
        }
        Packet::PubAck(ack) => Sent::PubAck(ack.pkid),
        Packet::PubRec(ack) => Sent::PubRec(ack.pkid),
        Packet::PubRel(ack) => Sent::PubRel(ack.pkid),
        Packet::PubComp(ack) => Sent::PubComp(ack.pkid),
        Packet::Subscribe(v5::Subscribe { pkid, filters, properties }) => {
            carried.identifier = properties.and_then(|properties| properties.id);
            carried.asks = filters.iter().map(ask).collect();
            let filters = filters.into_iter().map(|filter| (filter.path, from_wire_v5(filter.qos)));
            Sent::Subscribe(pkid, filters.collect())
        }
        Packet::Unsubscribe(v5::Unsubscribe { pkid, filters, .. }) => Sent::Unsubscribe(pkid, filters),
        Packet::PingReq(_) => Sent::PingReq,
        other => panic!("a client does not send {other:?}"),
    };
    (sent, carried)
}

fn ask(filter: &v5::Filter) -> Ask {
    Ask {
        filter: Filter::new(&filter.path).expect("a valid filter"),
        qos: from_wire_v5(filter.qos),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retained: filter.retain_forward_rule != RetainForwardRule::Never,
    }
}

fn from_wire_v5(qos: QoSV5) -> QoS {
    match qos {
        QoSV5::AtMostOnce => QoS::AtMostOnce,
        QoSV5::AtLeastOnce => QoS::AtLeastOnce,
        QoSV5::ExactlyOnce => QoS::ExactlyOnce,
    }
}
