//! How long round trips took, in buckets: written by the actor, read by anyone.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bucket `n` holds what took less than 2^n microseconds and not less than half of that; the last one all that took
/// longer, from 18 minutes on.
const BUCKETS: usize = 32;

/// How long something took each time, in buckets of which each reaches twice as far as the one before; those of an agent
/// are in its [`Stats`](crate::Stats).
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    micros: u64,
}

impl Histogram {
    /// How many times.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long on average, exact to a microsecond; None if it never happened.
    pub fn mean(&self) -> Option<Duration> {
        self.micros.checked_div(self.count()).map(Duration::from_micros)
    }

    /// The time within which so many of a hundred ended, rounded up to the end of its bucket: at most twice as long as it
    /// was, or a microsecond. What took longer than 35 minutes is in the last bucket, and counts as what that ends with. None
    /// if it never happened, or if `percent` is not a number.
    ///
    /// ```no_run
    /// # fn example(agent: mqtt_agent::Agent) {
    /// let stats = agent.stats();
    /// println!("99 of 100 publishes are acknowledged within {:?}", stats.ack_times.percentile(99.0));
    /// # }
    /// ```
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let wanted = self.count() as f64 * percent.clamp(0.0, 100.0) / 100.0;
        let mut so_far = 0;
        self.buckets().find_map(|(end, count)| {
            so_far += count;
            (count > 0 && so_far as f64 >= wanted).then_some(end)
        })
    }

    /// Each bucket's upper end, and how many times took less than that and no less than the end of the one before; the last
    /// one, which ends with 35 minutes, has all that took longer too.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(bucket, count)| (Duration::from_micros(1 << bucket), *count))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("p50", &self.percentile(50.0))
            .field("p99", &self.percentile(99.0))
            .finish_non_exhaustive()
    }
}

/// A histogram that one task writes: a plain store does where an atomic addition would cost a bus lock.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Timings {
    pub(crate) fn add(&self, took: Duration) {
        let micros = took.as_secs().saturating_mul(1_000_000).saturating_add(took.subsec_micros().into());
        let bucket = ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1);
        for (counter, n) in [(&self.buckets[bucket], 1), (&self.micros, micros)] {
            counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Histogram {
        let mut snapshot = Histogram { micros: self.micros.load(Relaxed), ..Histogram::default() };
        for (to, from) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Relaxed);
        }
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(times: &[Duration]) -> Histogram {
        let timings = Timings::default();
        times.iter().for_each(|took| timings.add(*took));
        timings.snapshot()
    }

    #[test]
    fn every_time_falls_below_the_end_of_its_bucket_and_not_below_half_of_it() {
        for micros in [1, 2, 3, 4, 7, 8, 1000, 1023, 1024, 60_000_000] {
            let took = Duration::from_micros(micros);
            let end = histogram(&[took]).percentile(50.0).unwrap();
            assert!(took < end && took >= end / 2, "{took:?} {end:?}");
        }
        assert_eq!(histogram(&[Duration::ZERO]).percentile(100.0), Some(Duration::from_micros(1)));
        let longest = histogram(&[Duration::MAX; 2]);
        assert_eq!((longest.count(), longest.percentile(50.0)), (2, longest.buckets().last().map(|(end, _)| end)));
        assert_eq!(longest.percentile(50.0).unwrap().as_secs() / 60, 35);
        assert_eq!(longest.percentile(f64::NAN), None);
    }

    #[test]
    fn percentiles_and_the_mean_are_those_of_all() {
        assert_eq!((Histogram::default().percentile(50.0), Histogram::default().mean()), (None, None));
        let mut times = vec![Duration::from_micros(100); 98];
        times.extend([Duration::from_millis(100); 2]);
        let histogram = histogram(&times);
        assert_eq!(histogram.count(), 100);
        assert_eq!(histogram.percentile(0.0), Some(Duration::from_micros(128)));
        assert_eq!(histogram.percentile(98.0), Some(Duration::from_micros(128)));
        assert_eq!(histogram.percentile(99.0), Some(Duration::from_micros(131_072)));
        assert_eq!(histogram.mean(), Some(Duration::from_micros(2098)));
    }
}
