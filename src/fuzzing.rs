//! What the fuzz targets run; not part of the API.
//!
//! The bytes of the fuzzer stand for what a broker sends and for what happens, in which order. What must hold whatever
//! they are is asserted in the targets, each of which has a file of its own.

mod codec;
mod input;
mod session;
mod wire;

pub use session::session;
pub use wire::wire;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of which many mean something to the target.
    fn inputs(count: usize, length: usize, common: &'static [u8]) -> impl Iterator<Item = Vec<u8>> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..count).map(move |_| {
            let length = random.usize(..length);
            let byte = |random: &mut fastrand::Rng| match random.bool() {
                true => common[random.usize(..common.len())],
                false => random.u8(..),
            };
            (0..length).map(|_| byte(&mut random)).collect()
        })
    }

    #[test]
    fn any_bytes_can_go_into_the_decoder() {
        let common = &[0x20, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0, 1, 2, 3, 5, 0x80, b'a'];
        for input in inputs(20_000, 120, common) {
            wire(&input);
        }
    }

    #[test]
    fn any_history_leaves_nothing_behind() {
        let common = &[0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 14, 16, 18, 19, 20, 21, 22, 0x40, 0x50, 0x62, 0xff];
        for input in inputs(4_000, 400, common) {
            session(&input);
        }
    }
}
