//! Entries by key, in room that is given back.

use std::marker::PhantomData;
use std::num::NonZero;
use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::room::{Room, KEPT};

/// Entries of type `V` by keys that the table hands out. A key whose entry is gone finds nothing, also when its place is
/// taken anew: so keys may lie about in lists and heaps until somebody looks at them.
#[derive(Debug)]
pub(crate) struct Slots<K, V> {
    slab: Slab<(Serial, V)>,
    /// That of the last entry.
    serial: u32,
    keys: PhantomData<fn() -> K>,
}

/// Tells entries apart that have the same place one after the other. They come round after 2^32 entries.
type Serial = NonZero<u32>;

/// Where an entry is, and which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    index: u32,
    serial: Serial,
}

/// A slot of one table, a type of its own for each, see [`key`].
pub(crate) trait Key: Copy {
    fn new(slot: Slot) -> Self;
    fn slot(self) -> Slot;
}

/// Makes a type of keys.
macro_rules! key {
    ($(#[$meta:meta])* $vis:vis struct $name:ident;) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name($crate::slots::Slot);

        impl $crate::slots::Key for $name {
            fn new(slot: $crate::slots::Slot) -> Self {
                Self(slot)
            }

            fn slot(self) -> $crate::slots::Slot {
                self.0
            }
        }
    };
}
pub(crate) use key;

impl<K: Key, V> Slots<K, V> {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), serial: 0, keys: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: V) -> K {
        let serial = Serial::new(self.serial.wrapping_add(1)).unwrap_or(Serial::MIN);
        self.serial = serial.get();
        let index = u32::try_from(self.slab.insert((serial, value))).expect("memory ends before 2^32 entries");
        K::new(Slot { index, serial })
    }

    #[inline]
    pub(crate) fn contains(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        let Slot { index, serial } = key.slot();
        let (held, value) = self.slab.get(index as usize)?;
        (*held == serial).then_some(value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let Slot { index, serial } = key.slot();
        let (held, value) = self.slab.get_mut(index as usize)?;
        (*held == serial).then_some(value)
    }

    #[inline]
    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        if !self.contains(key) {
            return None;
        }
        let (_, value) = self.slab.remove(key.slot().index as usize);
        self.slab.give_back();
        Some(value)
    }

    /// Takes out all.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = V> {
        std::mem::take(&mut self.slab).into_iter().map(|(_, (_, value))| value)
    }

    /// All entries, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.slab.iter().map(|(index, (serial, value))| (K::new(Slot { index: index as u32, serial: *serial }), value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slab.iter_mut().map(|(_, (_, value))| value)
    }
}

/// For keys whose entry is surely there.
impl<K: Key, V> Index<K> for Slots<K, V> {
    type Output = V;

    #[inline]
    fn index(&self, key: K) -> &V {
        self.get(key).expect("the entry is there")
    }
}

impl<K: Key, V> IndexMut<K> for Slots<K, V> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut V {
        self.get_mut(key).expect("the entry is there")
    }
}

impl<T> Room for Slab<T> {
    fn is_spent(&self) -> bool {
        self.is_empty() && self.capacity() > KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    key! {
        struct TestKey;
    }

    #[test]
    fn a_key_finds_its_own_entry_only() {
        let mut slots = Slots::<TestKey, _>::new();
        let (a, b) = (slots.insert("a"), slots.insert("b"));
        assert_eq!((slots.get(a), slots[b]), (Some(&"a"), "b"));
        assert_eq!((slots.remove(a), slots.remove(a)), (Some("a"), None));
        let c = slots.insert("c");
        assert_eq!(c.slot().index, a.slot().index);
        assert!(!slots.contains(a) && slots.get_mut(a).is_none());
        assert_eq!((slots.remove(a), slots.len()), (None, 2));
        assert_eq!(slots.keys().collect::<Vec<_>>(), [c, b]);
        assert_eq!(slots.drain().collect::<Vec<_>>(), ["c", "b"]);
        assert!(slots.is_empty() && !slots.contains(b));
    }

    #[test]
    fn an_emptied_table_gives_its_room_back_and_old_keys_still_find_nothing() {
        let mut slots = Slots::<TestKey, _>::new();
        let old: Vec<_> = (0..=KEPT).map(|n| slots.insert(n)).collect();
        for key in &old {
            assert!(slots.remove(*key).is_some());
        }
        assert_eq!(slots.slab.capacity(), 0);
        for n in 0..=KEPT {
            slots.insert(n);
        }
        assert!(old.iter().all(|key| !slots.contains(*key)));
    }

    #[test]
    fn serials_come_round() {
        let mut slots = Slots::<TestKey, _>::new();
        slots.serial = u32::MAX - 1;
        let keys = [(); 3].map(|()| slots.insert(()));
        assert_eq!(keys.map(|key| key.slot().serial.get()), [u32::MAX, 1, 2]);
    }
}
