//! The tests of `it`, for agents that speak MQTT 5.

#[path = "it/main.rs"]
mod it;

use it::{common, script, support};
