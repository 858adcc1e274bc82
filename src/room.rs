//! The room that a burst leaves behind.

use std::collections::{HashMap, HashSet, VecDeque};

/// How many entries an empty list or table may keep room for.
pub(crate) const KEPT: usize = 1024;

/// A list or table that is mostly empty, and large now and then.
pub(crate) trait Room: Default {
    /// Whether it is empty and has more room than is worth keeping.
    fn is_spent(&self) -> bool;

    /// Gives its memory back, if so.
    fn give_back(&mut self) {
        if self.is_spent() {
            *self = Self::default();
        }
    }
}

impl<T> Room for VecDeque<T> {
    fn is_spent(&self) -> bool {
        self.is_empty() && self.capacity() > KEPT
    }
}

impl<T, S: Default> Room for HashSet<T, S> {
    fn is_spent(&self) -> bool {
        self.is_empty() && self.capacity() > KEPT
    }
}

impl<K, V, S: Default> Room for HashMap<K, V, S> {
    fn is_spent(&self) -> bool {
        self.is_empty() && self.capacity() > KEPT
    }
}
