//! Chance for what must differ between machines, and not only within one.

use std::hash::{BuildHasher, RandomState};

/// A generator with a seed of its own. By itself `fastrand` takes its seed from the clock and the thread, and machines
/// that are alike and start together may share both; the keys of the standard library's hash maps come from the system's
/// source of chance.
pub(crate) fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(RandomState::new().hash_one(()))
}

/// Random letters and digits. Each has a generator of its own: one seed alone would hold less chance than they can.
pub(crate) fn name(length: usize) -> String {
    std::iter::repeat_with(|| rng().alphanumeric()).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fastrand_is_seeded_with_decides_nothing() {
        let drawn = || {
            fastrand::seed(7);
            (rng().u64(..), name(23), fastrand::u64(..))
        };
        let (one, other) = (drawn(), drawn());
        assert_eq!(one.2, other.2);
        assert!(one.0 != other.0 && one.1 != other.1);
    }
}
