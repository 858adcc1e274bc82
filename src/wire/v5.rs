//! MQTT 5: translation between our words and packets, nothing else. What goes out is mostly the codec's, what comes in is
//! read here.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{self, RetainForwardRule};
use rumqttc::v5::mqttbytes::QoS as WireQoS;

use super::alias::{Assigned, Known, Sending};
use super::frame::{
    decode_ack, malformed, nonzero, written, Frame, AUTH, CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBLISH, PUBREC,
    PUBREL, SUBACK, UNSUBACK,
};
use super::publish::Raw;
use super::{whole_seconds, Challenge, ConnAck, Connect, Inbound, Incoming, Outbound, Output, Publish, Refused};
use crate::properties::Properties;
use crate::reason::{Reason, ReasonCode};
use crate::terms::{Terms, Version};
use crate::{Error, QoS, Topic};

pub(super) mod properties;

use properties::*;

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
    frame.check(Version::V5)?;
    if frame.is_ack() && frame.remaining <= WITHOUT_PROPERTIES {
        return decode_ack(frame, buf);
    }
    let mut packet = buf.split_to(frame.len()).freeze();
    if frame.kind() == PUBLISH {
        return Ok(Inbound::Publish(read_publish(Raw::read(frame, packet)?, aliases)?));
    }
    packet.advance(frame.header);
    match frame.kind() {
        CONNACK => read_connack(&mut packet),
        SUBACK => read_suback(&mut packet),
        UNSUBACK => read_unsuback(&mut packet),
        DISCONNECT => read_disconnect(&mut packet),
        AUTH => read_auth(&mut packet),
        PINGRESP => Ok(Inbound::PingResp),
        _ => read_ack(frame.kind(), &mut packet),
    }
}

/// The remaining length of an acknowledgement: an identifier and a reason code, with no properties behind them.
const WITHOUT_PROPERTIES: usize = 3;

fn read_publish(mut publish: Raw, aliases: &mut Known) -> Result<Incoming, Error> {
    // Most have none, but for the identifiers of subscriptions.
    let mut properties = None::<Box<Properties>>;
    let mut alias = None;
    let mut subscriptions = Vec::new();
    let mut fields = Fields::of(&mut publish.payload, PUBLISH)?;
    while let Some(identifier) = fields.next()? {
        match identifier {
            TOPIC_ALIAS => alias = Some(fields.u16()?),
            SUBSCRIPTION_IDENTIFIER => subscriptions.push(fields.number()?),
            _ => read_property(identifier, &mut fields, properties.get_or_insert_default())?,
        }
    }
    let topic = match (publish.topic.is_empty(), alias) {
        (true, Some(alias)) => aliases.resolve(alias, None)?,
        (false, Some(alias)) => aliases.resolve(alias, Some(publish.take_topic()?))?,
        (_, None) => publish.take_topic()?,
    };
    let properties = properties.filter(|properties| !properties.is_empty());
    Ok(publish.into_incoming(topic, properties, subscriptions))
}

/// One that belongs to the message, whatever connection it comes by.
fn read_property(identifier: u8, fields: &mut Fields<'_>, properties: &mut Properties) -> Result<(), Error> {
    match identifier {
        PAYLOAD_FORMAT_INDICATOR => properties.payload_is_utf8 = fields.byte()? == 1,
        MESSAGE_EXPIRY_INTERVAL => properties.message_expiry = Some(Duration::from_secs(fields.u32()?.into())),
        // One that is not valid is nothing to answer to. It comes from another client, which must not be able to end
        // this one's connection.
        RESPONSE_TOPIC => properties.response_topic = Topic::from_wire(fields.text()?).ok(),
        CORRELATION_DATA => properties.correlation_data = Some(fields.data()?),
        CONTENT_TYPE => properties.content_type = Some(fields.string()?),
        USER_PROPERTY => properties.user_properties.push(fields.pair()?),
        _ => return Err(fields.malformed()),
    }
    Ok(())
}

fn read_connack(packet: &mut Bytes) -> Result<Inbound, Error> {
    let (flags, code) = (packet.get_u8(), packet.get_u8());
    if packet.is_empty() {
        // A broker that does not know this version answers in the words of the one it knows.
        let reason = super::v4::connack_reason(code).into();
        return match code {
            0 => Err(Error::protocol("the broker answered CONNECT in the words of MQTT 3.1.1")),
            _ => Ok(Inbound::ConnAck(Err(Box::new(Refused { reason, server_reference: None })))),
        };
    }
    let (terms, authentication_data) = read_terms(packet)?;
    let code = ReasonCode(code);
    Ok(Inbound::ConnAck(match code.is_failure() {
        true => {
            let reason = Reason { code, text: terms.reason_string.map(Into::into) };
            Err(Box::new(Refused { reason, server_reference: terms.server_reference }))
        }
        false => Ok(Box::new(ConnAck { session_present: flags & 1 == 1, terms, authentication_data })),
    }))
}

/// The properties of a CONNACK; what it leaves out is as the protocol has it.
fn read_terms(packet: &mut Bytes) -> Result<(Terms, Option<Challenge>), Error> {
    let mut terms = Terms::implied(Version::V5, String::new());
    let mut authentication_data = None;
    let mut fields = Fields::of(packet, CONNACK)?;
    while let Some(identifier) = fields.next()? {
        match identifier {
            SESSION_EXPIRY_INTERVAL => {
                terms.session_expiry = Some(match fields.u32()? {
                    u32::MAX => Duration::MAX,
                    seconds => Duration::from_secs(seconds.into()),
                });
            }
            RECEIVE_MAXIMUM => match fields.u16()? {
                // Section 3.2.2.3.3; with it nothing could ever be published.
                0 => return Err(Error::protocol("the broker sent a receive maximum of 0")),
                maximum => terms.receive_maximum = maximum,
            },
            MAXIMUM_QOS => {
                terms.maximum_qos = match fields.byte()? {
                    0 => QoS::AtMostOnce,
                    1 => QoS::AtLeastOnce,
                    _ => QoS::ExactlyOnce,
                };
            }
            MAXIMUM_PACKET_SIZE => match fields.u32()? {
                // Section 3.2.2.3.6; nothing at all could be sent.
                0 => return Err(Error::protocol("the broker sent a maximum packet size of 0")),
                maximum => terms.maximum_packet_size = Some(maximum),
            },
            TOPIC_ALIAS_MAXIMUM => terms.topic_alias_maximum = fields.u16()?,
            SERVER_KEEP_ALIVE => terms.keep_alive = Some(Duration::from_secs(fields.u16()?.into())),
            RETAIN_AVAILABLE => terms.retain_available = fields.flag()?,
            WILDCARD_SUBSCRIPTION_AVAILABLE => terms.wildcard_subscriptions_available = fields.flag()?,
            SUBSCRIPTION_IDENTIFIERS_AVAILABLE => terms.subscription_identifiers_available = fields.flag()?,
            SHARED_SUBSCRIPTION_AVAILABLE => terms.shared_subscriptions_available = fields.flag()?,
            ASSIGNED_CLIENT_IDENTIFIER => terms.client_id = fields.string()?,
            RESPONSE_INFORMATION => terms.response_information = Some(fields.string()?),
            SERVER_REFERENCE => terms.server_reference = Some(fields.string()?),
            REASON_STRING => terms.reason_string = Some(fields.string()?),
            USER_PROPERTY => terms.user_properties.push(fields.pair()?),
            AUTHENTICATION_METHOD => drop(fields.text()?),
            AUTHENTICATION_DATA => authentication_data = Some(Challenge(fields.data()?)),
            _ => return Err(fields.malformed()),
        }
    }
    at_end(packet, CONNACK)?;
    Ok((terms, authentication_data))
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP with properties.
fn read_ack(kind: u8, packet: &mut Bytes) -> Result<Inbound, Error> {
    let (id, code) = (nonzero(packet.get_u16())?, ReasonCode(packet.get_u8()));
    let text = Details::read(packet, kind)?.text;
    at_end(packet, kind)?;
    let reason = Reason { code, text };
    Ok(match kind {
        PUBACK => Inbound::PubAck { id, reason },
        PUBREC => Inbound::PubRec { id, reason },
        PUBREL => Inbound::PubRel(id),
        _ => Inbound::PubComp(id),
    })
}

fn read_suback(packet: &mut Bytes) -> Result<Inbound, Error> {
    let id = nonzero(packet.get_u16())?;
    let text = Details::read(packet, SUBACK)?.text;
    let granted = codes(packet, SUBACK)?.map(|code| match code.0 {
        0 => Ok(Ok(QoS::AtMostOnce)),
        1 => Ok(Ok(QoS::AtLeastOnce)),
        2 => Ok(Ok(QoS::ExactlyOnce)),
        _ if code.is_failure() => Ok(Err(Reason { code, text: text.clone() })),
        _ => Err(Error::protocol(format!("the broker granted a subscription with code {:#04x}", code.0))),
    });
    Ok(Inbound::SubAck { id, granted: granted.collect::<Result<_, _>>()? })
}

fn read_unsuback(packet: &mut Bytes) -> Result<Inbound, Error> {
    let id = nonzero(packet.get_u16())?;
    Details::read(packet, UNSUBACK)?;
    Ok(Inbound::UnsubAck { id, reasons: codes(packet, UNSUBACK)?.collect() })
}

/// One for each filter.
fn codes(packet: &Bytes, kind: u8) -> Result<impl Iterator<Item = ReasonCode> + '_, Error> {
    match packet.is_empty() {
        true => Err(malformed(kind)),
        false => Ok(packet.iter().copied().map(ReasonCode)),
    }
}

fn read_disconnect(packet: &mut Bytes) -> Result<Inbound, Error> {
    let (code, Details { text, server_reference, .. }) = read_reason(packet, DISCONNECT)?;
    Ok(Inbound::Disconnect(Refused { reason: Reason { code, text }, server_reference }))
}

fn read_auth(packet: &mut Bytes) -> Result<Inbound, Error> {
    let (code, Details { data, .. }) = read_reason(packet, AUTH)?;
    Ok(Inbound::Auth { code, data })
}

/// The properties may be left out, and the reason too (sections 3.14.2.1 and 3.15.2.1).
fn read_reason(packet: &mut Bytes, kind: u8) -> Result<(ReasonCode, Details), Error> {
    let code = if packet.is_empty() { ReasonCode::SUCCESS } else { ReasonCode(packet.get_u8()) };
    let details = if packet.is_empty() { Details::default() } else { Details::read(packet, kind)? };
    at_end(packet, kind)?;
    Ok((code, details))
}

/// What a broker adds to a reason code.
#[derive(Default)]
struct Details {
    text: Option<Box<str>>,
    server_reference: Option<String>,
    data: Option<Challenge>,
}

impl Details {
    fn read(packet: &mut Bytes, kind: u8) -> Result<Self, Error> {
        let mut details = Self::default();
        let mut fields = Fields::of(packet, kind)?;
        while let Some(identifier) = fields.next()? {
            match (identifier, kind) {
                (REASON_STRING, _) => details.text = Some(fields.string()?.into()),
                (USER_PROPERTY, _) => drop(fields.pair()?),
                (SERVER_REFERENCE, DISCONNECT) => details.server_reference = Some(fields.string()?),
                (SESSION_EXPIRY_INTERVAL, DISCONNECT) => drop(fields.u32()?),
                (AUTHENTICATION_METHOD, AUTH) => drop(fields.text()?),
                (AUTHENTICATION_DATA, AUTH) => details.data = Some(Challenge(fields.data()?)),
                _ => return Err(fields.malformed()),
            }
        }
        Ok(details)
    }
}

/// Refuses a packet that goes on after its last field.
fn at_end(packet: &Bytes, kind: u8) -> Result<(), Error> {
    match packet.is_empty() {
        true => Ok(()),
        false => Err(malformed(kind)),
    }
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
