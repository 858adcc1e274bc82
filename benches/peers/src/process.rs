//! A client as a process: told what to do, and looked at from outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{channel, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::work::Work;

/// One measurement.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) operations: f64,
    /// Seconds, all of them.
    pub(crate) wall: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
    pub(crate) allocations: f64,
}

pub(crate) enum Answer {
    Done(Sample),
    Cannot,
    /// It did not do it, or not in time. It is not asked again.
    Failed,
}

pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// The longest that one piece of work may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long it may take to end.
const ENDING: Duration = Duration::from_secs(10);

impl Process {
    /// Returns when it is connected; None if it cannot be.
    pub(crate) fn start(command: &[String]) -> Option<Self> {
        let (program, arguments) = command.split_first()?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take()?);
        let (said, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.for_each(|line| drop(said.send(line)));
        });
        let this = Self { child, stdin, lines };
        (this.lines.recv_timeout(PATIENCE).ok()? == "ready").then_some(this)
    }

    pub(crate) fn perform(&mut self, work: Work) -> Answer {
        let before = self.cpu();
        let asked = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{work}").and_then(|()| stdin.flush()));
        let (Some(Ok(())), Ok(line)) = (asked, self.lines.recv_timeout(PATIENCE)) else { return Answer::Failed };
        let cpu = self.cpu() - before;
        let mut words = line.split(' ');
        match words.next() {
            Some("done") => {
                let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
                let (wall, p50, p99, allocations) = (number(), number(), number(), number());
                Answer::Done(Sample { operations: work.operations() as f64, wall, p50, p99, cpu, allocations })
            }
            Some("cannot") => Answer::Cannot,
            _ => Answer::Failed,
        }
    }

    /// Seconds that its threads ran on a processor.
    fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let nanoseconds = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    }

    /// The most memory it ever had, in MiB.
    pub(crate) fn peak_memory(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
    }

    /// Ends it in order, so that what looks at it can write its results; `drop` ends one that does not.
    pub(crate) fn finish(mut self) {
        drop(self.stdin.take());
        let start = Instant::now();
        while start.elapsed() < ENDING && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
