//! When to stop: SIGTERM, as service managers and containers send it, or SIGINT, as Ctrl+C does.

use std::future::Future;
use std::io;

use futures::future::{BoxFuture, FutureExt, Shared};

/// Resolves, for all of its clones, when the process is told to stop.
pub(crate) type Stop = Shared<BoxFuture<'static, ()>>;

/// The signals are listened to from now on, not only from the first poll.
pub(crate) fn stop_signal() -> io::Result<Stop> {
    Ok(signals()?.boxed().shared())
}

#[cfg(unix)]
fn signals() -> io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{signal, SignalKind};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn signals() -> io::Result<impl Future<Output = ()> + Send> {
    Ok(tokio::signal::ctrl_c().map(drop))
}
