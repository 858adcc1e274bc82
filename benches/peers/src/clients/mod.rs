//! The clients that are compared. They differ in the methods of [`Client`] and in nothing else.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Mutex;
use tokio::task::unconstrained;

use crate::endpoint::Endpoint;

pub(crate) mod agent;
pub(crate) mod azure;
pub(crate) mod bare;
pub(crate) mod event_loop;
pub(crate) mod mqtt5;
pub(crate) mod socket;
pub(crate) mod typed;

/// No client has more publishes under way at once. mosquitto looks through all messages of QoS 2 in flight for each packet
/// about one: with many, that search would be measured.
pub(crate) fn at_once(qos: u8) -> usize {
    if qos == 2 {
        500
    } else {
        10_000
    }
}

/// Where many filters are subscribed, so many in a packet or at once.
pub(crate) const FILTERS_AT_ONCE: usize = 1_000;
/// Longer than any run: nothing is asked for a sign of life while it is measured.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(900);

pub(crate) trait Client: Send + Sync + Sized + 'static {
    fn connect(broker: &Endpoint) -> impl Future<Output = Self> + Send;

    /// Sends a command at QoS 0 and waits for its reply.
    fn call(&self, device: &Device, payload: Bytes) -> impl Future<Output = ()> + Send;

    /// Publishes `count` messages; returns when they are written (QoS 0) or acknowledged. `false` where it cannot.
    fn publish(&self, count: usize, qos: u8, payload: Bytes) -> impl Future<Output = bool> + Send;

    /// Asks for what `flood` names and takes `count` messages of the one filter `flood/data`; the time between the two.
    fn receive(&self, flood: String, count: usize) -> impl Future<Output = Duration> + Send;

    /// The same, of `streams` filters, each with a stream of its own. None where it cannot.
    fn receive_each(&self, streams: usize, count: usize) -> impl Future<Output = Option<Duration>> + Send {
        let _ = (streams, count);
        async { None }
    }

    /// Subscribes to so many filters besides, each with a place that its messages would go to, and keeps them. `false`
    /// where it cannot.
    fn hold(&self, filters: usize) -> impl Future<Output = bool> + Send {
        let _ = filters;
        async { false }
    }

    fn call_each(&self, devices: &[Device], payload: Bytes) -> impl Future<Output = bool> + Send {
        async move {
            all(devices.iter().map(|device| self.call(device, payload.clone()))).await;
            true
        }
    }
}

/// Awaits them all at once, in one task.
///
/// Unconstrained, because `join_all` would poll each of 10,000 futures again for every 128 that Tokio's cooperative budget
/// lets through, and nothing else would be measured.
pub(crate) async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    unconstrained(join_all(futures)).await
}

/// Streams that stay from one round to the next, so that no round but the first subscribes.
pub(crate) struct Streams<S>(Mutex<Vec<S>>);

impl<S> Default for Streams<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Send + 'static> Streams<S> {
    /// The time from `ask` until `take` has had what it wants of each stream, in a task for each.
    pub(crate) async fn take_each<F>(
        &self,
        open: impl Future<Output = Vec<S>>,
        ask: impl Future<Output = ()>,
        take: impl Fn(S) -> F,
    ) -> Duration
    where
        F: Future<Output = S> + Send + 'static,
    {
        let mut streams = self.0.lock().await;
        if streams.is_empty() {
            *streams = open.await;
        }
        let start = Instant::now();
        ask.await;
        let tasks = streams.drain(..).map(|stream| tokio::spawn(take(stream)));
        *streams = join_all(tasks).await.into_iter().map(|task| task.expect("no stream fails")).collect();
        start.elapsed()
    }

    pub(crate) async fn clear(&self) {
        self.0.lock().await.clear();
    }
}

pub(crate) struct Device {
    pub(crate) command_topic: String,
    pub(crate) reply_topic: String,
}

impl Device {
    pub(crate) fn new(number: usize) -> Self {
        Self { command_topic: format!("dev/{number}/rpc"), reply_topic: format!("dev/{number}/rpc/res") }
    }
}
