//! The ways in, and who is kept out: transports, configuration, hostile peers. The version of MQTT does not matter to
//! most of them, so they run once.

// `allow-unwrap-in-tests` does not reach the helpers of tests.
#![allow(clippy::unwrap_used)]

// Not all that other tests use is used here.
#[allow(dead_code)]
#[path = "../it/common.rs"]
mod common;
#[allow(dead_code)]
#[path = "../it/script.rs"]
mod script;
mod shared;
#[path = "../support/mod.rs"]
mod support;

mod config;
mod hostile;
mod tls;
mod ways;
mod websocket;
