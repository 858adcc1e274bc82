//! An MQTT broker without a socket, for tests in which time stands still.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::packets::Packet;
use super::{within, Direction, LIMIT};
use crate::{Options, ReasonCode};

mod hub;
mod line;
mod packets;
mod routes;
mod session;

use hub::{Counts, End, Hub};
use line::Line;

/// A broker in memory, with no socket and no task: a test with paused Tokio time sees everything that waits (deadlines,
/// keep alive, the delays of reconnects) in milliseconds, and the same each time.
///
/// It speaks MQTT 3.1, 3.1.1 and 5 with any number of agents: QoS 0, 1 and 2, retained messages, wildcards, shared
/// subscriptions, last wills, and sessions that outlive their connections. It lets everybody in, and stops when dropped:
/// connections end, and new ones are refused.
///
/// ```
/// use mqtt_agent::testing::{Device, MemoryBroker, Response};
/// use mqtt_agent::{Agent, Error};
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// #[tokio::main(flavor = "current_thread", start_paused = true)]
/// async fn main() -> Result<(), Error> {
///     let broker = MemoryBroker::new();
///     let agent = Agent::connect(broker.options()).await?;
///     let mut device = Device::connect(broker.options()).await?;
///     device.respond_to("door/cmd", |_call| Response::reply("door/ack", "late").after(Duration::from_secs(3600))).await?;
///
///     let started = Instant::now();
///     let call = agent.request("door/cmd", "open").reply_to("door/ack").timeout(Duration::from_secs(30));
///     assert!(call.await.unwrap_err().is_timeout()); // at once, for who looks at the clock on the wall
///     assert_eq!(started.elapsed(), Duration::from_secs(30));
///     Ok(())
/// }
/// ```
///
/// It may be used from any thread and with a clock that runs, also by agents on several runtimes. It reads no clock
/// itself: sessions do not expire, nor do messages, wills are published without a delay, and a client that is silent is
/// not thrown out. What waits for one client is bounded: a message over 100,000 is lost, and counted ([`lost`](Self::lost)).
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

/// What the broker and its connections have in common.
struct Shared(Mutex<Hub>);

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryBroker {
    /// A broker that takes connections.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared(Mutex::new(Hub::new()))) }
    }

    /// Options for an agent or a [`Device`](super::Device) of this broker: the defaults, so MQTT 3.1.1, and with
    /// `.version(Version::V5)` MQTT 5.
    pub fn options(&self) -> Options {
        self.attach(Options::new("memory"))
    }

    /// Leads the connections of other options here, in place of where their URL says: for code under test that makes its
    /// own. It needs a URL without TLS and WebSocket, and takes the place of a [`connector`](Options::connector).
    pub fn attach(&self, options: Options) -> Options {
        let shared = self.shared.clone();
        options.connector(move |_| {
            let shared = shared.clone();
            async move { Ok(Line::open(shared)?) }
        })
    }

    /// Resets the connections there are.
    pub fn cut(&self) {
        self.shared.hub().end_all(End::Reset);
    }

    /// Closes the connections there are cleanly: what was sent before still arrives.
    pub fn close(&self) {
        self.shared.hub().end_all(End::Close);
    }

    /// While on, there are no new connections.
    pub fn refuse(&self, on: bool) {
        self.shared.hub().refuse = on;
    }

    /// While on, packets in this direction vanish, and the connections stay open. A connection that ends is known as
    /// such all the same.
    pub fn black_hole(&self, direction: Direction, on: bool) {
        let mut hub = self.shared.hub();
        match direction {
            Direction::Up => hub.hole_up = on,
            Direction::Down => hub.hole_down = on,
            Direction::Both => (hub.hole_up, hub.hole_down) = (on, on),
        }
    }

    /// Drops the next packet of this kind from the broker, on whichever connection it would come. Called again, it drops
    /// one more.
    pub fn drop_next(&self, packet: Packet) {
        self.shared.hub().plans.drop_next(packet);
    }

    /// Answers the next SUBSCRIBE with a refusal of each of its filters.
    pub fn refuse_next_suback(&self) {
        self.shared.hub().plans.refuse_next_suback();
    }

    /// Answers the next CONNECT with this refusal. Called again, one more.
    pub fn refuse_next_connack(&self, reason: ReasonCode) {
        self.shared.hub().refusals.push_back(reason);
    }

    /// How many connections were asked for so far, the refused ones included.
    pub fn connections(&self) -> usize {
        self.counts().accepted
    }

    /// How many connections there are now.
    pub fn live(&self) -> usize {
        self.counts().live
    }

    /// How many messages were lost so far: those that found too many waiting for the client, and those that were larger
    /// than it takes.
    pub fn lost(&self) -> u64 {
        self.shared.hub().lost
    }

    /// Waits until [`connections`](Self::connections) is at least `count`.
    ///
    /// # Panics
    ///
    /// After a few seconds of a clock that is never paused.
    pub async fn wait_for_connections(&self, count: usize) {
        self.wait_until(&format!("connection {count} to the broker"), |counts| counts.accepted >= count).await;
    }

    /// Waits until [`live`](Self::live) is exactly `count`.
    ///
    /// # Panics
    ///
    /// As [`wait_for_connections`](Self::wait_for_connections).
    pub async fn wait_for_live(&self, count: usize) {
        self.wait_until(&format!("{count} live connections to the broker"), |counts| counts.live == count).await;
    }

    fn counts(&self) -> Counts {
        *self.shared.hub().counts.borrow()
    }

    async fn wait_until(&self, what: &str, reached: impl FnMut(&Counts) -> bool) {
        let mut counts = self.shared.hub().counts.subscribe();
        within(LIMIT, what, counts.wait_for(reached)).await.expect("the sender is alive");
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.shared.hub().stop();
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").field("live", &self.live()).finish_non_exhaustive()
    }
}
