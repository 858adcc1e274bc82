//! Counters: written by the actor, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::histogram::{Histogram, Timings};

/// Each is a `total`, which only grows, or of `now`.
macro_rules! counters {
    ($($(#[doc = $doc:literal])* $kind:ident $name:ident,)*) => {
        /// What an agent has done and holds, at one moment; see [`Agent::stats`](crate::Agent::stats).
        ///
        /// What is not of now only grows, from the start of the agent. A copy of plain numbers, each by itself: two of
        /// them need not be of the same instant.
        ///
        /// ```no_run
        /// # fn example(agent: mqtt_agent::Agent) {
        /// let mqtt_agent::Stats { published, in_flight, lagged, .. } = agent.stats();
        /// println!("{published} published, {in_flight} not acknowledged yet, {lagged} lost by slow streams");
        /// # }
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: u64,)*
            /// How long QoS 1 and 2 publishes took from their first sending to their acknowledgement in full.
            pub ack_times: Histogram,
            /// How long requests took from their first sending to the last reply they wanted.
            pub reply_times: Histogram,
        }

        /// All but one are written by the actor alone, so a plain store does where an atomic addition would cost a bus
        /// lock.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
            pub(crate) ack_times: Timings,
            pub(crate) reply_times: Timings,
        }

        impl Counters {
            $(pub(crate) fn $name(&self) -> Counter<'_> {
                Counter(&self.$name)
            })*

            pub(crate) fn snapshot(&self) -> Stats {
                Stats {
                    $($name: self.$name.load(Relaxed),)*
                    ack_times: self.ack_times.snapshot(),
                    reply_times: self.reply_times.snapshot(),
                }
            }
        }

        #[cfg(feature = "metrics")]
        impl Stats {
            /// The counters under the names they are exported by.
            pub(crate) fn measures(&self) -> impl Iterator<Item = Measure> {
                [$(Measure { name: measure!($kind $name), help: concat!($($doc),*), value: measure!($kind self.$name) }),*]
                    .into_iter()
            }
        }

        impl Stats {
            /// With what a session counted that neither publishes nor requests, so that its times are none.
            pub(crate) fn and(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)* ..self }
            }

            /// What remains of them when the one who counted is gone: it holds nothing any more.
            pub(crate) fn totals(self) -> Self {
                Self { $($name: total!($kind self.$name),)* ..self }
            }
        }
    };
}

#[cfg(feature = "metrics")]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: Value,
}

#[cfg(feature = "metrics")]
pub(crate) enum Value {
    Total(u64),
    Now(u64),
}

#[cfg(feature = "metrics")]
macro_rules! measure {
    (total $name:ident) => {
        concat!("mqtt_agent_", stringify!($name), "_total")
    };
    (now $name:ident) => {
        concat!("mqtt_agent_", stringify!($name))
    };
    (total $value:expr) => {
        Value::Total($value)
    };
    (now $value:expr) => {
        Value::Now($value)
    };
}

macro_rules! total {
    (total $value:expr) => {
        $value
    };
    (now $value:expr) => {
        0
    };
}

counters! {
    /// Messages written to a connection, repetitions included.
    total published,
    /// QoS 1 and 2 publishes the broker has acknowledged in full.
    total acked,
    /// Messages received, before they were matched to subscribers.
    total received,
    /// Received messages that no subscriber wanted.
    total unclaimed,
    /// Messages over `max_packet_size`, acknowledged and thrown away. With MQTT 5 the broker knows the limit and keeps
    /// them back, uncounted.
    total oversized,
    /// Messages that streams lost because they were not taken in time.
    total lagged,
    /// Messages that were handed over and given up: because ten connections in a row ended on them without an
    /// acknowledgement, as some brokers close the connection on a message that they do not allow; or because the
    /// connection cannot carry them (their size, their QoS, properties).
    total given_up,
    /// Replies that came when no request waited for them any more.
    total late_replies,
    /// Connections that were made after the first.
    total reconnects,
    /// Now: publishes that wait to be sent.
    now queued,
    /// Now: QoS 1 and 2 publishes sent and not yet acknowledged.
    now in_flight,
    /// Now: requests without their replies.
    now pending_requests,
    /// Now: filters subscribed, or about to be.
    now filters,
    /// Now: streams and reply filters that are fed.
    now subscribers,
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
