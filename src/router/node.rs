//! The nodes of the trie, and the edges that lead to others.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::mem;
use std::num::NonZero;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use smol_str::SmolStr;

use crate::topic::Filter;

/// Where filters end or part.
#[derive(Debug)]
pub(super) struct Node<V> {
    pub(super) named: Named,
    pub(super) plus: Option<NonZero<u32>>,
    pub(super) hash: Option<NonZero<u32>>,
    /// The filters that end here: one, unless some are shared.
    pub(super) entries: SmallVec<[(Filter, V); 1]>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { named: Named::None, plus: None, hash: None, entries: SmallVec::new() }
    }
}

impl<V> Node<V> {
    /// The child on the way of a filter with these levels, and those that are left there.
    pub(super) fn child<'t>(&self, levels: &'t str) -> Option<(u32, Option<&'t str>)> {
        let (level, after) = first_level(levels);
        match level {
            "+" => Some((self.plus?.get(), after)),
            "#" => Some((self.hash?.get(), after)),
            _ => {
                let (label, child) = self.named.get(level)?;
                Some((child, label.pass(levels)?))
            }
        }
    }

    pub(super) fn attach(&mut self, edge: &str, child: u32) {
        match edge {
            "+" => self.plus = NonZero::new(child),
            "#" => self.hash = NonZero::new(child),
            _ => self.named.insert(Label(edge.into()), child),
        }
    }

    pub(super) fn detach(&mut self, level: &str) {
        match level {
            "+" => self.plus = None,
            "#" => self.hash = None,
            _ => drop(self.named.take(level)),
        }
    }

    pub(super) fn position(&self, filter: &Filter) -> Option<usize> {
        self.entries.iter().position(|(held, _)| held == filter)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries.iter().map(|(_, value)| value)
    }

    pub(super) fn plain_values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries.iter().filter(|(filter, _)| filter.share_group().is_none()).map(|(_, value)| value)
    }

    pub(super) fn push(&mut self, filter: Filter, value: V) -> usize {
        self.entries.push((filter, value));
        self.entries.len() - 1
    }

    pub(super) fn is_unused(&self) -> bool {
        let no_named = matches!(self.named, Named::None);
        no_named && self.plus.is_none() && self.hash.is_none() && self.entries.is_empty()
    }
}

/// One or more levels without wildcards. The edges of a node differ in their first level, and are found by it.
#[derive(Debug)]
pub(super) struct Label(SmolStr);

impl Label {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn first(&self) -> &str {
        first_level(&self.0).0
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

impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        self.first()
    }
}

impl Hash for Label {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.first().hash(state);
    }
}

impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.first() == other.first()
    }
}

impl Eq for Label {}

/// The edges that are not wildcards. Most nodes have one or none, and pay for no map.
#[derive(Debug, Default)]
pub(super) enum Named {
    #[default]
    None,
    One(Label, u32),
    #[expect(clippy::box_collection, reason = "keeps the nodes without a map small")]
    Many(Box<HashMap<Label, u32, RandomState>>),
}

impl Named {
    /// The only edge that may start with `level`: whether one that is alone does, its label tells.
    pub(super) fn get(&self, level: &str) -> Option<(&Label, u32)> {
        match self {
            Self::None => None,
            Self::One(label, child) => Some((label, *child)),
            Self::Many(children) => children.get_key_value(level).map(|(label, child)| (label, *child)),
        }
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(&Label, u32)) {
        match self {
            Self::None => {}
            Self::One(label, child) => visit(label, *child),
            Self::Many(children) => children.iter().for_each(|(label, child)| visit(label, *child)),
        }
    }

    pub(super) fn insert(&mut self, label: Label, child: u32) {
        *self = match mem::take(self) {
            Self::None => Self::One(label, child),
            Self::One(held, first) => Self::Many(Box::new(HashMap::from_iter([(held, first), (label, child)]))),
            Self::Many(mut children) => {
                children.insert(label, child);
                Self::Many(children)
            }
        };
    }

    pub(super) fn take(&mut self, level: &str) -> Option<(Label, u32)> {
        match mem::take(self) {
            Self::One(label, child) if label.first() == level => Some((label, child)),
            Self::Many(mut children) => {
                let taken = children.remove_entry(level);
                if children.capacity() > 4 * children.len() {
                    children.shrink_to(2 * children.len());
                }
                if !children.is_empty() {
                    *self = Self::Many(children);
                }
                taken
            }
            other => {
                *self = other;
                None
            }
        }
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
