//! Packet identifiers and what they stand for.

use std::collections::VecDeque;

use crate::wire::PacketId;

/// The packets that wait for an acknowledgement, by packet identifier and in the order they were put on their list.
///
/// PUBLISH, SUBSCRIBE and UNSUBSCRIBE draw from this one set of identifiers, so none is in use twice (MQTT-2.3.1-2, in
/// MQTT 5 MQTT-2.2.1-3). Identifiers that were freed are used again oldest first. Everything is one step, however many
/// are in flight, save iteration and [`clear`](Self::clear).
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    /// The identifier of `slots[0]`; the others follow, and 1 follows 65,535.
    first: PacketId,
    /// Grown as identifiers are first used.
    slots: Vec<Slot<T>>,
    free: VecDeque<PacketId>,
    lists: [List; 3],
}

/// The lists an entry can be on. Order on a list is the order in which it is to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// PUBLISH sent; PUBACK or PUBREC awaited. MQTT-4.6.0-1: sent again in the original order.
    Published = 0,
    /// PUBREC came; PUBCOMP awaited. MQTT-4.6.0-4: PUBREL goes out in the order in which the PUBRECs came.
    Released = 1,
    /// SUBSCRIBE or UNSUBSCRIBE sent.
    Asked = 2,
}

#[derive(Debug)]
struct Slot<T> {
    entry: Option<(On, T)>,
    previous: PacketId,
    next: PacketId,
}

/// First and last identifier; 0 is none.
#[derive(Debug, Clone, Copy, Default)]
struct List {
    first: PacketId,
    last: PacketId,
    len: usize,
}

/// How many identifiers there are: all but 0.
const IDS: usize = PacketId::MAX as usize;

/// Above this many slots, an empty table gives its memory back.
const KEPT_SLOTS: usize = 256;

impl<T> InFlight<T> {
    /// `first` is the identifier to begin with.
    pub(crate) fn new(first: PacketId) -> Self {
        Self { first: first.max(1), slots: Vec::new(), free: VecDeque::new(), lists: [List::default(); 3] }
    }

    pub(crate) fn len(&self, on: On) -> usize {
        self.lists[on as usize].len
    }

    /// Whether all 65,535 identifiers are in use.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() == usize::from(PacketId::MAX)
    }

    /// Puts `entry` at the end of a list under a free identifier; gives it back when all 65,535 are in use.
    pub(crate) fn insert(&mut self, on: On, entry: T) -> Result<PacketId, T> {
        let id = match self.free.pop_front() {
            Some(id) => id,
            None if self.slots.len() < usize::from(PacketId::MAX) => {
                self.slots.push(Slot { entry: None, previous: 0, next: 0 });
                self.id_of(self.slots.len() - 1)
            }
            None => return Err(entry),
        };
        self.slot(id).entry = Some((on, entry));
        self.append(on, id);
        Ok(id)
    }

    pub(crate) fn get_mut(&mut self, id: PacketId) -> Option<(On, &mut T)> {
        let index = self.index_of(id)?;
        let slot = self.slots.get_mut(index)?;
        slot.entry.as_mut().map(|(on, entry)| (*on, entry))
    }

    /// Moves an entry to the end of another list.
    pub(crate) fn move_to(&mut self, id: PacketId, to: On) {
        let Some((from, _)) = self.get_mut(id) else { return };
        self.unlink(from, id);
        if let Some((on, _)) = &mut self.slot(id).entry {
            *on = to;
        }
        self.append(to, id);
    }

    /// Frees the identifier.
    pub(crate) fn remove(&mut self, id: PacketId) -> Option<T> {
        let (on, _) = self.get_mut(id)?;
        self.unlink(on, id);
        let (_, entry) = self.slot(id).entry.take()?;
        self.free.push_back(id);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            *self = Self::new(self.first);
        }
        Some(entry)
    }

    /// The identifiers on a list, in order.
    pub(crate) fn ids(&self, on: On) -> impl Iterator<Item = PacketId> + '_ {
        let listed = |id: PacketId| (id != 0).then_some(id);
        let next = move |id: &PacketId| listed(self.slots[self.index_of(*id)?].next);
        std::iter::successors(listed(self.lists[on as usize].first), next)
    }

    /// Empties a list, in order.
    pub(crate) fn clear(&mut self, on: On) -> Vec<T> {
        let ids: Vec<_> = self.ids(on).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn index_of(&self, id: PacketId) -> Option<usize> {
        let (id, first) = (usize::from(id), usize::from(self.first));
        (id != 0).then(|| (id + IDS - first) % IDS)
    }

    fn id_of(&self, index: usize) -> PacketId {
        ((usize::from(self.first) - 1 + index) % IDS + 1) as PacketId
    }

    /// Of an identifier that is or was in use.
    fn slot(&mut self, id: PacketId) -> &mut Slot<T> {
        let index = self.index_of(id).unwrap_or_default();
        &mut self.slots[index]
    }

    fn append(&mut self, on: On, id: PacketId) {
        let last = self.lists[on as usize].last;
        let slot = self.slot(id);
        slot.previous = last;
        slot.next = 0;
        match last {
            0 => self.lists[on as usize].first = id,
            last => self.slot(last).next = id,
        }
        let list = &mut self.lists[on as usize];
        list.last = id;
        list.len += 1;
    }

    fn unlink(&mut self, on: On, id: PacketId) {
        let (previous, next) = (self.slot(id).previous, self.slot(id).next);
        match previous {
            0 => self.lists[on as usize].first = next,
            previous => self.slot(previous).next = next,
        }
        match next {
            0 => self.lists[on as usize].last = previous,
            next => self.slot(next).previous = previous,
        }
        self.lists[on as usize].len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_identifiers_can_be_in_use_and_the_next_is_refused() {
        let mut in_flight = InFlight::new(1);
        let ids: std::collections::HashSet<_> =
            (0..65_535).map(|n| in_flight.insert(On::Published, n).unwrap()).collect();
        assert_eq!(ids.len(), 65_535);
        assert!(!ids.contains(&0));
        assert_eq!(in_flight.insert(On::Asked, 9), Err(9));
        assert_eq!(in_flight.remove(40), Some(39));
        assert_eq!(in_flight.insert(On::Asked, 9), Ok(40));
    }

    #[test]
    fn identifiers_may_begin_anywhere() {
        for first in [1, 2, 40_000, 65_535] {
            let mut in_flight = InFlight::new(first);
            let ids: Vec<_> = (0..65_535).map(|n| in_flight.insert(On::Published, n).unwrap()).collect();
            assert_eq!(ids[0], first);
            assert_eq!(in_flight.ids(On::Published).collect::<Vec<_>>(), ids);
            assert_eq!(in_flight.clear(On::Published), (0..65_535).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_burst_gives_its_memory_back() {
        let mut in_flight = InFlight::new(1);
        let ids: Vec<_> = (0..10_000).map(|n| in_flight.insert(On::Published, n).unwrap()).collect();
        for id in ids {
            in_flight.remove(id);
        }
        assert_eq!(in_flight.slots.capacity(), 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_plain_lists(steps in proptest::collection::vec((0..4u8, any::<u16>()), 0..400)) {
            let mut in_flight = InFlight::new(1);
            let mut lists: [Vec<(PacketId, u16)>; 3] = Default::default();
            for (step, value) in steps {
                let pick = |lists: &[Vec<(PacketId, u16)>; 3]| {
                    let all: Vec<_> = lists.iter().flatten().map(|(id, _)| *id).collect();
                    (!all.is_empty()).then(|| all[usize::from(value) % all.len()])
                };
                let on = [On::Published, On::Released, On::Asked][usize::from(value) % 3];
                match step {
                    0 | 1 => {
                        let id = in_flight.insert(on, value).unwrap();
                        prop_assert!(lists.iter().flatten().all(|(used, _)| *used != id));
                        lists[on as usize].push((id, value));
                    }
                    2 => if let Some(id) = pick(&lists) {
                        in_flight.remove(id);
                        lists.iter_mut().for_each(|list| list.retain(|(used, _)| *used != id));
                    },
                    _ => if let Some(id) = pick(&lists) {
                        let entry = *lists.iter().flatten().find(|(used, _)| *used == id).unwrap();
                        in_flight.move_to(id, on);
                        lists.iter_mut().for_each(|list| list.retain(|(used, _)| *used != id));
                        lists[on as usize].push(entry);
                    },
                }
                for on in [On::Published, On::Released, On::Asked] {
                    let expected: Vec<_> = lists[on as usize].iter().map(|(id, _)| *id).collect();
                    prop_assert_eq!(in_flight.ids(on).collect::<Vec<_>>(), expected);
                    prop_assert_eq!(in_flight.len(on), lists[on as usize].len());
                }
            }
        }
    }
}
