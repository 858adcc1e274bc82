//! The nodes of the trie, and the edges that lead to them.

use std::num::NonZero;

use hashbrown::HashTable;
use smol_str::SmolStr;

use crate::topic::Filter;

/// Where filters end or part. As large as a line of the processor's cache, with what a message needs where one filter
/// ends.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node<V> {
    /// Of the edge that leads here; empty if that is a wildcard.
    pub(super) label: Label,
    first: Option<(Filter, V)>,
    more: Option<Box<More<V>>>,
}

/// What most nodes do without.
#[derive(Debug)]
struct More<V> {
    /// The children by edges that are not wildcards, found by the first level of their labels.
    named: HashTable<u32>,
    plus: Option<NonZero<u32>>,
    hash: Option<NonZero<u32>>,
    /// More filters that end here: some are shared.
    entries: Vec<(Filter, V)>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { label: Label::default(), first: None, more: None }
    }
}

impl<V> Default for More<V> {
    fn default() -> Self {
        Self { named: HashTable::new(), plus: None, hash: None, entries: Vec::new() }
    }
}

impl<V> Node<V> {
    /// The child by the edge `+`.
    pub(super) fn plus(&self) -> Option<u32> {
        self.more.as_ref()?.plus.map(NonZero::get)
    }

    /// The child by the edge `#`.
    pub(super) fn hash(&self) -> Option<u32> {
        self.more.as_ref()?.hash.map(NonZero::get)
    }

    /// The children by other edges.
    pub(super) fn named(&self) -> impl Iterator<Item = u32> + '_ {
        self.more.iter().flat_map(|more| &more.named).copied()
    }

    /// The one of them with this hash of its first level that is the one.
    pub(super) fn find_named(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.more.as_ref()?.named.find(hash, |child| is_it(*child)).copied()
    }

    pub(super) fn set_plus(&mut self, child: Option<u32>) {
        self.more_mut().plus = child.and_then(NonZero::new);
        self.shrink();
    }

    pub(super) fn set_hash(&mut self, child: Option<u32>) {
        self.more_mut().hash = child.and_then(NonZero::new);
        self.shrink();
    }

    /// The table of the children by other edges, to be put back: whoever changes it looks at the nodes.
    pub(super) fn take_named(&mut self) -> HashTable<u32> {
        std::mem::take(&mut self.more_mut().named)
    }

    pub(super) fn put_named(&mut self, named: HashTable<u32>) {
        self.more_mut().named = named;
        self.shrink();
    }

    /// The filters that end here: one, unless some are shared.
    pub(super) fn entries(&self) -> impl Iterator<Item = &(Filter, V)> + '_ {
        self.first.iter().chain(self.more.iter().flat_map(|more| &more.entries))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries().map(|(_, value)| value)
    }

    pub(super) fn plain_values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries().filter(|(filter, _)| filter.share_group().is_none()).map(|(_, value)| value)
    }

    pub(super) fn get(&self, filter: &Filter) -> Option<&V> {
        self.entries().find(|(held, _)| held == filter).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, filter: &Filter) -> Option<&mut V> {
        let mut entries = self.first.iter_mut().chain(self.more.iter_mut().flat_map(|more| &mut more.entries));
        entries.find(|(held, _)| held == filter).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, filter: Filter, value: V) -> &mut V {
        if self.first.is_none() {
            return &mut self.first.insert((filter, value)).1;
        }
        let entries = &mut self.more_mut().entries;
        let at = entries.len();
        entries.push((filter, value));
        &mut entries[at].1
    }

    pub(super) fn remove(&mut self, filter: &Filter) -> Option<V> {
        if self.first.as_ref().is_some_and(|(held, _)| held == filter) {
            let next = self.more.as_mut().and_then(|more| more.entries.pop());
            let (_, value) = std::mem::replace(&mut self.first, next)?;
            self.shrink();
            return Some(value);
        }
        let entries = &mut self.more.as_mut()?.entries;
        let at = entries.iter().position(|(held, _)| held == filter)?;
        let (_, value) = entries.swap_remove(at);
        self.shrink();
        Some(value)
    }

    pub(super) fn is_unused(&self) -> bool {
        self.first.is_none() && self.more.is_none()
    }

    fn more_mut(&mut self) -> &mut More<V> {
        self.more.get_or_insert_default()
    }

    /// Gives back what is not needed any more.
    fn shrink(&mut self) {
        let Some(more) = &mut self.more else { return };
        more.entries.shrink_to_fit();
        let no_children = more.named.is_empty() && more.plus.is_none() && more.hash.is_none();
        if no_children && more.entries.is_empty() {
            self.more = None;
        }
    }
}

/// One or more levels without wildcards. The edges of a node differ in their first level.
#[derive(Debug, Default)]
pub(super) struct Label(SmolStr);

impl Label {
    pub(super) fn new(levels: &str) -> Self {
        Self(levels.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn first(&self) -> &str {
        first_level(&self.0).0
    }

    /// Whether this is its first level.
    pub(super) fn starts_with(&self, level: &str) -> bool {
        self.0.strip_prefix(level).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What `text` has behind these levels; None if it does not start with them.
    pub(super) fn pass<'t>(&self, text: &'t str) -> Option<Option<&'t str>> {
        match text.strip_prefix(self.as_str())? {
            "" => Some(None),
            rest => rest.strip_prefix('/').map(Some),
        }
    }

    /// What the filter `text` has behind the part that matches these levels; None if it does not match them.
    pub(super) fn covered_by<'t>(&self, text: &'t str) -> Option<Option<&'t str>> {
        let mut rest = Some(text);
        for level in self.0.split('/') {
            let (wanted, after) = first_level(rest?);
            match wanted {
                "#" => return Some(rest),
                "+" => {}
                name if name == level => {}
                _ => return None,
            }
            rest = after;
        }
        Some(rest)
    }
}

/// The first level, and the others if there are any. Levels are short: a search made for long texts would cost more than
/// what it looks at.
pub(super) fn first_level(text: &str) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == b'/') {
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    }
}

/// The levels that a new edge takes: all up to a wildcard, or that alone.
pub(super) fn first_edge(text: &str) -> &str {
    match text.find(['+', '#']) {
        Some(0) => first_level(text).0,
        Some(wildcard) => &text[..wildcard - 1],
        None => text,
    }
}

/// The length of the levels that both start with.
pub(super) fn common_levels(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let is_end = |text: &str| text.as_bytes().get(same).is_none_or(|byte| *byte == b'/');
    if is_end(a) && is_end(b) {
        return same;
    }
    a.as_bytes()[..same].iter().rposition(|byte| *byte == b'/').unwrap_or(0)
}
