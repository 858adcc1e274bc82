//! Subscriptions that acknowledge late.
