//! MQTT 3.1.1 and 3.1: translation between our words and the packets of the codec, nothing else.

use bytes::{Buf, BufMut, BytesMut};
use rumqttc::mqttbytes::v4::{self, Packet};
use rumqttc::mqttbytes::QoS as WireQoS;

use super::frame::{decode_ack, malformed, nonzero, written, Frame, CONNACK, PUBLISH};
use super::publish::Raw;
use super::{put_length, ConnAck, Connect, Inbound, Outbound, Output, Refused};
use crate::reason::ReasonCode;
use crate::terms::{Terms, Version};
use crate::{Error, QoS};

pub(super) fn encode_connect(version: Version, connect: &Connect<'_>, buf: &mut BytesMut) {
    let mut packet = v4::Connect::new(connect.client_id);
    packet.clean_session = connect.clean_session;
    packet.keep_alive = connect.keep_alive;
    if let Some(username) = connect.username {
        packet.set_login(username, connect.password.unwrap_or_default());
    }
    packet.last_will = connect.last_will.map(|will| v4::LastWill {
        topic: will.topic.as_str().to_owned(),
        message: will.payload.clone(),
        qos: to_wire(will.qos),
        retain: will.retain,
    });
    if version == Version::V311 {
        written(&packet.write(buf));
        return;
    }
    // The codec only knows the protocol name of 3.1.1; the rest of the packet is the same in 3.1.
    let mut modern = BytesMut::new();
    written(&packet.write(&mut modern));
    let header = modern.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 2;
    let tail = &modern[header + b"\0\x04MQTT\x04".len()..];
    let head = b"\0\x06MQIsdp\x03";
    buf.put_u8(modern[0]);
    put_length(head.len() + tail.len(), buf);
    buf.extend_from_slice(head);
    buf.extend_from_slice(tail);
}

pub(super) fn encode(outbound: Outbound<'_>, output: &mut Output) {
    let buf = output.packets();
    match outbound {
        Outbound::Publish { publish, id, dup, .. } => {
            super::publish::encode(publish, publish.topic.as_str(), id, dup, &[], output);
        }
        Outbound::PubAck(id) => written(&v4::PubAck::new(id).write(buf)),
        Outbound::PubRec(id) => written(&v4::PubRec::new(id).write(buf)),
        Outbound::PubRel(id) => written(&v4::PubRel::new(id).write(buf)),
        Outbound::PubComp(id) => written(&v4::PubComp::new(id).write(buf)),
        Outbound::Subscribe { id, filters, .. } => {
            let filters = filters
                .iter()
                .map(|ask| v4::SubscribeFilter::new(ask.filter.as_str().to_owned(), to_wire(ask.qos)))
                .collect();
            written(&v4::Subscribe { pkid: id, filters }.write(buf));
        }
        Outbound::Unsubscribe { id, filters } => {
            let topics = filters.iter().map(|filter| filter.as_str().to_owned()).collect();
            written(&v4::Unsubscribe { pkid: id, topics }.write(buf));
        }
        Outbound::PingReq => written(&v4::PingReq.write(buf)),
        Outbound::Disconnect(_) => written(&v4::Disconnect.write(buf)),
    }
}

/// Takes the packet that `frame` describes out of `buf`, which holds all of it.
pub(super) fn decode(frame: Frame, buf: &mut BytesMut) -> Result<Inbound, Error> {
    frame.check(Version::V311)?;
    if frame.kind() == PUBLISH {
        let mut publish = Raw::read(frame, buf.split_to(frame.len()).freeze())?;
        let topic = publish.take_topic()?;
        return Ok(Inbound::Publish(publish.into_incoming(topic, None, Vec::new())));
    }
    if frame.is_ack() {
        return decode_ack(frame, buf);
    }
    // Not at a fixed place: the length may be written in more bytes than it needs.
    let code = buf.get(frame.header + 1).copied().unwrap_or_default();
    if frame.kind() == CONNACK && code > 0 {
        buf.advance(frame.len());
        let refused = Refused { reason: connack_reason(code).into(), server_reference: None };
        return Ok(Inbound::ConnAck(Err(Box::new(refused))));
    }
    let packet = Packet::read(buf, frame.remaining).map_err(|source| malformed(frame.kind()).with_source(source))?;
    translate(packet, frame)
}

/// The return code of a refused connection (MQTT 3.1.1, table 3.1) as a reason code; others stay as they are.
pub(super) fn connack_reason(code: u8) -> ReasonCode {
    match code {
        1 => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        2 => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        3 => ReasonCode::SERVER_UNAVAILABLE,
        4 => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        5 => ReasonCode::NOT_AUTHORIZED,
        other => ReasonCode(other),
    }
}

/// The other way round; what has no return code is "server unavailable".
#[cfg(feature = "testing")]
pub(super) fn connack_code(reason: ReasonCode) -> u8 {
    (0..=5).find(|code| connack_reason(*code) == reason).unwrap_or(3)
}

fn translate(packet: Packet, frame: Frame) -> Result<Inbound, Error> {
    Ok(match packet {
        Packet::ConnAck(ack) => Inbound::ConnAck(Ok(Box::new(ConnAck {
            session_present: ack.session_present,
            terms: Terms::implied(Version::V311, String::new()),
            authentication_data: None,
        }))),
        Packet::SubAck(ack) => Inbound::SubAck {
            id: nonzero(ack.pkid)?,
            granted: ack
                .return_codes
                .into_iter()
                .map(|code| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(from_wire(qos)),
                    v4::SubscribeReasonCode::Failure => Err(ReasonCode::UNSPECIFIED_ERROR.into()),
                })
                .collect(),
        },
        Packet::UnsubAck(ack) => Inbound::UnsubAck { id: nonzero(ack.pkid)?, reasons: Vec::new() },
        Packet::PingResp => Inbound::PingResp,
        // Read by hand before, or nothing that a broker sends.
        _ => return Err(malformed(frame.kind())),
    })
}

fn to_wire(qos: QoS) -> WireQoS {
    match qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    }
}

pub(super) fn from_wire(qos: WireQoS) -> QoS {
    match qos {
        WireQoS::AtMostOnce => QoS::AtMostOnce,
        WireQoS::AtLeastOnce => QoS::AtLeastOnce,
        WireQoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}
