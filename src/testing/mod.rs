//! A broker, devices and a faulty line, for tests of what uses an agent (feature `testing`).
//!
//! [`Broker`] runs in the test's own process, on a port of its own. [`Device`] is the other end of a call, and answers
//! as it is told: late, wrongly, twice, not at all. [`Proxy`] stands on the way to a broker and does what networks do.
//!
//! ```no_run
//! use mqtt_agent::testing::{Broker, Device, Proxy, Response};
//! use mqtt_agent::{Agent, Error};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), Error> {
//! let broker = Broker::start().await?;
//! let line = Proxy::start(broker.addr()).await?;
//! let agent = Agent::connect(line.url()).await?;
//!
//! let mut device = Device::connect(broker.url()).await?;
//! device.respond_to("dev/42/rpc", |_call| ("dev/42/rpc/res", "pong")).await?;
//! device.respond_to("dev/43/rpc", |_call| Response::silence()).await?;
//!
//! line.cut().await; // The agent makes a new connection, and the call waits for it.
//! let call = agent.request("dev/42/rpc", "ping").reply_to("dev/42/rpc/res");
//! assert_eq!(call.await?.text(), Ok("pong"));
//!
//! let call = agent.request("dev/43/rpc", "ping").reply_to("dev/43/rpc/res").timeout(Duration::from_millis(50));
//! assert!(call.await.unwrap_err().is_timeout());
//! # Ok(())
//! # }
//! ```
//!
//! Every future here may be dropped at any await; what it was starting then ends.
//!
//! [`Broker`] and [`Proxy`] run on sockets, so they need a clock that runs: a test with paused Tokio time would see
//! deadlines pass while bytes are on their way. [`MemoryBroker`] is for such a test: it has no socket, and devices work
//! with it as they do with the other.
//!
//! All of them may be used and dropped on any thread. What waits here, waits for a few seconds at most, then panics and
//! says for what.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

mod broker;
mod device;
mod memory;
mod packets;
mod proxy;

pub use broker::{Broker, BrokerBuilder};
pub use device::{Device, Response};
pub use memory::MemoryBroker;
pub use packets::Packet;
pub use proxy::{Direction, Proxy};

/// How long to wait for something that is to happen at once.
const LIMIT: Duration = Duration::from_secs(5);

/// Awaits something that must come within `limit`, by a clock that runs also while Tokio's is paused.
///
/// # Panics
///
/// If it takes longer, naming `what` was expected.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    let started = Instant::now();
    let mut future = pin!(future);
    loop {
        match tokio::time::timeout(limit, future.as_mut()).await {
            Ok(output) => return output,
            Err(_) if started.elapsed() >= limit => panic!("expected {what} within {limit:?}"),
            // A paused clock: the time that counts has not passed.
            Err(_) => {}
        }
    }
}
