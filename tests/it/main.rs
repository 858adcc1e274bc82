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
mod correlation;
mod each;
mod global;
#[cfg(feature = "json")]
mod json;
mod many;
mod memory;
mod outside;
mod publish;
mod replies;
mod request;
#[cfg(feature = "json")]
mod rpc;
mod runtimes;
pub(crate) mod script;
mod serve;
mod shutdown;
mod subscribe;
mod telemetry;
mod testing;
