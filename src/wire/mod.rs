//! The border to the MQTT codec: the words the session speaks, and the framing every version shares.
//!
//! A version file translates between these words and the codec's packets and does nothing else; only this folder
//! knows the codec crate.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::properties::Properties;
use crate::reason::{Reason, ReasonCode};
use crate::terms::{Terms, Version};
use crate::{Error, Filter, QoS, Topic};

mod alias;
mod frame;
mod output;
#[cfg(any(feature = "testing", fuzzing, test))]
pub(crate) mod peer;
mod publish;
mod v4;
mod v5;

use alias::{Assigned, Known};
use frame::{malformed, read_u16, Frame, PUBLISH};
pub(crate) use output::Output;

/// Nonzero where it stands for a packet that carries one.
pub(crate) type PacketId = u16;

/// A message on its way out.
#[derive(Clone, PartialEq, Eq)]
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

/// The first packet of a connection. From `session_expiry` on only MQTT 5 has a place for it. It is shown nowhere: most
/// of it are secrets.
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

#[cfg(any(fuzzing, test))]
impl Connect<'static> {
    /// The least that is one.
    pub(crate) const PLAIN: Self = Self {
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
}

/// What the session wants on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outbound<'a> {
    Publish {
        publish: &'a Publish,
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
        data: Option<Challenge>,
    },
}

/// What the broker says in an authentication. It is shown nowhere.
#[derive(PartialEq, Eq)]
pub(crate) struct Challenge(pub(crate) Bytes);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    /// Its client identifier is empty if the broker assigned none.
    pub(crate) terms: Terms,
    /// The last word of an authentication.
    pub(crate) authentication_data: Option<Challenge>,
}

/// Why the broker does not want the connection, or not any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) server_reference: Option<String>,
}

#[derive(PartialEq, Eq)]
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

// A payload may be a secret or a megabyte: its length is enough.

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("topic", &self.topic.as_str())
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("topic", &self.topic.as_str())
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("dup", &self.dup)
            .field("id", &self.id)
            .field("properties", &self.properties)
            .field("subscriptions", &self.subscriptions)
            .finish()
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("bytes", &self.0.len()).finish_non_exhaustive()
    }
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
    /// Kept between packets for its memory only.
    properties: BytesMut,
}

impl Codec {
    /// `max_incoming` bounds the remaining length of a PUBLISH, in bytes, and so what a peer can make us hold.
    /// [`Version::Auto`] is spoken as its first choice.
    pub(crate) fn new(version: Version, max_incoming: usize) -> Self {
        let (known, assigned) = (Known::default(), Assigned::default());
        Self { version, max_incoming, skip: 0, known, assigned, properties: BytesMut::new() }
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
    pub(crate) fn encode(&mut self, outbound: Outbound<'_>, output: &mut Output) {
        if self.is_v5() {
            v5::encode(outbound, &mut self.assigned, &mut self.properties, output);
        } else {
            v4::encode(outbound, output);
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
            return Err(Error::protocol(format!("the broker sent a {} that is too long", frame::name(frame.kind()))));
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

    /// How many bytes the packet at the start of `buf` lacks; 0 where its length is not known yet.
    pub(crate) fn missing(&self, buf: &[u8]) -> usize {
        let frame = Frame::peek(buf).ok().flatten();
        frame.map_or(0, |frame| frame.len().saturating_sub(buf.len()))
    }

    /// Reads what is needed to acknowledge a message that is too large, and arranges to skip the rest: ending the
    /// connection instead would make the broker send it again on the next one, for ever.
    fn skip_oversized(&mut self, frame: Frame, buf: &mut BytesMut) -> Result<Option<Inbound>, Error> {
        let qos = frame.qos()?;
        let Some(topic_length) = read_u16(buf, frame.header) else { return Ok(None) };
        let id_at = frame.header + 2 + usize::from(topic_length);
        let end = if qos == QoS::AtMostOnce { id_at } else { id_at + 2 };
        if end > frame.len() {
            // Before the identifier is waited for: the bytes after this packet are not part of it.
            return Err(malformed(PUBLISH));
        }
        let id = match qos {
            QoS::AtMostOnce => 0,
            _ => match read_u16(buf, id_at) {
                Some(0) => return Err(malformed(PUBLISH)),
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

#[cfg(test)]
pub(crate) mod tests;
