//! What the packets of all versions have in common: the fixed header, packet identifiers, acknowledgements.

use bytes::{Buf, BytesMut};

use super::{Inbound, PacketId};
use crate::reason::ReasonCode;
use crate::terms::Version;
use crate::{Error, QoS};

// The types of the packets that a broker sends (MQTT 5, table 2.1).
pub(super) const CONNACK: u8 = 2;
pub(super) const PUBLISH: u8 = 3;
pub(super) const PUBACK: u8 = 4;
pub(super) const PUBREC: u8 = 5;
pub(super) const PUBREL: u8 = 6;
pub(super) const PUBCOMP: u8 = 7;
pub(super) const SUBACK: u8 = 9;
pub(super) const UNSUBACK: u8 = 11;
pub(super) const PINGRESP: u8 = 13;
pub(super) const DISCONNECT: u8 = 14;
pub(super) const AUTH: u8 = 15;

/// The fixed header of the packet at the start of the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    first: u8,
    /// Bytes of the fixed header itself.
    pub(super) header: usize,
    pub(super) remaining: usize,
}

impl Frame {
    pub(super) fn peek(buf: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&first) = buf.first() else { return Ok(None) };
        match read_length(&buf[1..]) {
            Some((remaining, size)) => Ok(Some(Self { first, header: 1 + size, remaining })),
            None if buf.len() > 4 => Err(Error::protocol("the broker sent a malformed remaining length")),
            None => Ok(None),
        }
    }

    pub(super) fn kind(self) -> u8 {
        self.first >> 4
    }

    pub(super) fn flags(self) -> u8 {
        self.first & 0x0f
    }

    /// That of a PUBLISH.
    pub(super) fn qos(self) -> Result<QoS, Error> {
        match self.flags() >> 1 & 0b11 {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(malformed(PUBLISH)),
        }
    }

    pub(super) fn len(self) -> usize {
        self.header + self.remaining
    }

    /// Whether it is a PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(super) fn is_ack(self) -> bool {
        matches!(self.kind(), PUBACK..=PUBCOMP)
    }

    /// Refuses what a broker may not send in this version, wrong flags (MQTT-2.2.2-2, in MQTT 5 MQTT-2.1.3-1), and
    /// lengths that cannot be.
    pub(super) fn check(self, version: Version) -> Result<(), Error> {
        let is_v5 = version == Version::V5;
        let known = match self.kind() {
            CONNACK | PUBLISH..=PUBCOMP | SUBACK | UNSUBACK | PINGRESP => true,
            DISCONNECT | AUTH => is_v5,
            _ => false,
        };
        let flags = match self.kind() {
            PUBLISH => self.flags(),
            PUBREL => 0b0010,
            _ => 0,
        };
        let length = match self.kind() {
            CONNACK | UNSUBACK if !is_v5 => self.remaining == 2,
            CONNACK | PUBACK..=PUBCOMP | SUBACK | UNSUBACK => self.remaining >= 2,
            PINGRESP => self.remaining == 0,
            _ => true,
        };
        if !known {
            return Err(Error::protocol(format!("the broker sent a {}, which it may not", name(self.kind()))));
        }
        match flags == self.flags() && length {
            true => Ok(()),
            false => Err(malformed(self.kind())),
        }
    }
}

/// By hand, because there is one for each publish. MQTT 5 puts a reason code behind the identifier. Brokers have been
/// seen to send it to clients of 3.1.1; taken for malformed, it would end each connection on which the same message is
/// sent again.
pub(super) fn decode_ack(frame: Frame, buf: &mut BytesMut) -> Result<Inbound, Error> {
    let id = nonzero(read_u16(buf, frame.header).unwrap_or_default())?;
    let code = buf.get(frame.header + 2).filter(|_| frame.remaining > 2).copied().unwrap_or_default();
    buf.advance(frame.len());
    let reason = ReasonCode(code).into();
    Ok(match frame.kind() {
        PUBACK => Inbound::PubAck { id, reason },
        PUBREC => Inbound::PubRec { id, reason },
        PUBREL => Inbound::PubRel(id),
        _ => Inbound::PubComp(id),
    })
}

pub(super) fn nonzero(id: PacketId) -> Result<PacketId, Error> {
    match id {
        0 => Err(Error::protocol("the broker sent packet identifier 0")),
        id => Ok(id),
    }
}

pub(super) fn malformed(kind: u8) -> Error {
    Error::protocol(format!("the broker sent a malformed {}", name(kind)))
}

/// What a packet of this type is called.
pub(super) fn name(kind: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "packet of type 0",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    NAMES[usize::from(kind & 0x0f)]
}

/// The codec refuses packets over the protocol's length and identifiers of zero; the session makes neither.
pub(super) fn written<T, E: std::fmt::Debug>(outcome: &Result<T, E>) {
    debug_assert!(outcome.is_ok(), "{:?}", outcome.as_ref().err());
}

/// The variable byte integer at the start of `bytes` (MQTT 5, section 1.5.5), and how many bytes it takes.
pub(super) fn read_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, index + 1));
        }
    }
    None
}

pub(super) fn read_u16(buf: &[u8], at: usize) -> Option<u16> {
    buf.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}
