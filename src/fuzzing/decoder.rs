//! The decoder, and bytes in pieces.

use bytes::BytesMut;

use super::input::Input;
use super::{LARGE, VERSIONS};
use crate::wire::{Codec, Inbound};
use crate::Version;

/// The decoder, fed in pieces, with a small and a large limit.
pub fn wire(data: &[u8]) {
    let mut input = Input(data);
    let count = usize::from(input.byte() % 8);
    let sizes: Vec<_> = input.take(count).iter().map(|size| usize::from(*size) + 1).collect();
    for version in VERSIONS {
        for limit in [SMALL, LARGE] {
            let whole = decode(version, input.0, &[usize::MAX], limit);
            let pieces = decode(version, input.0, &sizes, limit);
            assert_eq!(whole, pieces, "where the pieces end makes a difference");
        }
    }
}

const SMALL: usize = 64;

/// The packets in `bytes`, and whether they ended in an error.
fn decode(version: Version, mut bytes: &[u8], sizes: &[usize], limit: usize) -> (Vec<Inbound>, bool) {
    let mut codec = Codec::new(version, limit);
    let mut buf = BytesMut::new();
    let mut packets = Vec::new();
    let mut sizes = sizes.iter().cycle();
    while !bytes.is_empty() {
        let size = sizes.next().map_or(1, |size| *size).min(bytes.len());
        buf.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
        loop {
            let before = buf.len();
            match codec.decode(&mut buf) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(_) => return (packets, true),
            }
            assert!(buf.len() < before, "a packet came out of nothing");
        }
        match frame_length(&buf) {
            None => assert!(buf.len() < 5, "the length of a packet is in its first five bytes"),
            Some(length) => assert!(buf.len() < length, "a whole packet is there and was not taken"),
        }
        // Of a message that is too large the topic and the identifier are needed; an answer of MQTT 5 may be long.
        let most = if version == Version::V5 { 256 * 1024 } else { 2 + usize::from(u16::MAX) + 2 };
        assert!(buf.len() <= 5 + limit.max(most), "{} bytes are held", buf.len());
    }
    (packets, false)
}

fn frame_length(buf: &[u8]) -> Option<usize> {
    let end = buf.iter().skip(1).take(4).position(|byte| byte & 0x80 == 0)?;
    let digits = buf[1..=end + 1].iter().rev();
    Some(end + 2 + digits.fold(0, |length, digit| length << 7 | usize::from(digit & 0x7f)))
}
