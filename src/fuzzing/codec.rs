//! The codec of a connection on which the broker may use topic aliases.

use bytes::{Bytes, BytesMut};

use crate::wire::{Codec, Connect};
use crate::Version;

/// How many the broker may use, and as many as it takes unless it says something else.
pub(super) const ALIASES: u16 = 2;

pub(super) fn codec(version: Version, max_packet_size: usize) -> Codec {
    let mut codec = Codec::new(version, max_packet_size);
    let connect = Connect {
        client_id: "fuzz",
        clean_session: true,
        keep_alive: 0,
        username: None,
        password: None,
        last_will: None,
        will_delay: 0,
        session_expiry: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: u32::MAX,
        topic_alias_maximum: ALIASES,
        request_response_information: false,
        user_properties: &[],
        authentication: None::<(&str, Bytes)>,
    };
    codec.encode_connect(&connect, &mut BytesMut::new());
    codec
}
