//! The counters and histograms of an agent, handed to the `metrics` facade.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, Label, Unit};
use tokio::sync::watch;

use crate::siblings::Siblings;
use crate::stats::{Counters, Value};
use crate::{Agent, Histogram, State, Stats};

/// Hands what [`Agent::stats`] tells to the recorder of the [`metrics`] facade; made by [`Agent::metrics`]. It does not
/// keep the agent alive.
#[must_use = "nothing is handed over until it is told to record"]
pub struct Metrics {
    labels: Vec<Label>,
    counters: Arc<Counters>,
    siblings: Weak<Siblings>,
    /// What the siblings had counted when they were last there.
    beside: Stats,
    state: watch::Receiver<State>,
    /// What was handed over already.
    recorded: Stats,
}

impl Agent {
    /// Hands the agent's counters and histograms to the `metrics` facade, whenever [`Metrics::record`] is called, with
    /// `name` as the label `agent`: it tells the agents of a process apart. The names are those of
    /// [`telemetry`](crate::telemetry#metrics).
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) {
    /// use std::time::Duration;
    ///
    /// let mut metrics = agent.metrics("main");
    /// tokio::spawn(async move {
    ///     let mut tick = tokio::time::interval(Duration::from_secs(5));
    ///     loop {
    ///         tick.tick().await;
    ///         metrics.record();
    ///     }
    /// });
    /// # }
    /// ```
    pub fn metrics(&self, name: impl Into<String>) -> Metrics {
        Metrics {
            labels: vec![Label::new("agent", name.into())],
            counters: self.counters(),
            siblings: Arc::downgrade(self.siblings()),
            beside: Stats::default(),
            state: self.state(),
            recorded: Stats::default(),
        }
    }
}

impl Metrics {
    /// Brings the recorder up to date: call it before each scrape, or every few seconds. The agent's own work costs the
    /// same whether this is ever called or not.
    ///
    /// Round trips are handed over one by one, each as the middle of its [`Histogram`] bucket, so what a call costs grows
    /// with their number since the last one.
    pub fn record(&mut self) {
        self.beside = match self.siblings.upgrade() {
            Some(siblings) => siblings.stats(),
            None => self.beside.totals(),
        };
        let stats = self.counters.snapshot().and(self.beside);
        for measure in stats.measures() {
            let (name, help) = (measure.name, measure.help.trim_start());
            match measure.value {
                Value::Total(value) => {
                    describe_counter!(name, help);
                    counter!(name, self.labels.iter()).absolute(value);
                }
                Value::Now(value) => {
                    describe_gauge!(name, help);
                    gauge!(name, self.labels.iter()).set(value as f64);
                }
            }
        }
        describe_gauge!(CONNECTED, "Whether there is a connection: 1 or 0.");
        let is_connected = self.state.borrow().is_connected();
        gauge!(CONNECTED, self.labels.iter()).set(f64::from(u8::from(is_connected)));

        self.record_times(
            ACKS,
            "From a publish's first sending to its acknowledgement.",
            |stats| stats.ack_times,
            &stats,
        );
        self.record_times(REPLIES, "From a request's first sending to its reply.", |stats| stats.reply_times, &stats);
        self.recorded = stats;
    }

    fn record_times(&self, name: &'static str, help: &'static str, of: impl Fn(&Stats) -> Histogram, stats: &Stats) {
        describe_histogram!(name, Unit::Seconds, help);
        let histogram = histogram!(name, self.labels.iter());
        let (now, before) = (of(stats), of(&self.recorded));
        for ((end, now), (_, before)) in now.buckets().zip(before.buckets()) {
            let new = usize::try_from(now - before).unwrap_or(usize::MAX);
            histogram.record_many(middle(end), new);
        }
    }
}

const CONNECTED: &str = "mqtt_agent_connected";
const ACKS: &str = "mqtt_agent_ack_seconds";
const REPLIES: &str = "mqtt_agent_reply_seconds";

/// The middle of a bucket that begins at half of its end.
fn middle(end: Duration) -> f64 {
    end.as_secs_f64() * 0.75
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}
