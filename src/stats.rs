//! Counters: written by the actor, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What an agent has done and holds, at one moment; see [`Agent::stats`](crate::Agent::stats).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// All but one are written by the actor alone, so a plain store does where an atomic addition would cost a bus
        /// lock.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            $(pub(crate) fn $name(&self) -> Counter<'_> {
                Counter(&self.$name)
            })*

            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Stats {
            /// The sums.
            pub(crate) fn and(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

counters! {
    /// Messages written to a connection, repetitions included.
    published,
    /// QoS 1 and 2 publishes the broker has acknowledged in full.
    acked,
    /// Messages received, before they were matched to subscribers.
    received,
    /// Received messages that no subscriber wanted.
    unclaimed,
    /// Messages over `max_packet_size`, acknowledged and thrown away.
    oversized,
    /// Messages that streams lost because they were not taken in time.
    lagged,
    /// Messages that were handed over and given up, because ten connections in a row ended on them without an
    /// acknowledgement: some brokers close the connection on a message that they do not allow.
    given_up,
    /// Replies that came when no request waited for them any more.
    late_replies,
    /// Connections that were made after the first.
    reconnects,
    /// Now: publishes that wait to be sent.
    queued,
    /// Now: QoS 1 and 2 publishes sent and not yet acknowledged.
    in_flight,
    /// Now: requests without their replies.
    pending_requests,
    /// Now: filters subscribed, or about to be.
    filters,
    /// Now: streams and reply filters that are fed.
    subscribers,
}

pub(crate) struct Counter<'a>(&'a AtomicU64);

impl Counter<'_> {
    /// For a counter that several tasks write.
    pub(crate) fn add_shared(self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn add(self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(crate) fn set(self, n: usize) {
        self.0.store(n as u64, Relaxed);
    }
}
