//! The tests of `it`, for agents that speak MQTT 5, and those of what only MQTT 5 has.

// `allow-unwrap-in-tests` does not reach the helpers of tests.
#![allow(clippy::unwrap_used)]

#[path = "it/main.rs"]
mod it;

#[path = "it_v5/connecting.rs"]
mod connecting;
#[path = "it_v5/messages.rs"]
mod messages;

use it::{common, script, support};
