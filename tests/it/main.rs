//! The agent against real brokers, scripted peers and broken lines.

#[path = "../support/mod.rs"]
mod support;

mod collect;
mod many;
mod publish;
mod request;
mod script;
mod subscribe;
