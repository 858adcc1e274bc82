//! The properties of a PUBLISH that arrives.
//!
//! By hand: the codec counts each subscription identifier a byte too long, so that where there are several it takes what
//! is left of the properties for the start of the payload.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::read_length;
use crate::properties::Properties;
use crate::wire::publish::malformed;
use crate::{Error, Topic};

/// What a PUBLISH has besides its topic and payload.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) properties: Properties,
    pub(super) alias: Option<u16>,
    pub(super) subscriptions: Vec<usize>,
}

/// Takes the properties off the front of what follows the packet identifier; None where there are none.
pub(super) fn take(payload: &mut Bytes) -> Result<Option<Fields>, Error> {
    let (length, size) = read_length(payload, 0).ok_or_else(malformed)?;
    payload.advance(size);
    if length == 0 {
        return Ok(None);
    }
    let mut block = take_bytes(payload, length)?;
    let mut fields = Fields::default();
    while !block.is_empty() {
        fields.take_one(&mut block)?;
    }
    Ok(Some(fields))
}

impl Fields {
    /// The numbers are those of section 2.2.2.2.
    fn take_one(&mut self, block: &mut Bytes) -> Result<(), Error> {
        let Self { properties, alias, subscriptions } = self;
        match block.get_u8() {
            0x01 => properties.payload_is_utf8 = take_number(block, 1)? == 1,
            0x02 => properties.message_expiry = Some(Duration::from_secs(take_number(block, 4)?.into())),
            0x03 => properties.content_type = Some(take_text(block)?),
            // One that is not valid is nothing to answer to. It comes from another client, which must not be able to end
            // this one's connection.
            0x08 => properties.response_topic = Topic::new(take_text(block)?).ok(),
            0x09 => properties.correlation_data = Some(take_field(block)?),
            0x0b => {
                let (identifier, size) = read_length(block, 0).ok_or_else(malformed)?;
                block.advance(size);
                subscriptions.push(identifier);
            }
            // Of two bytes.
            0x23 => *alias = Some(take_number(block, 2)? as u16),
            0x26 => properties.user_properties.push((take_text(block)?, take_text(block)?)),
            _ => return Err(malformed()),
        }
        Ok(())
    }
}

/// A number of at most four bytes.
fn take_number(block: &mut Bytes, size: usize) -> Result<u32, Error> {
    Ok(take_bytes(block, size)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

fn take_text(block: &mut Bytes) -> Result<String, Error> {
    String::from_utf8(take_field(block)?.to_vec()).map_err(|source| malformed().with_source(source))
}

fn take_field(block: &mut Bytes) -> Result<Bytes, Error> {
    let length = take_number(block, 2)? as usize;
    take_bytes(block, length)
}

fn take_bytes(block: &mut Bytes, length: usize) -> Result<Bytes, Error> {
    if length > block.len() {
        return Err(malformed());
    }
    Ok(block.split_to(length))
}
