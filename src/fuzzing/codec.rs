//! The codec of a connection on which the broker may use topic aliases.

use bytes::BytesMut;

use crate::wire::{Codec, Connect};
use crate::Version;

/// How many the broker may use, and as many as it takes unless it says something else.
pub(super) const ALIASES: u16 = 2;

pub(super) fn codec(version: Version, max_packet_size: usize) -> Codec {
    let mut codec = Codec::new(version, max_packet_size);
    let connect = Connect { topic_alias_maximum: ALIASES, ..Connect::PLAIN };
    codec.encode_connect(&connect, &mut BytesMut::new());
    codec
}
