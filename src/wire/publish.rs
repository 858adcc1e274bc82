//! PUBLISH, both ways: the packet of which there may be millions.
//!
//! Written and read here rather than by the codec, which wants to own each topic as a `String`: this way a message that
//! arrives is two slices of the buffer it was read into, and one that leaves is copied once, or not at
//! all if it is large.

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;

use super::frame::{malformed, read_u16, Frame, PUBLISH};
use super::{put_length, Incoming, Output, PacketId, Publish};
use crate::properties::Properties;
use crate::{Error, QoS, Topic};

/// `topic` may be empty where an alias stands for it; `properties` are those of MQTT 5 with their length, or nothing.
pub(super) fn encode(publish: &Publish, topic: &str, id: PacketId, dup: bool, properties: &[u8], output: &mut Output) {
    let Publish { payload, qos, retain, .. } = publish;
    let id = (*qos != QoS::AtMostOnce).then(|| id.to_be_bytes());
    let id = id.as_ref().map_or(&[][..], |id| id);
    let head = 2 + topic.len() + id.len() + properties.len();
    let buf = output.packets();
    buf.reserve(5 + head);
    buf.put_u8(PUBLISH << 4 | u8::from(dup) << 3 | (*qos as u8) << 1 | u8::from(*retain));
    put_length(head + payload.len(), buf);
    // A topic is no longer than this can count.
    buf.put_u16(topic.len() as u16);
    for part in [topic.as_bytes(), id, properties] {
        buf.put_slice(part);
    }
    output.put_payload(payload);
}

/// A packet as it came: the topic is not checked, and may be missing in MQTT 5, whose properties still stand in front
/// of the payload.
pub(super) struct Raw {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    qos: QoS,
    retain: bool,
    dup: bool,
    id: PacketId,
}

impl Raw {
    /// `packet` is all of what `frame` describes.
    pub(super) fn read(frame: Frame, mut packet: Bytes) -> Result<Self, Error> {
        let qos = frame.qos()?;
        let topic_at = frame.header + 2;
        let topic_end = topic_at + usize::from(read_u16(&packet, frame.header).ok_or_else(|| malformed(PUBLISH))?);
        let (id, end) = match qos {
            QoS::AtMostOnce => (0, topic_end),
            _ => (read_u16(&packet, topic_end).filter(|id| *id != 0).ok_or_else(|| malformed(PUBLISH))?, topic_end + 2),
        };
        if end > packet.len() {
            return Err(malformed(PUBLISH));
        }
        let topic = packet.slice(topic_at..topic_end);
        packet.advance(end);
        let (retain, dup) = (frame.flags() & 0b0001 != 0, frame.flags() & 0b1000 != 0);
        Ok(Self { topic, payload: packet, qos, retain, dup, id })
    }

    /// A broker is not trusted to send valid topics.
    pub(super) fn take_topic(&mut self) -> Result<Topic, Error> {
        let text = ByteString::try_from(std::mem::take(&mut self.topic))
            .map_err(|source| Error::protocol("the broker sent a topic that is not UTF-8").with_source(source))?;
        Topic::from_wire(text).map_err(|source| Error::protocol("the broker sent an invalid topic").with_source(source))
    }

    pub(super) fn into_incoming(
        self,
        topic: Topic,
        properties: Option<Box<Properties>>,
        subscriptions: Vec<usize>,
    ) -> Incoming {
        let Self { payload, qos, retain, dup, id, .. } = self;
        Incoming { topic, payload, qos, retain, dup, id, properties, subscriptions }
    }
}
