//! MQTT for Humans: commands to devices that feel like function calls.
//!
//! A web server or a worker keeps one [`Agent`] per broker for its whole life. From any handler or task it publishes,
//! waits for some messages, calls a device and awaits its reply, or follows topics as a stream. One task owns the
//! connection; the handles are cheap to clone and send it commands.
//!
//! ```no_run
//! use mqtt_agent::Agent;
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), mqtt_agent::Error> {
//! let agent = Agent::connect("mqtt://user:secret@localhost:1883").await?;
//!
//! agent.publish("devices/42/led", "on").await?;
//!
//! let readings = agent.collect("sensors/+/temp", 3, Duration::from_secs(5)).await?;
//!
//! let pong = agent.request("dev/42/rpc", r#"{"id":1,"method":"RPC.Ping"}"#).reply_to("dev/42/rpc/res").await?;
//! println!("{}", pong.text().unwrap_or("not text"));
//!
//! let mut alarms = agent.subscribe(["alarms/#", "devices/+/alarm"]).await?;
//! while let Some(item) = alarms.recv().await {
//!     match item {
//!         Ok(message) => println!("{}", message.topic()),
//!         Err(gap) => eprintln!("{gap}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Many devices at once
//!
//! A call is a future like any other. They share one connection, and the calls to different devices do not wait for
//! each other:
//!
//! ```no_run
//! use futures::future::join_all;
//! use std::future::IntoFuture;
//!
//! # async fn example(agent: mqtt_agent::Agent) {
//! let calls = (0..1000).map(|id| {
//!     agent.request(format!("dev/{id}/rpc"), "ping").reply_to(format!("dev/{id}/rpc/res")).into_future()
//! });
//! let replies = join_all(calls).await; // one Result<Message, Error> per device
//! # }
//! ```
//!
//! # What happens …
//!
//! **… when the connection is lost.** The agent reconnects for ever, with growing, randomised delays, unless
//! [`Options::reconnect`] says otherwise. Messages of QoS 1 and 2 that were not acknowledged are sent again in their
//! first order; filters are subscribed again where the broker has forgotten them; calls in progress go on. Streams
//! go on too: what was published while the agent was away is missing from them, unless the broker kept it for a
//! persistent session ([`Options::clean_session`]).
//!
//! **… while there is no connection.** Each call chooses by [`Offline`]: fail at once, wait for a connection until its
//! deadline (the default), or hand the message over to be sent later. Every call has a deadline
//! ([`Options::timeout`], 10 s, unless it sets its own), so nobody waits for ever; what has passed its deadline is not
//! sent any more.
//!
//! **… when a call fails.** [`Error::kind`] says why, and [`Error::outcome`] what became of the message: not sent (safe
//! to try again), refused, or unknown (sent, but no answer came).
//!
//! **… when a future is dropped.** Every future may be dropped at any await, as handlers are when their HTTP peer hangs
//! up. What was not sent is not sent; a subscription that nobody else wants is given up; a request frees its place.
//!
//! **… when a subscriber is slow.** Nobody else notices. Its stream holds a fixed number of messages
//! ([`Options::stream_capacity`]), then loses the oldest, and says how many in its next item.
//!
//! **… at the end.** [`Agent::drain`] finishes what was accepted, within a deadline, and reports the rest;
//! [`Agent::close`] ends at once; dropping the last handle sends what was accepted and then disconnects. Everyone who
//! waits gets an answer in each case.
//!
//! # Protocol versions
//!
//! MQTT 3.1.1 by default, which every broker and most devices speak; MQTT 3.1 and 5 by [`Options::version`], or
//! [`Version::Auto`] for the newest of the last two that the broker takes. The calls are the same. MQTT 5 adds
//! properties to messages ([`Properties`]), reasons to refusals ([`Error::reason_code`]), sessions that outlive a
//! connection without a fixed name ([`Options::session_expiry`]), the broker's terms ([`Terms`]), and an answer at once
//! to a request that nobody is there for ([`ErrorKind::NoResponders`]). What only MQTT 5 can do is an
//! [`ErrorKind::Unsupported`] on a connection of an earlier version, and never dropped without a word.
//!
//! **Overlapping filters**, such as `a/#` and `a/+`, give each subscriber one copy of a message with MQTT 5, by its
//! subscription identifiers, which the agent sets and reads by itself.

mod actor;
mod agent;
mod allowance;
mod call;
mod collect;
mod command;
mod connection;
mod error;
mod events;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod message;
mod options;
mod properties;
mod publish;
mod reason;
mod reconnect;
mod request;
mod router;
mod session;
mod state;
mod stats;
mod subscribe;
mod terms;
mod topic;
mod transport;
mod wire;

pub use agent::Agent;
pub use collect::{Collect, CollectFuture};
pub use command::Unfinished;
pub use error::{Error, ErrorKind, Outcome, Refusal};
pub use message::{Message, QoS};
pub use options::{Exchange, ExchangeFuture, LastWill, Login, Offline, Options};
pub use properties::Properties;
pub use publish::{Delivery, Publish, PublishFuture};
pub use reason::ReasonCode;
pub use reconnect::{Backoff, Lost, ReconnectPolicy};
pub use request::{Request, RequestFuture, RequestMany, RequestManyFuture};
pub use state::State;
pub use stats::Stats;
pub use subscribe::{IntoFilters, Retained, Subscribe, SubscribeFuture, Subscription};
pub use terms::{Terms, Version};
pub use topic::{Filter, Topic};

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
