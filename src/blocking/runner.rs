//! The thread that runs a blocking agent, and the way to wait for what happens there.

use std::convert::Infallible;
use std::future::IntoFuture;
use std::io;
use std::sync::{mpsc as std_mpsc, Arc};
use std::thread::{self, ThreadId};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio::task::unconstrained;

use crate::{Error, State};

/// One thread with a runtime of its own, which lives as long as anything holds this: whoever waits through it can use
/// that runtime's timers to the end.
#[derive(Clone)]
pub(super) struct Runner(Arc<Inner>);

struct Inner {
    runtime: Handle,
    thread: ThreadId,
    /// Nothing is sent: the thread waits for the last sender to go.
    held: mpsc::Sender<Infallible>,
}

impl Runner {
    pub(super) fn start() -> Result<Self, Error> {
        let (held, released) = mpsc::channel(1);
        let (started, runtime) = std_mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("mqtt-agent".into())
            .spawn(move || run(released, &started))
            .map_err(Error::no_thread)?
            .thread()
            .id();
        let runtime = runtime.recv().unwrap_or_else(|gone| Err(io::Error::other(gone))).map_err(Error::no_thread)?;
        Ok(Self(Arc::new(Inner { runtime, thread, held })))
    }

    /// Parks this thread until the future is ready.
    pub(super) fn wait<T>(&self, future: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, Error> {
        if thread::current().id() == self.0.thread {
            return Err(Error::own_thread());
        }
        // Its timers belong to the agent's runtime, and so do the deadlines that are counted from now.
        let _context = self.0.runtime.enter();
        // Within a task of some runtime, the budget of that task would run out here and never be renewed.
        pollster::block_on(unconstrained(future.into_future()))
    }

    /// Keeps the thread until the agent has ended, though all its handles are gone.
    pub(super) fn stay_until_ended(&self, mut state: watch::Receiver<State>) {
        let held = self.0.held.clone();
        self.0.runtime.spawn(async move {
            // The agent's task drops the sender last.
            while state.changed().await.is_ok() {}
            drop(held);
        });
    }
}

fn run(mut released: mpsc::Receiver<Infallible>, started: &std_mpsc::SyncSender<io::Result<Handle>>) {
    // It must be dropped in this thread: in a thread that runs async code that is not allowed.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    if started.send(Ok(runtime.handle().clone())).is_ok() {
        runtime.block_on(released.recv());
    }
    // Does not wait for a name look-up that hangs.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_ends_when_nothing_holds_it_and_not_before() {
        let runner = Runner::start().unwrap();
        let runtime = runner.0.runtime.clone();
        let is_alive = || pollster::block_on(runtime.spawn(async {})).is_ok();
        let clone = runner.clone();
        drop(runner);
        assert!(is_alive());
        drop(clone);
        while is_alive() {
            thread::yield_now();
        }
    }
}
