//! The line of messages that wait to be sent.

use std::collections::VecDeque;

use super::Outgoing;
use crate::room::{Room, KEPT};

/// First come, first served, except for what returns from a lost session: that goes to the front. A message can be taken
/// out of the middle by its place, when its owner gives it up.
#[derive(Debug)]
pub(super) struct Queue {
    /// In the order of their places; None where a message was taken out. The first is never None.
    entries: VecDeque<(Place, Option<Outgoing>)>,
    len: usize,
    /// The places the next will have, at either end.
    back: i64,
    front: i64,
}

/// Names an entry of the queue; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::session) struct Place(i64);

impl Queue {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), len: 0, back: 0, front: -1 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn push_back(&mut self, outgoing: Outgoing) -> Place {
        let place = Place(self.back);
        self.back += 1;
        self.entries.push_back((place, Some(outgoing)));
        self.len += 1;
        place
    }

    pub(super) fn push_front(&mut self, outgoing: Outgoing) -> Place {
        let place = Place(self.front);
        self.front -= 1;
        self.entries.push_front((place, Some(outgoing)));
        self.len += 1;
        place
    }

    pub(super) fn front(&self) -> Option<&Outgoing> {
        self.entries.front().and_then(|(_, outgoing)| outgoing.as_ref())
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Outgoing> {
        self.entries.front_mut().and_then(|(_, outgoing)| outgoing.as_mut())
    }

    /// As `pop_front`, but what is thrown away is not moved for that.
    pub(super) fn drop_front(&mut self) {
        if let Some((_, outgoing)) = self.entries.front_mut() {
            *outgoing = None;
            self.note_removed();
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<Outgoing> {
        let (_, outgoing) = self.entries.pop_front()?;
        self.note_removed();
        outgoing
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Outgoing> {
        let at = self.entries.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        let outgoing = self.entries.get_mut(at)?.1.take()?;
        self.note_removed();
        Some(outgoing)
    }

    /// Takes out all that are chosen, in order.
    pub(super) fn take(&mut self, mut choose: impl FnMut(&mut Outgoing) -> bool) -> Vec<Outgoing> {
        let chosen = self.entries.iter_mut().filter_map(|(_, entry)| {
            let chosen = entry.as_mut().is_some_and(&mut choose);
            if chosen {
                entry.take()
            } else {
                None
            }
        });
        let taken: Vec<_> = chosen.collect();
        self.len -= taken.len();
        self.compact();
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Outgoing> {
        self.entries.iter().filter_map(|(_, outgoing)| outgoing.as_ref())
    }

    fn note_removed(&mut self) {
        self.len -= 1;
        while self.entries.front().is_some_and(|(_, outgoing)| outgoing.is_none()) {
            self.entries.pop_front();
        }
        // A stalled front would otherwise keep the gaps behind it for ever.
        if self.entries.len() > 2 * self.len + KEPT {
            self.compact();
        }
        self.entries.give_back();
    }

    fn compact(&mut self) {
        self.entries.retain(|(_, outgoing)| outgoing.is_some());
        self.entries.shrink_to(2 * self.entries.len() + KEPT);
    }

    /// The entries, taken out or not.
    #[cfg(any(fuzzing, test))]
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn assert_empty(&self) {
        assert_eq!((self.len, self.entries.len()), (0, 0));
        assert!(self.entries.capacity() <= KEPT * 2);
    }
}
