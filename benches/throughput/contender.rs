//! What a client must do here; the clients differ in these methods and in nothing else.

use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::unconstrained;

pub(crate) const PAYLOAD: [u8; 64] = [b'x'; 64];
/// Longer than any run: while one client is measured, the others and the runtimes they are on stand still.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(600);

/// The two levels that are compared; QoS 2 is two of the same round trips.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QoS {
    AtMostOnce,
    AtLeastOnce,
}

/// A client with one connection, cloned into the tasks that use it.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    /// Sends a command to one device and waits for its reply.
    fn call(&self, device: &Device, qos: QoS) -> impl Future<Output = ()> + Send;

    /// Starts a call to each device at once, at QoS 0, and waits for all replies.
    fn call_each(&self, devices: &[Device]) -> impl Future<Output = ()> + Send;

    /// Publishes `count` messages; at QoS 1 returns when all of them are acknowledged.
    fn publish(&self, count: usize, qos: QoS) -> impl Future<Output = ()> + Send;

    /// Publishes `count` messages at QoS 0 by the method that does not wait, stepping back only when the queue is full.
    fn try_publish(&self, count: usize) -> impl Future<Output = ()> + Send;

    /// Asks the broker for `count` messages and takes them all; returns the time between the two.
    fn receive(&self, count: usize) -> impl Future<Output = Duration> + Send;
}

/// Awaits them all at once, in one task.
///
/// Unconstrained, because `join_all` would poll each of 10,000 futures again for every 128 that tokio's cooperative budget
/// lets through, and nothing else would be measured.
pub(crate) async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    unconstrained(join_all(futures)).await
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
