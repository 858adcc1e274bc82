//! The examples that are web servers, run as they are and asked through HTTP.

// `allow-unwrap-in-tests` does not reach the helpers of tests.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
pub(crate) mod support;

mod browser;
mod dashboard;
mod server;
mod services;
