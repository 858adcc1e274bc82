//! What the fuzz targets run; not part of the API.
//!
//! The bytes of the fuzzer stand for what a broker sends and for what happens, in which order. What must hold whatever
//! they are is asserted here.

use crate::Version;

mod decoder;
mod input;
mod world;

pub use decoder::wire;

use input::Input;
use world::World;

/// The session, with callers, a broker that may send anything, and connections that come and go.
pub fn session(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    let mut steps = 0;
    while !input.is_empty() && !world.is_over && steps < MAX_STEPS {
        let times = match input.byte() {
            MANY => usize::from(input.byte() % 64) + 1,
            step => {
                world.step(step, &mut input);
                1
            }
        };
        let again = input;
        for _ in 1..times {
            input = again;
            let step = input.byte();
            world.step(step, &mut input);
        }
        world.take_answers();
        world.check();
        steps += times;
    }
    world.end();
}

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const LARGE: usize = 1 << 20;
/// Keeps one input from taking seconds.
const MAX_STEPS: usize = 500;
/// The next step, up to 64 times.
const MANY: u8 = 0xff;

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
        let common = &[0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 14, 16, 18, 19, 20, 0x40, 0x50, 0x62, 0xff];
        for input in inputs(4_000, 400, common) {
            session(&input);
        }
    }

    #[test]
    fn a_flood_of_what_wants_an_answer_stops_at_the_bound() {
        let flood = [MANY, 63, 9, 4, 255, 0x62, 2, 0, 1];
        session(&[&[0; 9][..], &[14, 0], &flood, &flood].concat());
    }
}
