//! The agent against real brokers, scripted peers and broken lines.

// `allow-unwrap-in-tests` does not reach the helpers of tests.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
pub(crate) mod support;

mod bad_input;
mod blocking;
mod brokers;
mod cancel;
mod chaos;
mod collect;
pub(crate) mod common;
mod connect;
mod global;
mod many;
mod publish;
mod request;
mod runtimes;
pub(crate) mod script;
mod shutdown;
mod subscribe;
mod telemetry;
mod testing;
