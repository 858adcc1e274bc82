//! The agent against real brokers, scripted peers and broken lines.

// Helpers are no tests to the lint, which lets those unwrap.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod collect;
mod many;
mod publish;
mod request;
mod script;
mod subscribe;
