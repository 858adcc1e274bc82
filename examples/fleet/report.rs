//! The table of times, printed line by line, and the list of failures.

use std::time::Duration;

use mqtt_agent::Error;

pub(crate) struct Report {
    is_quiet: bool,
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let report = Self { is_quiet, failures: Vec::new() };
        report.line(["step", "time", "p50", "p99"]);
        report
    }

    pub(crate) fn time(&self, step: &str, took: Duration) {
        self.line([step, &millis(took), "", ""]);
    }

    /// Several calls: what they took together, and each.
    pub(crate) fn calls(&mut self, step: &str, took: Duration, calls: Vec<Result<Duration, String>>) {
        let mut times = Vec::new();
        for call in calls {
            match call {
                Ok(time) => times.push(time),
                Err(failure) => self.failures.push(failure),
            }
        }
        times.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| percentile(&times, percent).map(millis).unwrap_or_default());
        self.line([step, &millis(took), &p50, &p99]);
    }

    fn line(&self, [step, time, p50, p99]: [&str; 4]) {
        if !self.is_quiet {
            println!("{}", format!("{step:41}{time:>12}{p50:>12}{p99:>12}").trim_end());
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// An error's text is its own level only; the causes follow it.
pub(crate) fn describe(who: &str, error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(format!("{who}: {error}"), |text, cause| format!("{text}: {cause}"))
}
