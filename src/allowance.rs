//! How much may be handed over to the agent to be sent later.
//!
//! A call that is awaited needs no bound of its own: its caller waits with it, and its deadline takes it back. A
//! message that was handed over has neither, so it takes a share of this, from the moment it is accepted until it is
//! encoded or, at QoS 1 and 2, acknowledged.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use crate::wire;

#[derive(Debug)]
pub(crate) struct Allowance {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    max_messages: usize,
    max_bytes: usize,
}

/// What a message takes of the bytes allowed.
pub(crate) fn weight(publish: &wire::Publish) -> usize {
    let properties = publish.properties.as_ref().map_or(0, |properties| properties.size());
    publish.topic.as_str().len() + publish.payload.len() + properties
}

/// The share of one message; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    allowance: Arc<Allowance>,
    bytes: usize,
}

impl Allowance {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self { messages: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_messages, max_bytes }
    }

    /// None when the message would be one too many. A message larger than all the bytes allowed may go alone.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let messages = self.messages.fetch_add(1, Relaxed);
        let held = self.bytes.fetch_add(bytes, Relaxed);
        let share = Share { allowance: self.clone(), bytes };
        let fits = messages < self.max_messages && (held == 0 || held.saturating_add(bytes) <= self.max_bytes);
        fits.then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.allowance.messages.fetch_sub(1, Relaxed);
        self.allowance.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_bytes_are_bounded_and_given_back() {
        let allowance = Arc::new(Allowance::new(2, 100));
        let first = allowance.take(10).unwrap();
        let second = allowance.take(10).unwrap();
        assert!(allowance.take(10).is_none());
        drop(first);
        assert!(allowance.take(91).is_none());
        let third = allowance.take(90).unwrap();
        drop((second, third));
        assert!(allowance.take(1000).is_some(), "the first may be of any size");
        assert_eq!((allowance.messages.load(Relaxed), allowance.bytes.load(Relaxed)), (0, 0));
    }
}
