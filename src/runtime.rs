//! The runtime of a call: the caller's, or that of the agent where the caller has none.

use std::future::Future;

use tokio::runtime::Handle;

/// That of the agent.
#[derive(Debug, Clone)]
pub(crate) struct Runtime(Handle);

impl Runtime {
    pub(crate) fn new(of_agent: Handle) -> Self {
        Self(of_agent)
    }

    pub(crate) fn of_agent(&self) -> &Handle {
        &self.0
    }

    /// Makes what has a timer. It lives on the caller's runtime, which runs as long as the caller can wait for it; where
    /// there is none, only the agent's can wake the caller.
    ///
    /// Whoever waits by a timer of the agent's looks at the agent first: it ends before the timers of its runtime do.
    pub(crate) fn timed<T>(&self, make: impl FnOnce() -> T) -> T {
        let _context = Handle::try_current().is_err().then(|| self.0.enter());
        make()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = Handle::try_current();
        runtime.as_ref().unwrap_or(&self.0).spawn(task);
    }
}
