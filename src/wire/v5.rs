//! MQTT 5: translation between our words and the packets of the codec, nothing else.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{self, Packet, RetainForwardRule};
use rumqttc::v5::mqttbytes::QoS as WireQoS;

use super::alias::{Assigned, Known, Sending};
use super::publish::Raw;
use super::v4::{check_fixed_header, decode_ack, is_ack, nonzero, unexpected, written};
use super::{
    whole_seconds, ConnAck, Connect, Frame, Inbound, Incoming, Outbound, Output, Publish, Refused, AUTH, CONNACK,
    DISCONNECT, PUBLISH, SUBACK, UNSUBACK,
};
use crate::properties::Properties;
use crate::reason::{Reason, ReasonCode};
use crate::terms::{Terms, Version};
use crate::{Error, QoS};

mod properties;

use properties::Fields;

pub(super) fn encode_connect(connect: &Connect<'_>, buf: &mut BytesMut) {
    let (method, data) = match &connect.authentication {
        Some((method, data)) => (Some((*method).to_owned()), Some(data.clone())),
        None => (None, None),
    };
    let packet = v5::Connect {
        keep_alive: connect.keep_alive,
        client_id: connect.client_id.to_owned(),
        clean_start: connect.clean_session,
        properties: Some(v5::ConnectProperties {
            session_expiry_interval: Some(connect.session_expiry).filter(|seconds| *seconds > 0),
            receive_maximum: Some(connect.receive_maximum).filter(|maximum| *maximum < u16::MAX),
            max_packet_size: Some(connect.maximum_packet_size),
            topic_alias_max: Some(connect.topic_alias_maximum).filter(|maximum| *maximum > 0),
            request_response_info: connect.request_response_information.then_some(1),
            request_problem_info: None,
            user_properties: connect.user_properties.to_vec(),
            authentication_method: method,
            authentication_data: data,
        }),
    };
    let login = connect.username.map(|username| v5::Login::new(username, connect.password.unwrap_or_default()));
    let last_will = connect.last_will.map(|will| v5::LastWill {
        topic: Bytes::copy_from_slice(will.topic.as_str().as_bytes()),
        message: will.payload.clone(),
        qos: to_wire(will.qos),
        retain: will.retain,
        properties: will_properties(will, connect.will_delay),
    });
    written(&packet.write(&last_will, &login, buf));
}

fn will_properties(will: &Publish, delay: u32) -> Option<v5::LastWillProperties> {
    let properties = will.properties.as_deref();
    if delay == 0 && properties.is_none() {
        return None;
    }
    let properties = properties.unwrap_or(Properties::NONE);
    Some(v5::LastWillProperties {
        delay_interval: Some(delay).filter(|seconds| *seconds > 0),
        payload_format_indicator: properties.payload_is_utf8.then_some(1),
        message_expiry_interval: properties.message_expiry.map(whole_seconds),
        content_type: properties.content_type.clone(),
        response_topic: properties.response_topic.as_ref().map(|topic| topic.as_str().to_owned()),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties.user_properties.clone(),
    })
}

/// `scratch` is an empty buffer, and left as one.
pub(super) fn encode(outbound: Outbound<'_>, aliases: &mut Assigned, scratch: &mut BytesMut, output: &mut Output) {
    let buf = output.packets();
    match outbound {
        Outbound::Publish { publish, id, dup, expiry } => {
            let sending = aliases.assign(&publish.topic);
            let topic = if matches!(sending, Sending::Known(_)) { "" } else { publish.topic.as_str() };
            write_properties(publish, expiry, &sending, scratch);
            super::publish::encode(publish, topic, id, dup, scratch, output);
            scratch.clear();
            if scratch.capacity() > KEPT_SCRATCH {
                *scratch = BytesMut::new();
            }
        }
        Outbound::PubAck(id) => written(&v5::PubAck::new(id, None).write(buf)),
        Outbound::PubRec(id) => written(&v5::PubRec::new(id, None).write(buf)),
        Outbound::PubRel(id) => written(&v5::PubRel::new(id, None).write(buf)),
        Outbound::PubComp(id) => written(&v5::PubComp::new(id, None).write(buf)),
        Outbound::Subscribe { id, identifier, filters } => {
            let filters = filters.iter().map(|ask| v5::Filter {
                path: ask.filter.as_str().to_owned(),
                qos: to_wire(ask.qos),
                nolocal: ask.no_local,
                preserve_retain: ask.retain_as_published,
                retain_forward_rule: match ask.retained {
                    true => RetainForwardRule::OnEverySubscribe,
                    false => RetainForwardRule::Never,
                },
            });
            let properties = identifier.map(|identifier| v5::SubscribeProperties {
                id: Some(identifier as usize),
                user_properties: Vec::new(),
            });
            written(&v5::Subscribe { pkid: id, filters: filters.collect(), properties }.write(buf));
        }
        Outbound::Unsubscribe { id, filters } => {
            let filters = filters.iter().map(|filter| filter.as_str().to_owned()).collect();
            written(&v5::Unsubscribe { pkid: id, filters, properties: None }.write(buf));
        }
        Outbound::PingReq => written(&v5::PingReq::write(buf)),
        // The codec writes a byte too many behind a reason.
        Outbound::Disconnect(ReasonCode::SUCCESS) => buf.put_slice(&[DISCONNECT << 4, 0]),
        Outbound::Disconnect(ReasonCode(code)) => buf.put_slice(&[DISCONNECT << 4, 1, code]),
    }
}

/// A buffer that grew beyond this is given back.
const KEPT_SCRATCH: usize = 4 * 1024;

/// The properties of a PUBLISH and their length.
fn write_properties(publish: &Publish, expiry: Option<u32>, sending: &Sending, buf: &mut BytesMut) {
    let alias = match sending {
        Sending::Plain => None,
        Sending::Introduced(alias) | Sending::Known(alias) => Some(*alias),
    };
    let properties = publish.properties.as_deref();
    if properties.is_none() && alias.is_none() && expiry.is_none() {
        return buf.put_u8(0);
    }
    written(&fields(properties.unwrap_or(Properties::NONE), expiry, alias).write(buf));
}

pub(super) fn fields(properties: &Properties, expiry: Option<u32>, alias: Option<u16>) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: properties.payload_is_utf8.then_some(1),
        message_expiry_interval: expiry,
        topic_alias: alias,
        response_topic: properties.response_topic.as_ref().map(|topic| topic.as_str().to_owned()),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties.user_properties.clone(),
        subscription_identifiers: Vec::new(),
        content_type: properties.content_type.clone(),
    }
}

/// The codec cannot name the reason, nor count its own lengths: by hand, but for the properties.
pub(super) fn encode_auth(method: &str, data: Bytes, buf: &mut BytesMut) {
    let mut properties = BytesMut::new();
    let fields = v5::ConnectProperties {
        authentication_method: Some(method.to_owned()),
        authentication_data: Some(data),
        ..v5::ConnectProperties::new()
    };
    written(&fields.write(&mut properties));
    buf.put_u8(AUTH << 4);
    super::put_length(properties.len() + 1, buf);
    buf.put_u8(ReasonCode::CONTINUE_AUTHENTICATION.0);
    buf.extend_from_slice(&properties);
}

/// Takes the packet that `frame` describes out of `buf`, which holds all of it.
pub(super) fn decode(frame: Frame, buf: &mut BytesMut, aliases: &mut Known) -> Result<Inbound, Error> {
    check_fixed_header(frame, Version::V5)?;
    if is_ack(frame) && frame.remaining <= WITHOUT_PROPERTIES {
        return decode_ack(frame, buf);
    }
    let mut packet = buf.split_to(frame.len());
    match frame.kind() {
        // A broker that does not know this version answers in the words of the one it knows.
        CONNACK if frame.remaining == 2 => {
            let code = packet[frame.header + 1];
            let reason = super::v4::connack_reason(code).into();
            return match code {
                0 => Err(Error::protocol("the broker answered CONNECT in the words of MQTT 3.1.1")),
                _ => Ok(Inbound::ConnAck(Err(Box::new(Refused { reason, server_reference: None })))),
            };
        }
        DISCONNECT => return decode_disconnect(frame, packet),
        AUTH => return decode_auth(frame, packet),
        PUBLISH => {
            let publish = Raw::read(frame, packet.freeze())?;
            return Ok(Inbound::Publish(translate_publish(publish, aliases)?));
        }
        _ => {}
    }
    // The codec refuses codes that it does not know, and a reason that is new is no reason to end a connection: it is
    // shown successes only.
    let codes = take_codes(frame, &mut packet);
    let packet = Packet::read(&mut packet, None).map_err(malformed)?;
    translate(packet, codes)
}

/// The remaining length of an acknowledgement: an identifier and a reason code, with no properties behind them.
const WITHOUT_PROPERTIES: usize = 3;

fn malformed(source: rumqttc::v5::mqttbytes::Error) -> Error {
    Error::protocol("the broker sent a malformed packet").with_source(source)
}

/// The reason codes of a packet, each replaced by success.
fn take_codes(frame: Frame, packet: &mut [u8]) -> Vec<ReasonCode> {
    let at = frame.header;
    let end = match frame.kind() {
        CONNACK => at + 1..at + 2,
        4..=7 if frame.remaining > 2 => at + 2..at + 3,
        SUBACK | UNSUBACK => match read_length(packet, at + 2) {
            Some((length, size)) => (at + 2 + size).saturating_add(length)..packet.len(),
            None => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    let Some(codes) = packet.get_mut(end) else { return Vec::new() };
    let taken = codes.iter().map(|code| ReasonCode(*code)).collect();
    codes.fill(0);
    taken
}

/// A variable byte integer, and how many bytes it takes (MQTT 5, section 1.5.5).
fn read_length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.get(at..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, index + 1));
        }
    }
    None
}

/// The codec does not take the forms that leave out the properties, or the reason too (section 3.14.2.1).
fn decode_disconnect(frame: Frame, mut packet: BytesMut) -> Result<Inbound, Error> {
    packet.advance(frame.header);
    let code = if packet.is_empty() { ReasonCode::SUCCESS } else { ReasonCode(packet.get_u8()) };
    let mut reason = Reason::from(code);
    let mut server_reference = None;
    if !packet.is_empty() {
        let properties = v5::DisconnectProperties::extract(&mut packet.freeze()).map_err(malformed)?;
        if let Some(properties) = properties {
            reason.text = properties.reason_string.map(Into::into);
            server_reference = properties.server_reference;
        }
    }
    Ok(Inbound::Disconnect(Refused { reason, server_reference }))
}

/// The codec has no AUTH; its properties are among those of CONNACK.
fn decode_auth(frame: Frame, mut packet: BytesMut) -> Result<Inbound, Error> {
    packet.advance(frame.header);
    let code = if packet.is_empty() { ReasonCode::SUCCESS } else { ReasonCode(packet.get_u8()) };
    let properties = match packet.is_empty() {
        true => None,
        false => v5::ConnAckProperties::read(&mut packet.freeze()).map_err(malformed)?,
    };
    Ok(Inbound::Auth { code, data: properties.and_then(|properties| properties.authentication_data) })
}

fn translate(packet: Packet, codes: Vec<ReasonCode>) -> Result<Inbound, Error> {
    let code = codes.first().copied().unwrap_or_default();
    let reason = |text: Option<String>| Reason { code, text: text.map(Into::into) };
    Ok(match packet {
        Packet::ConnAck(ack) if code.is_failure() => {
            let (text, server_reference) = ack
                .properties
                .map(|properties| (properties.reason_string, properties.server_reference))
                .unwrap_or_default();
            Inbound::ConnAck(Err(Box::new(Refused { reason: reason(text), server_reference })))
        }
        Packet::ConnAck(ack) => Inbound::ConnAck(Ok(Box::new(translate_connack(ack)?))),
        Packet::PubAck(ack) => Inbound::PubAck {
            id: nonzero(ack.pkid)?,
            reason: reason(ack.properties.and_then(|properties| properties.reason_string)),
        },
        Packet::PubRec(ack) => Inbound::PubRec {
            id: nonzero(ack.pkid)?,
            reason: reason(ack.properties.and_then(|properties| properties.reason_string)),
        },
        Packet::PubRel(ack) => Inbound::PubRel(nonzero(ack.pkid)?),
        Packet::PubComp(ack) => Inbound::PubComp(nonzero(ack.pkid)?),
        Packet::SubAck(ack) => {
            let text = ack.properties.and_then(|properties| properties.reason_string).map(Into::into);
            let granted = codes.into_iter().map(|code| match code.0 {
                0 => Ok(Ok(QoS::AtMostOnce)),
                1 => Ok(Ok(QoS::AtLeastOnce)),
                2 => Ok(Ok(QoS::ExactlyOnce)),
                _ if code.is_failure() => Ok(Err(Reason { code, text: Clone::clone(&text) })),
                _ => Err(Error::protocol(format!("the broker granted a subscription with code {:#04x}", code.0))),
            });
            Inbound::SubAck { id: nonzero(ack.pkid)?, granted: granted.collect::<Result<_, _>>()? }
        }
        Packet::UnsubAck(ack) => Inbound::UnsubAck { id: nonzero(ack.pkid)?, reasons: codes },
        Packet::PingResp(_) => Inbound::PingResp,
        Packet::Connect(..) => return unexpected("CONNECT"),
        Packet::Subscribe(_) => return unexpected("SUBSCRIBE"),
        Packet::Unsubscribe(_) => return unexpected("UNSUBSCRIBE"),
        Packet::PingReq(_) => return unexpected("PINGREQ"),
        Packet::Publish(_) | Packet::Disconnect(_) | Packet::Auth(_) => {
            return Err(Error::protocol("the broker sent a malformed packet"))
        }
    })
}

fn translate_connack(ack: v5::ConnAck) -> Result<ConnAck, Error> {
    let session_present = ack.session_present;
    let mut terms = Terms::implied(Version::V5, String::new());
    let Some(properties) = ack.properties else {
        return Ok(ConnAck { session_present, terms, authentication_data: None });
    };
    let available = |flag: Option<u8>| flag != Some(0);
    terms.client_id = properties.assigned_client_identifier.unwrap_or_default();
    terms.keep_alive = properties.server_keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
    terms.session_expiry = properties.session_expiry_interval.map(|seconds| match seconds {
        u32::MAX => Duration::MAX,
        seconds => Duration::from_secs(seconds.into()),
    });
    terms.receive_maximum = match properties.receive_max {
        // Section 3.2.2.3.3; with it nothing could ever be published.
        Some(0) => return Err(Error::protocol("the broker sent a receive maximum of 0")),
        maximum => maximum.unwrap_or(u16::MAX),
    };
    terms.maximum_packet_size = properties.max_packet_size;
    terms.maximum_qos = match properties.max_qos {
        Some(0) => QoS::AtMostOnce,
        Some(1) => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    terms.topic_alias_maximum = properties.topic_alias_max.unwrap_or_default();
    terms.retain_available = available(properties.retain_available);
    terms.wildcard_subscriptions_available = available(properties.wildcard_subscription_available);
    terms.subscription_identifiers_available = available(properties.subscription_identifiers_available);
    terms.shared_subscriptions_available = available(properties.shared_subscription_available);
    terms.response_information = properties.response_information;
    terms.server_reference = properties.server_reference;
    terms.reason_string = properties.reason_string;
    terms.user_properties = properties.user_properties;
    Ok(ConnAck { session_present, terms, authentication_data: properties.authentication_data })
}

fn translate_publish(mut publish: Raw, aliases: &mut Known) -> Result<Incoming, Error> {
    let Some(Fields { properties, alias, subscriptions }) = properties::take(&mut publish.payload)? else {
        let topic = publish.take_topic()?;
        return Ok(publish.into_incoming(topic, None, Vec::new()));
    };
    let topic = match (publish.topic.is_empty(), alias) {
        (true, Some(alias)) => aliases.resolve(alias, None)?,
        (false, Some(alias)) => aliases.resolve(alias, Some(publish.take_topic()?))?,
        (_, None) => publish.take_topic()?,
    };
    // None where there is nothing for the application.
    let properties = (!properties.is_empty()).then(|| Box::new(properties));
    Ok(publish.into_incoming(topic, properties, subscriptions))
}

fn to_wire(qos: QoS) -> WireQoS {
    match qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    }
}

#[cfg(test)]
mod tests;
