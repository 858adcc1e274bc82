//! The other end of the wire, for tests, fuzzing and the broker in memory: what clients send.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5::{self, RetainForwardRule};
use rumqttc::v5::mqttbytes::QoS as QoSV5;

use super::{v4 as words_v4, Ask, Frame, PacketId};
use crate::properties::Properties;
use crate::{Error, Filter, QoS, ReasonCode, Topic, Version};

#[cfg(feature = "testing")]
mod answer;
#[cfg(feature = "testing")]
mod hello;

#[cfg(feature = "testing")]
pub(crate) use answer::{encode_answer, encode_publish, Answer};
#[cfg(feature = "testing")]
pub(crate) use hello::{decode_hello, Hello};

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
    pub(crate) properties: Properties,
    pub(crate) alias: Option<u16>,
    pub(crate) identifier: Option<usize>,
    /// The filters of a SUBSCRIBE again, in full.
    pub(crate) asks: Vec<Ask>,
    /// Of a DISCONNECT.
    pub(crate) reason: ReasonCode,
}

/// A message with nothing special about it.
#[cfg(test)]
pub(crate) fn plain(topic: Topic, payload: Bytes, qos: QoS, id: PacketId) -> super::Incoming {
    super::Incoming { topic, payload, qos, retain: false, dup: false, id, properties: None, subscriptions: Vec::new() }
}

/// Takes the next whole packet out of `buf`; None until all of it is there. A CONNECT is none of those.
pub(crate) fn decode_client_packet(version: Version, buf: &mut BytesMut) -> Result<Option<(Sent, Carried)>, Error> {
    let Some((frame, mut packet)) = take_packet(buf)? else { return Ok(None) };
    match version {
        Version::V31 | Version::V311 => translate_v4(&mut packet),
        Version::V5 | Version::Auto if frame.kind() == super::frame::DISCONNECT => {
            let reason = packet.get(frame.header).copied().map(ReasonCode).unwrap_or_default();
            Ok((Sent::Disconnect, Carried { reason, ..Carried::default() }))
        }
        Version::V5 | Version::Auto => translate_v5(&mut packet),
    }
    .map(Some)
}

fn take_packet(buf: &mut BytesMut) -> Result<Option<(Frame, BytesMut)>, Error> {
    Ok(Frame::peek(buf)?.filter(|frame| frame.len() <= buf.len()).map(|frame| (frame, buf.split_to(frame.len()))))
}

fn translate_v4(packet: &mut BytesMut) -> Result<(Sent, Carried), Error> {
    use v4::Packet;
    let mut carried = Carried::default();
    let sent = match Packet::read(packet, super::MAX_REMAINING_LENGTH).map_err(malformed)? {
        Packet::Publish(v4::Publish { dup, qos, retain, topic, pkid, payload }) => {
            Sent::Publish { topic, payload, qos: words_v4::from_wire(qos), retain, dup, id: pkid }
        }
        Packet::PubAck(ack) => Sent::PubAck(ack.pkid),
        Packet::PubRec(ack) => Sent::PubRec(ack.pkid),
        Packet::PubRel(ack) => Sent::PubRel(ack.pkid),
        Packet::PubComp(ack) => Sent::PubComp(ack.pkid),
        Packet::Subscribe(v4::Subscribe { pkid, filters }) => {
            carried.asks = filters.iter().map(ask_v4).collect::<Result<_, _>>()?;
            let filters = filters.into_iter().map(|filter| (filter.path, words_v4::from_wire(filter.qos)));
            Sent::Subscribe(pkid, filters.collect())
        }
        Packet::Unsubscribe(v4::Unsubscribe { pkid, topics }) => Sent::Unsubscribe(pkid, topics),
        Packet::PingReq => Sent::PingReq,
        Packet::Disconnect => Sent::Disconnect,
        other => return Err(unexpected(&other)),
    };
    Ok((sent, carried))
}

fn translate_v5(packet: &mut BytesMut) -> Result<(Sent, Carried), Error> {
    use v5::Packet;
    let mut carried = Carried::default();
    let sent = match Packet::read(packet, None).map_err(malformed)? {
        Packet::Publish(publish) => {
            let properties = publish.properties.unwrap_or_default();
            carried.alias = properties.topic_alias;
            carried.properties = translate_properties(properties);
            Sent::Publish {
                topic: String::from_utf8(publish.topic.to_vec()).map_err(malformed)?,
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
            carried.asks = filters.iter().map(ask_v5).collect::<Result<_, _>>()?;
            let filters = filters.into_iter().map(|filter| (filter.path, from_wire_v5(filter.qos)));
            Sent::Subscribe(pkid, filters.collect())
        }
        Packet::Unsubscribe(v5::Unsubscribe { pkid, filters, .. }) => Sent::Unsubscribe(pkid, filters),
        Packet::PingReq(_) => Sent::PingReq,
        other => return Err(unexpected(&other)),
    };
    Ok((sent, carried))
}

fn ask_v4(filter: &v4::SubscribeFilter) -> Result<Ask, Error> {
    let (qos, filter) = (words_v4::from_wire(filter.qos), Filter::new(&filter.path)?);
    Ok(Ask { filter, qos, no_local: false, retain_as_published: false, retained: true })
}

fn ask_v5(filter: &v5::Filter) -> Result<Ask, Error> {
    Ok(Ask {
        filter: Filter::new(&filter.path)?,
        qos: from_wire_v5(filter.qos),
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        retained: filter.retain_forward_rule != RetainForwardRule::Never,
    })
}

fn translate_properties(properties: v5::PublishProperties) -> Properties {
    Properties {
        message_expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
        content_type: properties.content_type,
        payload_is_utf8: properties.payload_format_indicator == Some(1),
        response_topic: properties.response_topic.and_then(|topic| Topic::new(topic).ok()),
        correlation_data: properties.correlation_data,
        user_properties: properties.user_properties,
    }
}

fn malformed(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::protocol("the client sent a malformed packet").with_source(source)
}

fn unexpected(packet: &impl std::fmt::Debug) -> Error {
    Error::protocol(format!("a client does not send {packet:?}"))
}

fn from_wire_v5(qos: QoSV5) -> QoS {
    match qos {
        QoSV5::AtMostOnce => QoS::AtMostOnce,
        QoSV5::AtLeastOnce => QoS::AtLeastOnce,
        QoSV5::ExactlyOnce => QoS::ExactlyOnce,
    }
}
