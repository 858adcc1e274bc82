//! The properties of the packets that a broker sends (MQTT 5, section 2.2.2).
//!
//! Read here rather than by the codec, which miscounts subscription identifiers, and lets a property run on beyond the
//! length that all of them have: into the payload of a message.

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use crate::wire::frame::{malformed, read_length};
use crate::Error;

// Table 2-4.
pub(super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
pub(super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
pub(super) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
pub(in crate::wire) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const RESPONSE_INFORMATION: u8 = 0x1a;
pub(super) const SERVER_REFERENCE: u8 = 0x1c;
pub(super) const REASON_STRING: u8 = 0x1f;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const MAXIMUM_QOS: u8 = 0x24;
pub(super) const RETAIN_AVAILABLE: u8 = 0x25;
pub(super) const USER_PROPERTY: u8 = 0x26;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(super) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
pub(super) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
pub(super) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2a;

/// The properties at the start of a packet, taken off it one by one: the identifier of one, then its value.
pub(super) struct Fields<'a> {
    packet: &'a mut Bytes,
    /// How much of the packet is behind them, in bytes.
    behind: usize,
    /// The type of the packet.
    kind: u8,
    /// A bit for each that came.
    seen: u64,
}

impl<'a> Fields<'a> {
    /// `packet` begins with their length.
    pub(super) fn of(packet: &'a mut Bytes, kind: u8) -> Result<Self, Error> {
        let (length, size) = read_length(packet).ok_or_else(|| malformed(kind))?;
        packet.advance(size);
        let behind = packet.len().checked_sub(length).ok_or_else(|| malformed(kind))?;
        Ok(Self { packet, behind, kind, seen: 0 })
    }

    /// The identifier of the next one, whose value is to be taken next; None when there are no more.
    pub(super) fn next(&mut self) -> Result<Option<u8>, Error> {
        if self.packet.len() == self.behind {
            return Ok(None);
        }
        let identifier = self.byte()?;
        let bit = 1_u64.checked_shl(identifier.into()).ok_or_else(|| self.malformed())?;
        let may_repeat = matches!(identifier, USER_PROPERTY | SUBSCRIPTION_IDENTIFIER);
        if self.seen & bit != 0 && !may_repeat {
            return Err(self.malformed());
        }
        self.seen |= bit;
        Ok(Some(identifier))
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        self.need(1)?;
        Ok(self.packet.get_u8())
    }

    pub(super) fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.byte()? != 0)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.need(2)?;
        Ok(self.packet.get_u16())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.need(4)?;
        Ok(self.packet.get_u32())
    }

    /// A variable byte integer.
    pub(super) fn number(&mut self) -> Result<usize, Error> {
        let (number, size) = read_length(self.packet).ok_or_else(|| self.malformed())?;
        self.need(size)?;
        self.packet.advance(size);
        Ok(number)
    }

    pub(super) fn data(&mut self) -> Result<Bytes, Error> {
        let length = self.u16()?.into();
        self.need(length)?;
        Ok(self.packet.split_to(length))
    }

    pub(super) fn text(&mut self) -> Result<ByteString, Error> {
        ByteString::try_from(self.data()?).map_err(|source| self.malformed().with_source(source))
    }

    /// Memory of its own.
    pub(super) fn string(&mut self) -> Result<String, Error> {
        Ok(self.text()?.to_string())
    }

    pub(super) fn pair(&mut self) -> Result<(String, String), Error> {
        Ok((self.string()?, self.string()?))
    }

    /// Of one that this packet may not have, or that is not as it must be.
    pub(super) fn malformed(&self) -> Error {
        malformed(self.kind)
    }

    /// Refuses to read into what is behind.
    fn need(&self, bytes: usize) -> Result<(), Error> {
        match self.packet.len() - self.behind >= bytes {
            true => Ok(()),
            false => Err(self.malformed()),
        }
    }
}
