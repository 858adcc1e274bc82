//! Keeps the broker and the clients on cores of their own.
//!
//! Where the scheduler happens to put two threads that talk to each other decides a round trip by a factor of five, and it
//! stays decided for as long as they talk: without a fixed place, two runs cannot be compared. Where this cannot be had
//! (one core, no `taskset`) the benches run all the same, only less steadily.

use std::num::NonZero;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

/// Leaves the last core free of the calling thread and of all threads it will start; returns its number.
pub(crate) fn reserve_last() -> Option<usize> {
    let last = available_parallelism().map_or(1, NonZero::get) - 1;
    (last > 0 && pin_current_thread(&format!("0-{}", last - 1))).then_some(last)
}

/// `false` if it is not possible on this machine.
pub(crate) fn pin_current_thread(cores: &str) -> bool {
    let Ok(thread) = std::fs::read_link("/proc/thread-self") else {
        return false;
    };
    let id = thread.file_name().unwrap_or_default();
    let command =
        Command::new("taskset").args(["-p", "-c", cores]).arg(id).stdout(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}
