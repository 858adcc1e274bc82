//! What only brokers send, and a message as they send it.

use bytes::{BufMut, BytesMut};

use super::super::frame::{self, CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBREC, PUBREL, SUBACK, UNSUBACK};
use super::super::{publish, put_length, v4, v5, whole_seconds, Output, PacketId, Publish};
use crate::properties::Properties;
use crate::{ReasonCode, Version};

/// All that a broker says which is no message. The codes are those of MQTT 5, whatever the version.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'a> {
    /// `client_id` is one that the broker made, which only MQTT 5 tells.
    ConnAck {
        session_present: bool,
        code: ReasonCode,
        client_id: Option<&'a str>,
    },
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    PubRel(PacketId),
    PubComp(PacketId),
    /// One for each filter: the QoS granted, or a failure.
    SubAck(PacketId, &'a [ReasonCode]),
    UnsubAck(PacketId, &'a [ReasonCode]),
    PingResp,
    /// Before MQTT 5 it is nothing.
    Disconnect(ReasonCode),
}

pub(crate) fn encode_answer(version: Version, answer: Answer<'_>, buf: &mut BytesMut) {
    let is_v5 = version == Version::V5;
    match answer {
        Answer::ConnAck { session_present, code, client_id } if is_v5 => {
            let mut properties = BytesMut::new();
            if let Some(client_id) = client_id {
                properties.put_u8(v5::properties::ASSIGNED_CLIENT_IDENTIFIER);
                properties.put_u16(client_id.len() as u16);
                properties.put_slice(client_id.as_bytes());
            }
            buf.put_u8(CONNACK << 4);
            put_length(3 + properties.len(), buf);
            // Short enough to be counted in one byte.
            buf.put_slice(&[u8::from(session_present), code.0, properties.len() as u8]);
            buf.put_slice(&properties);
        }
        Answer::ConnAck { session_present, code, .. } => {
            buf.put_slice(&[CONNACK << 4, 2, u8::from(session_present), v4::connack_code(code)]);
        }
        Answer::PubAck(id, code) => put_ack(PUBACK << 4, id, code.0, is_v5, buf),
        Answer::PubRec(id, code) => put_ack(PUBREC << 4, id, code.0, is_v5, buf),
        Answer::PubRel(id) => put_ack(PUBREL << 4 | 0b0010, id, 0, is_v5, buf),
        Answer::PubComp(id) => put_ack(PUBCOMP << 4, id, 0, is_v5, buf),
        Answer::SubAck(id, codes) => put_codes(SUBACK, id, codes, is_v5, buf),
        Answer::UnsubAck(id, codes) if is_v5 => put_codes(UNSUBACK, id, codes, is_v5, buf),
        Answer::UnsubAck(id, _) => put_codes(UNSUBACK, id, &[], is_v5, buf),
        Answer::PingResp => buf.put_slice(&[PINGRESP << 4, 0]),
        Answer::Disconnect(code) if is_v5 => buf.put_slice(&[DISCONNECT << 4, 1, code.0]),
        Answer::Disconnect(_) => {}
    }
}

fn put_ack(first: u8, id: PacketId, code: u8, is_v5: bool, buf: &mut BytesMut) {
    let code = Some(code).filter(|code| is_v5 && *code != 0);
    buf.put_slice(&[first, 2 + u8::from(code.is_some())]);
    buf.put_u16(id);
    buf.extend(code);
}

fn put_codes(kind: u8, id: PacketId, codes: &[ReasonCode], is_v5: bool, buf: &mut BytesMut) {
    buf.put_u8(kind << 4);
    put_length(2 + usize::from(is_v5) + codes.len(), buf);
    buf.put_u16(id);
    if is_v5 {
        // No properties.
        buf.put_u8(0);
    }
    // Before MQTT 5 there is one code for every failure.
    buf.extend(codes.iter().map(|code| if is_v5 || !code.is_failure() { code.0 } else { 0x80 }));
}

/// `identifiers` are those of the subscriptions that the message comes by, which only MQTT 5 tells.
pub(crate) fn encode_publish(
    version: Version,
    publish: &Publish,
    id: PacketId,
    dup: bool,
    identifiers: &[usize],
    buf: &mut BytesMut,
) {
    let mut properties = BytesMut::new();
    if version == Version::V5 {
        let held = publish.properties.as_deref().unwrap_or(Properties::NONE);
        let mut fields = v5::fields(held, held.message_expiry.map(whole_seconds), None);
        fields.subscription_identifiers = identifiers.to_vec();
        frame::written(&fields.write(&mut properties));
    }
    let mut output = Output::new(false);
    publish::encode(publish, publish.topic.as_str(), id, dup, &properties, &mut output);
    buf.extend_from_slice(output.packets());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Codec, Inbound, Incoming};
    use crate::{QoS, Topic};

    const IDENTIFIERS: [usize; 4] = [1, 300, 2, 3];

    /// What a client reads of it.
    fn read(version: Version, encode: impl FnOnce(&mut BytesMut)) -> Option<Inbound> {
        let mut bytes = BytesMut::new();
        encode(&mut bytes);
        let inbound = Codec::new(version, 1024).decode(&mut bytes).unwrap();
        assert!(bytes.is_empty());
        inbound
    }

    #[test]
    fn a_client_reads_what_was_answered() {
        for version in [Version::V31, Version::V311, Version::V5] {
            let is_v5 = version == Version::V5;
            let read = |answer| read(version, |buf| encode_answer(version, answer, buf)).unwrap();
            let no = |code: ReasonCode| if is_v5 { code } else { ReasonCode::UNSPECIFIED_ERROR };
            let only_v5 = |code: ReasonCode| if is_v5 { code.into() } else { ReasonCode::SUCCESS.into() };
            match read(Answer::ConnAck { session_present: true, code: ReasonCode::SUCCESS, client_id: Some("made") }) {
                Inbound::ConnAck(Ok(ack)) => {
                    assert!(ack.session_present);
                    assert_eq!(ack.terms.client_id, if is_v5 { "made" } else { "" });
                }
                other => panic!("{other:?}"),
            }
            for code in [ReasonCode::NOT_AUTHORIZED, ReasonCode::SERVER_UNAVAILABLE] {
                match read(Answer::ConnAck { session_present: false, code, client_id: None }) {
                    Inbound::ConnAck(Err(refused)) => assert_eq!(refused.reason, code.into()),
                    other => panic!("{other:?}"),
                }
            }
            let nobody = ReasonCode::NO_MATCHING_SUBSCRIBERS;
            assert_eq!(read(Answer::PubAck(7, nobody)), Inbound::PubAck { id: 7, reason: only_v5(nobody) });
            assert_eq!(read(Answer::PubRec(7, nobody)), Inbound::PubRec { id: 7, reason: only_v5(nobody) });
            assert_eq!(read(Answer::PubRel(7)), Inbound::PubRel(7));
            assert_eq!(read(Answer::PubComp(7)), Inbound::PubComp(7));
            let codes = [ReasonCode(0), ReasonCode(2), ReasonCode::NOT_AUTHORIZED];
            let granted = vec![Ok(QoS::AtMostOnce), Ok(QoS::ExactlyOnce), Err(no(ReasonCode::NOT_AUTHORIZED).into())];
            assert_eq!(read(Answer::SubAck(7, &codes)), Inbound::SubAck { id: 7, granted });
            let codes = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
            let reasons = if is_v5 { codes.to_vec() } else { Vec::new() };
            assert_eq!(read(Answer::UnsubAck(7, &codes)), Inbound::UnsubAck { id: 7, reasons });
            assert_eq!(read(Answer::PingResp), Inbound::PingResp);
        }
    }

    #[test]
    fn only_mqtt_5_says_why_a_connection_ends() {
        let code = ReasonCode::SERVER_SHUTTING_DOWN;
        let read = |version| read(version, |buf| encode_answer(version, Answer::Disconnect(code), buf));
        assert_eq!(read(Version::V311), None);
        assert!(matches!(read(Version::V5), Some(Inbound::Disconnect(why)) if why.reason == code.into()));
    }

    #[test]
    fn a_message_carries_its_properties_and_the_identifiers_of_its_subscriptions() {
        let properties = Properties {
            message_expiry: Some(std::time::Duration::from_secs(9)),
            content_type: Some("text/plain".into()),
            payload_is_utf8: true,
            ..Properties::default()
        };
        let publish = Publish {
            topic: Topic::new("a/b").unwrap(),
            payload: "x".into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: Some(Box::new(properties)),
            lenient: true,
        };
        for version in [Version::V311, Version::V5] {
            let is_v5 = version == Version::V5;
            let expected = Incoming {
                topic: publish.topic.clone(),
                payload: publish.payload.clone(),
                qos: publish.qos,
                retain: true,
                dup: true,
                id: 7,
                properties: publish.properties.clone().filter(|_| is_v5),
                subscriptions: if is_v5 { IDENTIFIERS.to_vec() } else { Vec::new() },
            };
            let inbound = read(version, |buf| encode_publish(version, &publish, 7, true, &IDENTIFIERS, buf));
            assert_eq!(inbound, Some(Inbound::Publish(expected)));
        }
    }
}
