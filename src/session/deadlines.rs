//! Who is to be told that its time is up, soonest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

use crate::room::KEPT;

/// A heap of deadlines. Most of what has one is finished long before; such entries are left where they are until they
/// outnumber the rest, so that finishing costs nothing.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    /// The length at which finished entries are swept out.
    sweep_at: usize,
    /// How many there were when it last came to rest, or fewer.
    at_rest: usize,
}

const MIN_SWEEP: usize = 64;

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sweep_at: MIN_SWEEP, at_rest: 0 }
    }

    pub(crate) fn push(&mut self, at: Instant, key: K, is_live: impl Fn(K) -> bool) {
        if self.heap.len() >= self.sweep_at {
            self.sweep(is_live);
        }
        self.heap.push(Reverse((at, key)));
    }

    /// For when most are finished: sweeps them out, if they are enough to be worth it.
    pub(crate) fn rest(&mut self, is_live: impl Fn(K) -> bool) {
        self.at_rest = self.at_rest.min(self.heap.len());
        if self.heap.len() > self.at_rest + KEPT {
            self.sweep(is_live);
            self.at_rest = self.heap.len();
        }
    }

    fn sweep(&mut self, is_live: impl Fn(K) -> bool) {
        self.heap.retain(|Reverse((_, key))| is_live(*key));
        self.sweep_at = (self.heap.len() * 2).max(MIN_SWEEP);
        self.heap.shrink_to(self.sweep_at * 2);
    }

    /// When the next one is due; it may belong to something that is finished.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let key = self.heap.pop().map(|Reverse((_, key))| key);
        if self.heap.is_empty() && self.heap.capacity() > 4 * MIN_SWEEP {
            *self = Self::new();
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn due_keys_come_soonest_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut deadlines = Deadlines::new();
        for seconds in [3, 1, 2] {
            deadlines.push(at(seconds), seconds, |_| true);
        }
        assert_eq!(deadlines.next(), Some(at(1)));
        assert_eq!(deadlines.pop_due(start), None);
        assert_eq!(deadlines.pop_due(at(2)), Some(1));
        assert_eq!(deadlines.pop_due(at(2)), Some(2));
        assert_eq!(deadlines.pop_due(at(2)), None);
    }

    #[test]
    fn finished_entries_do_not_pile_up() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new();
        for n in 0..1_000_000_u32 {
            deadlines.push(start + Duration::from_secs(30), n, |key| key + 10 > n);
        }
        assert!(deadlines.heap.len() <= MIN_SWEEP, "{}", deadlines.heap.len());
    }

    #[test]
    fn at_rest_many_finished_entries_give_their_room_back_and_few_stay() {
        let at = Instant::now() + Duration::from_secs(30);
        let mut deadlines = Deadlines::new();
        let live = [0, 10_000];
        let mut burst = |count| {
            for n in 0..count {
                deadlines.push(at, n, |_| true);
            }
            deadlines.rest(|key| live.contains(&key));
            (deadlines.len(), deadlines.heap.capacity())
        };
        assert_eq!(burst(10_001), (2, 2 * MIN_SWEEP));
        assert_eq!(burst(KEPT).0, 2 + KEPT);
        assert_eq!(burst(1).0, 4);
    }
}
