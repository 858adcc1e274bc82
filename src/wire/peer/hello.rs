//! The first packet of a client.

use bytes::{Buf, BufMut, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::super::{put_length, read_u16, v4 as words_v4, Publish, MAX_REMAINING_LENGTH};
use super::{from_wire_v5, malformed, take_packet, translate_properties, unexpected};
use crate::{Error, Topic, Version};

/// A CONNECT, as far as a broker that lets everybody in has to know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Never [`Version::Auto`].
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_session: bool,
    /// Whether the session is to be there after the connection.
    pub(crate) is_kept: bool,
    pub(crate) receive_maximum: u16,
    /// In bytes.
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) last_will: Option<Publish>,
}

/// Takes the CONNECT, of any version, out of `buf`; None until all of it is there.
pub(crate) fn decode_hello(buf: &mut BytesMut) -> Result<Option<Hello>, Error> {
    let Some((frame, mut packet)) = take_packet(buf)? else { return Ok(None) };
    let name = usize::from(read_u16(&packet, frame.header).unwrap_or_default());
    match packet.get(frame.header + 2 + name) {
        Some(3) => {
            // The codec only knows the protocol name of 3.1.1; the rest of the packet is the same in 3.1.
            let first = packet[0];
            packet.advance(frame.header + 2 + name + 1);
            let mut modern = BytesMut::new();
            modern.put_u8(first);
            put_length(MODERN_NAME.len() + packet.len(), &mut modern);
            modern.put_slice(MODERN_NAME);
            modern.unsplit(packet);
            read_v4(Version::V31, &mut modern)
        }
        Some(4) => read_v4(Version::V311, &mut packet),
        _ => read_v5(&mut packet),
    }
    .map(Some)
}

const MODERN_NAME: &[u8] = b"\0\x04MQTT\x04";

fn read_v4(version: Version, packet: &mut BytesMut) -> Result<Hello, Error> {
    let connect = match v4::Packet::read(packet, MAX_REMAINING_LENGTH).map_err(malformed)? {
        v4::Packet::Connect(connect) => connect,
        other => return Err(unexpected(&other)),
    };
    let will = |will: v4::LastWill| -> Result<Publish, Error> {
        let (topic, qos) = (Topic::new(will.topic)?, words_v4::from_wire(will.qos));
        Ok(Publish { topic, payload: will.message, qos, retain: will.retain, properties: None, lenient: true })
    };
    Ok(Hello {
        version,
        client_id: connect.client_id,
        clean_session: connect.clean_session,
        is_kept: !connect.clean_session,
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        last_will: connect.last_will.map(will).transpose()?,
    })
}

fn read_v5(packet: &mut BytesMut) -> Result<Hello, Error> {
    let (connect, will) = match v5::Packet::read(packet, None).map_err(malformed)? {
        v5::Packet::Connect(connect, will, _) => (connect, will),
        other => return Err(unexpected(&other)),
    };
    let properties = connect.properties.unwrap_or_else(v5::ConnectProperties::new);
    Ok(Hello {
        version: Version::V5,
        client_id: connect.client_id,
        clean_session: connect.clean_start,
        is_kept: properties.session_expiry_interval.is_some_and(|seconds| seconds > 0),
        receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
        maximum_packet_size: properties.max_packet_size,
        last_will: will.map(will_v5).transpose()?,
    })
}

fn will_v5(will: v5::LastWill) -> Result<Publish, Error> {
    let properties = will.properties.map(|held| v5::PublishProperties {
        payload_format_indicator: held.payload_format_indicator,
        message_expiry_interval: held.message_expiry_interval,
        response_topic: held.response_topic,
        correlation_data: held.correlation_data,
        user_properties: held.user_properties,
        content_type: held.content_type,
        ..v5::PublishProperties::default()
    });
    Ok(Publish {
        topic: Topic::new(String::from_utf8(will.topic.to_vec()).map_err(malformed)?)?,
        payload: will.message,
        qos: from_wire_v5(will.qos),
        retain: will.retain,
        properties: properties.map(|held| Box::new(translate_properties(held))).filter(|held| !held.is_empty()),
        lenient: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::Properties;
    use crate::wire::{Codec, Connect};
    use crate::QoS;

    /// What a broker reads of it.
    fn read(version: Version, connect: &Connect<'_>) -> Hello {
        let mut bytes = BytesMut::new();
        Codec::new(version, 1024).encode_connect(connect, &mut bytes);
        let mut part = BytesMut::from(&bytes[..bytes.len() - 1]);
        assert_eq!(decode_hello(&mut part).unwrap(), None);
        let hello = decode_hello(&mut bytes).unwrap().unwrap();
        assert!(bytes.is_empty());
        hello
    }

    #[test]
    fn a_connect_says_the_same_in_every_version() {
        let properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
        for version in [Version::V31, Version::V311, Version::V5] {
            let is_v5 = version == Version::V5;
            let will = Publish {
                topic: Topic::new("gone").unwrap(),
                payload: "x".into(),
                qos: QoS::ExactlyOnce,
                retain: true,
                properties: is_v5.then(|| Box::new(properties.clone())),
                lenient: true,
            };
            let connect = Connect {
                client_id: "me",
                clean_session: false,
                session_expiry: 60,
                receive_maximum: 7,
                maximum_packet_size: 9000,
                username: Some("user"),
                password: Some("secret"),
                last_will: Some(&will),
                ..Connect::PLAIN
            };
            let expected = Hello {
                version,
                client_id: "me".into(),
                clean_session: false,
                is_kept: true,
                receive_maximum: if is_v5 { 7 } else { u16::MAX },
                maximum_packet_size: is_v5.then_some(9000),
                last_will: Some(will.clone()),
            };
            assert_eq!(read(version, &connect), expected);
            let brief = read(version, &Connect::PLAIN);
            assert_eq!((brief.clean_session, brief.is_kept, brief.last_will), (true, false, None));
        }
    }

    #[test]
    fn what_is_no_connect_is_an_error() {
        for bytes in [&b"\xc0\0"[..], b"\x10\x0a\0\x04MQTT\x07\x02\0\0", b"\x10\x04\0\x04MQ"] {
            assert!(decode_hello(&mut BytesMut::from(bytes)).is_err(), "{bytes:02x?}");
        }
    }
}
