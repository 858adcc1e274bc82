//! The border to the MQTT codec: the words the session speaks, and the framing every version shares.
//!
//! A version file translates between these words and the codec's packets and does nothing else; only this folder
//! knows the codec crate.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::properties::Properties;
use crate::reason::{Reason, ReasonCode};
use crate::terms::{Terms, Version};
use crate::{Error, Filter, QoS, Topic};

mod alias;
#[cfg(any(fuzzing, test))]
pub(crate) mod peer;
mod v4;
mod v5;

use alias::{Assigned, Known};

/// Nonzero where it stands for a packet that carries one.
pub(crate) type PacketId = u16;

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// None rather than empty ones.
    pub(crate) properties: Option<Box<Properties>>,
    /// Whether the properties may be left out where the version has none: nobody asked for one of them by name.
    pub(crate) lenient: bool,
}

/// The first packet of a connection. From `session_expiry` on only MQTT 5 has a place for it.
#[derive(Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    /// MQTT 5: clean start.
    pub(crate) clean_session: bool,
    /// Seconds; 0 switches it off.
    pub(crate) keep_alive: u16,
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    pub(crate) last_will: Option<&'a Publish>,
    /// Seconds.
    pub(crate) will_delay: u32,
    /// Seconds; `u32::MAX` is for ever.
    pub(crate) session_expiry: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) maximum_packet_size: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) request_response_information: bool,
    pub(crate) user_properties: &'a [(String, String)],
    /// The method, and the data to begin with.
    pub(crate) authentication: Option<(&'a str, Bytes)>,
}

/// What the session wants on the wire.
#[derive(Debug)]
pub(crate) enum Outbound<'a> {
    /// By `&mut`, because the codec borrows the topic's `String` for the length of the call.
    Publish {
        publish: &'a mut Publish,
        id: PacketId,
        dup: bool,
        /// Seconds until the broker may throw it away.
        expiry: Option<u32>,
    },
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    Subscribe {
        id: PacketId,
        /// What messages by these filters will carry; MQTT 5 only.
        identifier: Option<u32>,
        filters: &'a [Ask],
    },
    Unsubscribe {
        id: PacketId,
        filters: &'a [Filter],
    },
    PingReq,
    /// Before MQTT 5 it is always the normal end.
    Disconnect(ReasonCode),
}

/// One filter of a SUBSCRIBE. Before MQTT 5 there is nothing but its QoS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) filter: Filter,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Whether the retained messages are to be sent.
    pub(crate) retained: bool,
}

/// What came from the wire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    ConnAck(Result<Box<ConnAck>, Box<Refused>>),
    Publish(Incoming),
    /// A PUBLISH over the agent's limit, its payload thrown away unread.
    Oversized {
        qos: QoS,
        id: PacketId,
        size: usize,
    },
    /// The reason belongs to MQTT 5; some brokers send one to clients of any version.
    PubAck {
        id: PacketId,
        reason: Reason,
    },
    PubRec {
        id: PacketId,
        reason: Reason,
    },
    PubRel(PacketId),
    PubComp(PacketId),
    /// One grant or refusal per filter, in the order asked.
    SubAck {
        id: PacketId,
        granted: Vec<Result<QoS, Reason>>,
    },
    /// One reason per filter, in the order asked; none before MQTT 5, where it always succeeds.
    UnsubAck {
        id: PacketId,
        reasons: Vec<ReasonCode>,
    },
    PingResp,
    Disconnect(Refused),
    Auth {
        code: ReasonCode,
        data: Option<Bytes>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    /// Its client identifier is empty if the broker assigned none.
    pub(crate) terms: Terms,
    /// The last word of an authentication.
    pub(crate) authentication_data: Option<Bytes>,
}

/// Why the broker does not want the connection, or not any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) server_reference: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) id: PacketId,
    pub(crate) properties: Option<Box<Properties>>,
    /// The identifiers of the subscriptions it comes by, where there are such.
    pub(crate) subscriptions: Vec<usize>,
}

/// The largest remaining length the protocol can express (MQTT 3.1.1, table 2.4).
pub(crate) const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// The longest answer to anything we send is a SUBACK: a byte for each filter, of which no more than some thousand go
/// into one SUBSCRIBE.
const MAX_ANSWER: usize = 10 * 1024;
/// The same where a broker may add a sentence and some properties, of at most 64 KiB each.
const MAX_ANSWER_V5: usize = 256 * 1024;

/// Turns words into bytes and back, for one connection.
#[derive(Debug)]
pub(crate) struct Codec {
    version: Version,
    max_incoming: usize,
    /// Bytes of an oversized packet that are still to be thrown away.
    skip: usize,
    /// Topic aliases, by direction.
    known: Known,
    assigned: Assigned,
}

impl Codec {
    /// `max_incoming` bounds the remaining length of a PUBLISH, in bytes, and so what a peer can make us hold.
    /// [`Version::Auto`] is spoken as its first choice.
    pub(crate) fn new(version: Version, max_incoming: usize) -> Self {
        Self { version, max_incoming, skip: 0, known: Known::default(), assigned: Assigned::default() }
    }

    fn is_v5(&self) -> bool {
        matches!(self.version, Version::V5 | Version::Auto)
    }

    pub(crate) fn encode_connect(&mut self, connect: &Connect<'_>, buf: &mut BytesMut) {
        if self.is_v5() {
            self.known = Known::new(connect.topic_alias_maximum);
            v5::encode_connect(connect, buf);
        } else {
            v4::encode_connect(self.version, connect, buf);
        }
    }

    /// Lets topics that come again be sent as so many aliases at most.
    pub(crate) fn assign_aliases(&mut self, maximum: u16) {
        self.assigned = Assigned::new(maximum);
    }

    /// A step of an authentication, which only MQTT 5 has.
    pub(crate) fn encode_auth(&self, method: &str, data: Bytes, buf: &mut BytesMut) {
        debug_assert!(self.is_v5());
        v5::encode_auth(method, data, buf);
    }

    /// The words were checked when they were accepted (see [`publish_size`] and the constructors of topics and
    /// filters), so encoding them cannot fail.
    pub(crate) fn encode(&mut self, outbound: Outbound<'_>, buf: &mut BytesMut) {
        if self.is_v5() {
            v5::encode(outbound, &mut self.assigned, buf);
        } else {
            v4::encode(outbound, buf);
        }
    }

    /// Takes the next packet out of `buf`, or None until more bytes are there.
    pub(crate) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Inbound>, Error> {
        if self.skip > 0 {
            let gone = self.skip.min(buf.len());
            buf.advance(gone);
            self.skip -= gone;
            if self.skip > 0 {
                return Ok(None);
            }
        }
        let Some(frame) = Frame::peek(buf)? else { return Ok(None) };
        if frame.kind() == PUBLISH && frame.remaining > self.max_incoming {
            return self.skip_oversized(frame, buf);
        }
        let max_answer = if self.is_v5() { MAX_ANSWER_V5 } else { MAX_ANSWER };
        if frame.kind() != PUBLISH && frame.remaining > max_answer {
            return Err(Error::protocol(format!("the broker sent a packet of type {} that is too long", frame.kind())));
        }
        if buf.len() < frame.len() {
            return Ok(None);
        }
        if self.is_v5() {
            v5::decode(frame, buf, &mut self.known).map(Some)
        } else {
            v4::decode(frame, buf).map(Some)
        }
    }

    /// Reads what is needed to acknowledge a message that is too large, and arranges to skip the rest: ending the
    /// connection instead would make the broker send it again on the next one, for ever.
    fn skip_oversized(&mut self, frame: Frame, buf: &mut BytesMut) -> Result<Option<Inbound>, Error> {
        let qos = match frame.flags() >> 1 & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return Err(Error::protocol("the broker sent a malformed PUBLISH")),
        };
        let Some(topic_length) = read_u16(buf, frame.header) else { return Ok(None) };
        let id_at = frame.header + 2 + usize::from(topic_length);
        let end = if qos == QoS::AtMostOnce { id_at } else { id_at + 2 };
        let malformed = || Error::protocol("the broker sent a malformed PUBLISH");
        if end > frame.len() {
            // Before the identifier is waited for: the bytes after this packet are not part of it.
            return Err(malformed());
        }
        let id = match qos {
            QoS::AtMostOnce => 0,
            _ => match read_u16(buf, id_at) {
                Some(0) => return Err(malformed()),
                Some(id) => id,
                None => return Ok(None),
            },
        };
        let gone = end.min(buf.len());
        buf.advance(gone);
        self.skip = frame.len() - gone;
        Ok(Some(Inbound::Oversized { qos, id, size: frame.len() }))
    }
}

/// How many bytes the PUBLISH takes on the wire; in MQTT 5, with an expiry and a topic alias, at most.
pub(crate) fn publish_size(publish: &Publish, version: Version) -> usize {
    let Publish { topic, payload, qos, properties, .. } = publish;
    let id = if *qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = match version {
        Version::V31 | Version::V311 => 0,
        Version::V5 | Version::Auto => {
            const ALIAS_AND_EXPIRY: usize = 3 + 5;
            let size = properties.as_ref().map_or(0, |properties| properties.size()) + ALIAS_AND_EXPIRY;
            length_of_length(size) + size
        }
    };
    let remaining = 2 + topic.as_str().len() + id + properties + payload.len();
    1 + length_of_length(remaining) + remaining
}

/// How many bytes one filter adds to a SUBSCRIBE.
pub(crate) fn filter_size(filter: &Filter) -> usize {
    2 + filter.as_str().len() + 1
}

/// Rounded up: nothing expires before its time.
pub(crate) fn whole_seconds(duration: Duration) -> u32 {
    let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// A variable byte integer (MQTT 5, section 1.5.5), as the remaining length is one in every version.
fn put_length(mut length: usize, buf: &mut BytesMut) {
    while length >= 0x80 {
        buf.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    buf.put_u8(length as u8);
}

fn length_of_length(remaining: usize) -> usize {
    match remaining {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

/// The fixed header of the packet at the start of the buffer.
#[derive(Debug, Clone, Copy)]
struct Frame {
    first: u8,
    /// Bytes of the fixed header itself.
    header: usize,
    remaining: usize,
}

impl Frame {
    fn peek(buf: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&first) = buf.first() else { return Ok(None) };
        let mut remaining = 0;
        for (index, &byte) in buf[1..].iter().take(4).enumerate() {
            remaining |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { first, header: index + 2, remaining }));
            }
        }
        if buf.len() > 4 {
            return Err(Error::protocol("the broker sent a malformed remaining length"));
        }
        Ok(None)
    }

    fn kind(self) -> u8 {
        self.first >> 4
    }

    fn flags(self) -> u8 {
        self.first & 0x0f
    }

    fn len(self) -> usize {
        self.header + self.remaining
    }
}

fn read_u16(buf: &[u8], at: usize) -> Option<u16> {
    buf.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    const CONNECT: Connect<'_> = Connect {
        client_id: "",
        clean_session: true,
        keep_alive: 0,
        username: None,
        password: None,
        last_will: None,
        will_delay: 0,
        session_expiry: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: 0,
        topic_alias_maximum: 0,
        request_response_information: false,
        user_properties: &[],
        authentication: None,
    };

    fn decode_all(bytes: &[u8], limit: usize) -> Result<Vec<Inbound>, Error> {
        let mut codec = Codec::new(Version::V311, limit);
        let mut buf = BytesMut::from(bytes);
        let mut packets = Vec::new();
        while let Some(packet) = codec.decode(&mut buf)? {
            packets.push(packet);
        }
        Ok(packets)
    }

    fn encode_publish(topic: &str, payload: &[u8], qos: QoS, id: PacketId) -> BytesMut {
        let topic = Topic::new(topic).unwrap();
        let payload = Bytes::copy_from_slice(payload);
        let mut publish = Publish { topic, payload, qos, retain: false, properties: None, lenient: false };
        let mut buf = BytesMut::new();
        let mut codec = Codec::new(Version::V311, 1024);
        codec.encode(Outbound::Publish { publish: &mut publish, id, dup: false, expiry: None }, &mut buf);
        assert_eq!(buf.len(), publish_size(&publish, Version::V311));
        buf
    }

    #[test]
    fn a_publish_comes_back_as_it_went_out() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let id = if qos == QoS::AtMostOnce { 0 } else { 7 };
            let bytes = encode_publish("température/é", b"21.5", qos, id);
            let topic = Topic::new("température/é").unwrap();
            let payload = Bytes::from_static(b"21.5");
            let expected = peer::plain(topic, payload, qos, id);
            assert_eq!(decode_all(&bytes, 1024).unwrap(), [Inbound::Publish(expected)]);
        }
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same_packets() {
        let mut bytes = encode_publish("a/b", &[7; 300], QoS::AtLeastOnce, 1);
        bytes.extend_from_slice(&[0xd0, 0, 0x40, 2, 0, 9]);
        let whole = decode_all(&bytes, 1024).unwrap();
        assert_eq!(whole.len(), 3);
        let mut codec = Codec::new(Version::V311, 1024);
        let mut buf = BytesMut::new();
        let mut packets = Vec::new();
        for byte in bytes {
            buf.extend_from_slice(&[byte]);
            packets.extend(codec.decode(&mut buf).unwrap());
        }
        assert_eq!(packets, whole);
    }

    #[test]
    fn an_oversized_message_is_skipped_and_the_next_packet_read() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let id = if qos == QoS::AtMostOnce { 0 } else { 3 };
            let mut bytes = encode_publish("big", &[1; 5000], qos, id);
            let size = bytes.len();
            bytes.extend_from_slice(&[0xd0, 0]);
            let expected = [Inbound::Oversized { qos, id, size }, Inbound::PingResp];
            assert_eq!(decode_all(&bytes, 100).unwrap(), expected);

            let mut codec = Codec::new(Version::V311, 100);
            let mut buf = BytesMut::new();
            let mut packets = Vec::new();
            for byte in &bytes {
                buf.extend_from_slice(&[*byte]);
                packets.extend(codec.decode(&mut buf).unwrap());
                assert!(buf.len() < 16, "nothing of the payload is kept");
            }
            assert_eq!(packets, expected);
        }
    }

    #[test]
    fn what_is_not_mqtt_is_an_error() {
        let bad: &[(&str, &[u8])] = &[
            ("remaining length of five bytes", &[0x30, 0xff, 0xff, 0xff, 0xff, 1]),
            ("packet type 0", &[0x00, 0]),
            ("packet type 15", &[0xf0, 0]),
            ("a packet only clients send", &[0x82, 6, 0, 1, 0, 1, b'a', 0]),
            ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
            ("packet identifier 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
            ("topic with a wildcard", &[0x30, 3, 0, 1, b'#']),
            ("topic with a NUL", &[0x30, 3, 0, 1, 0]),
            ("empty topic", &[0x30, 2, 0, 0]),
            ("topic that is not UTF-8", &[0x30, 3, 0, 1, 0xff]),
            ("topic longer than the packet", &[0x30, 3, 0, 9, b'a']),
            ("PUBACK without an identifier", &[0x40, 0]),
            ("PUBACK of one byte", &[0x40, 1, 0]),
            ("PUBACK with identifier 0", &[0x40, 2, 0, 0]),
            ("PUBREC of one byte", &[0x50, 1, 0]),
            ("PUBREL with wrong flags", &[0x60, 2, 0, 1]),
            ("SUBACK with an unknown code", &[0x90, 3, 0, 1, 7]),
            ("SUBACK without codes", &[0x90, 2, 0, 1]),
            ("a SUBACK larger than any SUBSCRIBE asks for", &[0x90, 0xff, 0x7f]),
            ("topic longer than a packet over the limit", &[0x32, 0x81, 0x08, 0xff, 0xff]),
        ];
        for (what, bytes) in bad {
            assert!(decode_all(bytes, 1024).is_err(), "{what}");
        }
    }

    #[test]
    fn the_limit_on_messages_leaves_answers_alone() {
        assert!(decode_all(&[0x20, 2, 0, 0], 1).is_ok());
        assert_eq!(decode_all(&[0x90, 4, 0, 1, 0, 1], 1).unwrap().len(), 1);
    }

    #[test]
    fn an_acknowledgement_may_carry_the_reason_of_a_later_version() {
        let refused = |bytes: &[u8]| decode_all(bytes, 1024).unwrap();
        let reason = |code| Reason::from(ReasonCode(code));
        assert_eq!(refused(&[0x40, 2, 0, 1]), [Inbound::PubAck { id: 1, reason: reason(0) }]);
        assert_eq!(refused(&[0x40, 3, 0, 1, 0x10]), [Inbound::PubAck { id: 1, reason: reason(0x10) }]);
        assert_eq!(refused(&[0x40, 4, 0, 1, 0x87, 0]), [Inbound::PubAck { id: 1, reason: reason(0x87) }]);
        assert_eq!(refused(&[0x50, 3, 0, 1, 0x97]), [Inbound::PubRec { id: 1, reason: reason(0x97) }]);
        assert_eq!(refused(&[0x70, 4, 0, 1, 0x92, 0]), [Inbound::PubComp(1)]);
    }

    #[test]
    fn every_refusal_of_a_connection_has_a_name() {
        let refusal = |code| match decode_all(&[0x20, 2, 0, code], 1024).unwrap().remove(0) {
            Inbound::ConnAck(Err(refused)) => Refusal::from(refused.reason.code),
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal(1), Refusal::UnacceptableProtocolVersion);
        assert_eq!(refusal(2), Refusal::IdentifierRejected);
        assert_eq!(refusal(3), Refusal::ServerUnavailable);
        assert_eq!(refusal(4), Refusal::BadUserNameOrPassword);
        assert_eq!(refusal(5), Refusal::NotAuthorized);
        assert_eq!(refusal(200), Refusal::Other(ReasonCode(200)));
        // A length of two, in two bytes.
        let long = decode_all(&[0x20, 0x82, 0, 9, 0, 0x20, 0x82, 0, 0, 9], 1024).unwrap();
        let [Inbound::ConnAck(Ok(_)), Inbound::ConnAck(Err(refused))] = &long[..] else { panic!("{long:?}") };
        assert_eq!(refused.reason.code, ReasonCode(9));
    }

    #[test]
    fn connect_speaks_each_version() {
        let will = Publish {
            topic: Topic::new("w").unwrap(),
            payload: Bytes::from_static(b"x"),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: None,
            lenient: false,
        };
        let connect = Connect {
            client_id: "c",
            clean_session: true,
            keep_alive: 30,
            username: Some("u"),
            password: Some("p"),
            last_will: Some(&will),
            ..CONNECT
        };
        let rest = [0xee, 0, 30, 0, 1, b'c', 0, 1, b'w', 0, 1, b'x', 0, 1, b'u', 0, 1, b'p'];
        for (version, head) in [
            (Version::V311, &[0x10, 25, 0, 4, b'M', b'Q', b'T', b'T', 4][..]),
            (Version::V31, &[0x10, 27, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3][..]),
        ] {
            let mut buf = BytesMut::new();
            Codec::new(version, 1024).encode_connect(&connect, &mut buf);
            assert_eq!(buf, [head, &rest].concat());
        }
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn no_bytes_panic_or_are_held_beyond_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
                let mut codec = Codec::new(Version::V311, 64);
                let mut buf = BytesMut::new();
                for chunk in bytes.chunks(7) {
                    buf.extend_from_slice(chunk);
                    loop {
                        match codec.decode(&mut buf) {
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(_) => return Ok(()),
                        }
                    }
                }
            }
        }
    }
}
