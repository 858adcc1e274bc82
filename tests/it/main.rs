//! The agent against real brokers, scripted peers and broken lines.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod cancel;
mod common;
mod connect;
mod publish;
mod request;
mod shutdown;
mod subscribe;
