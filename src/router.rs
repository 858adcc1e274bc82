//! Which subscriptions a topic belongs to: a trie of filter levels.
//!
//! A filter has one path in the trie, so a topic reaches a node at most once, and goes on from it
//! to two children at most: the one named like the level, and `+`. The work follows the topic's
//! depth and the filters that fit it so far, whatever the number of the others.

use std::collections::HashMap;
use std::mem;

use foldhash::fast::RandomState;

use crate::topic::Filter;

#[cfg(test)]
mod tests;

/// A map from [`Filter`] to `V`, searched by topic.
///
/// Filters are told apart by their full text: `a` and `$share/g/a` match alike and hold two values.
#[derive(Debug)]
pub(crate) struct Router<V> {
    /// The root is the first; slots listed in `free` are empty.
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    len: usize,
}

impl<V> Router<V> {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), len: 0 }
    }

    pub(crate) fn get_or_insert_with(&mut self, filter: &Filter, make: impl FnOnce() -> V) -> &mut V {
        let node = self.make_path(filter);
        let at = self.node(node).position(filter).unwrap_or_else(|| {
            let value = make();
            self.len += 1;
            self.node_mut(node).push(filter.clone(), value)
        });
        &mut self.node_mut(node).entries[at].1
    }

    /// Takes out the value of `filter`, and the nodes that only this filter needed.
    pub(crate) fn remove(&mut self, filter: &Filter) -> Option<V> {
        let (mut node, mut path) = (ROOT, vec![ROOT]);
        for level in filter.levels() {
            node = self.node(node).child(level)?;
            path.push(node);
        }
        let at = self.node(node).position(filter)?;
        let entries = &mut self.node_mut(node).entries;
        let (_, value) = entries.swap_remove(at);
        entries.shrink_to_fit();
        self.len -= 1;
        self.prune(&path, filter);
        Some(value)
    }

    /// Shows the value of every filter that matches `topic`, in no order that means anything.
    pub(crate) fn for_each_match(&self, topic: &str, mut visit: impl FnMut(&V)) {
        self.walk(Some(topic), true, |node| node.values().for_each(&mut visit));
    }

    /// Shows the value of every plain filter that matches all that `filter` matches, itself included, as far as the
    /// levels show it one by one: `#` covers `+/#`, which means the same, and not the other way round.
    pub(crate) fn for_each_cover(&self, filter: &Filter, mut visit: impl FnMut(&V)) {
        let text = filter.as_str();
        let (text, is_whole) = match text.strip_suffix('#') {
            Some("") => (None, false),
            Some(parent) => (parent.strip_suffix('/'), false),
            None => (Some(text), true),
        };
        self.walk(text, is_whole, |node| node.plain_values().for_each(&mut visit));
    }

    /// Shows the value of every plain filter that [`for_each_cover`](Self::for_each_cover) shows `filter` to.
    pub(crate) fn for_each_covered(&self, filter: &Filter, mut visit: impl FnMut(&V)) {
        let text = filter.as_str();
        let mut waiting = vec![(ROOT, Some(text))];
        while let Some((index, rest)) = waiting.pop() {
            let node = self.node(index);
            let Some(rest) = rest else {
                node.plain_values().for_each(&mut visit);
                continue;
            };
            let (level, rest) = match rest.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (rest, None),
            };
            // [MQTT-4.7.2-1] again.
            let sees = |name: &str| index != ROOT || !name.starts_with('$');
            match level {
                "#" => {
                    node.plain_values().for_each(&mut visit);
                    node.named.for_each(|name, child| waiting.extend(sees(name).then_some((child, Some("#")))));
                    waiting.extend(node.plus.map(|child| (child, Some("#"))));
                    waiting.extend(node.hash.map(|child| (child, None)));
                }
                "+" => {
                    node.named.for_each(|name, child| waiting.extend(sees(name).then_some((child, rest))));
                    waiting.extend(node.plus.map(|child| (child, rest)));
                }
                name => waiting.extend(node.named.get(name).map(|child| (child, rest))),
            }
        }
    }

    /// Shows every node whose filters match what starts with `text`: that alone if `is_whole`, else also all below it.
    fn walk(&self, text: Option<&str>, is_whole: bool, mut visit: impl FnMut(&Node<V>)) {
        // Where both children fit, '+' waits here: one at most for each level of the filters, not
        // of the topic.
        let mut waiting = Waiting::default();
        let mut next = Some((ROOT, text));
        while let Some((index, rest)) = next {
            let node = self.node(index);
            // [MQTT-4.7.2-1]: a leading wildcard does not see topics that start with '$'.
            let sees = index != ROOT || !text.is_some_and(|text| text.starts_with('$'));
            // Before the end of the topic is looked at: '#' also matches its parent.
            if let Some(hash) = node.hash.filter(|_| sees) {
                visit(self.node(hash));
            }
            let Some(rest) = rest else {
                if is_whole {
                    visit(node);
                }
                next = waiting.pop();
                continue;
            };
            let (level, rest) = first_level(rest);
            let named = node.named.get(level).map(|child| (child, rest));
            let plus = node.plus.filter(|_| sees).map(|child| (child, rest));
            if let (Some(_), Some(plus)) = (named, plus) {
                waiting.push(plus);
            }
            next = named.or(plus).or_else(|| waiting.pop());
        }
    }

    pub(crate) fn get(&self, filter: &Filter) -> Option<&V> {
        let node = self.node(self.find(filter)?);
        Some(&node.entries[node.position(filter)?].1)
    }

    fn find(&self, filter: &Filter) -> Option<u32> {
        filter.levels().try_fold(ROOT, |node, level| self.node(node).child(level))
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The node of `filter`, made if need be.
    fn make_path(&mut self, filter: &Filter) -> u32 {
        let mut node = ROOT;
        for level in filter.levels() {
            node = self.node(node).child(level).unwrap_or_else(|| {
                let child = self.make_node();
                self.node_mut(node).attach(level, child);
                child
            });
        }
        node
    }

    fn make_node(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.nodes.len()).expect("memory ends before 2^32 nodes");
            self.nodes.push(Node::default());
            index
        })
    }

    /// Frees the nodes at the end of `path`, the way of `filter` from the root, that hold nothing.
    fn prune(&mut self, path: &[u32], filter: &Filter) {
        if self.len == 0 {
            self.nodes.truncate(1);
            self.nodes[0] = Node::default();
            self.nodes.shrink_to(SPARE_NODES);
            self.free = Vec::new();
            return;
        }
        for (step, level) in path.windows(2).rev().zip(filter.levels().rev()) {
            if !self.node(step[1]).is_unused() {
                break;
            }
            self.node_mut(step[0]).detach(level);
            self.free.push(step[1]);
        }
    }

    fn node(&self, index: u32) -> &Node<V> {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<V> {
        &mut self.nodes[index as usize]
    }
}

/// A level of one or more filters. 64 bytes, as much as a cache line: keep it so.
#[derive(Debug)]
struct Node<V> {
    named: Named,
    plus: Option<u32>,
    hash: Option<u32>,
    /// The filters that end here: one, unless some are shared.
    entries: Vec<(Filter, V)>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { named: Named::None, plus: None, hash: None, entries: Vec::new() }
    }
}

impl<V> Node<V> {
    fn child(&self, level: &str) -> Option<u32> {
        match level {
            "+" => self.plus,
            "#" => self.hash,
            _ => self.named.get(level),
        }
    }

    fn attach(&mut self, level: &str, child: u32) {
        match level {
            "+" => self.plus = Some(child),
            "#" => self.hash = Some(child),
            _ => self.named.insert(level.into(), child),
        }
    }

    fn detach(&mut self, level: &str) {
        match level {
            "+" => self.plus = None,
            "#" => self.hash = None,
            _ => self.named.remove(level),
        }
    }

    fn position(&self, filter: &Filter) -> Option<usize> {
        self.entries.iter().position(|(held, _)| held == filter)
    }

    fn values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries.iter().map(|(_, value)| value)
    }

    fn plain_values(&self) -> impl Iterator<Item = &V> + '_ {
        self.entries.iter().filter(|(filter, _)| filter.share_group().is_none()).map(|(_, value)| value)
    }

    fn push(&mut self, filter: Filter, value: V) -> usize {
        if self.entries.is_empty() {
            // A plain `push` makes room for four.
            self.entries.reserve_exact(1);
        }
        self.entries.push((filter, value));
        self.entries.len() - 1
    }

    fn is_unused(&self) -> bool {
        let no_named = matches!(self.named, Named::None);
        no_named && self.plus.is_none() && self.hash.is_none() && self.entries.is_empty()
    }
}

/// The children that are not wildcards. Most nodes have one or none, and pay for no map.
#[derive(Debug, Default)]
enum Named {
    #[default]
    None,
    One(Box<str>, u32),
    #[expect(clippy::box_collection, reason = "keeps the nodes without a map small")]
    Many(Box<HashMap<Box<str>, u32, RandomState>>),
}

impl Named {
    fn get(&self, level: &str) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One(name, child) => (**name == *level).then_some(*child),
            Self::Many(children) => children.get(level).copied(),
        }
    }

    fn for_each(&self, mut visit: impl FnMut(&str, u32)) {
        match self {
            Self::None => {}
            Self::One(name, child) => visit(name, *child),
            Self::Many(children) => children.iter().for_each(|(name, child)| visit(name, *child)),
        }
    }

    fn insert(&mut self, level: Box<str>, child: u32) {
        *self = match mem::take(self) {
            Self::None => Self::One(level, child),
            Self::One(name, first) => Self::Many(Box::new(HashMap::from_iter([(name, first), (level, child)]))),
            Self::Many(mut children) => {
                children.insert(level, child);
                Self::Many(children)
            }
        };
    }

    fn remove(&mut self, level: &str) {
        if let Self::Many(children) = self {
            children.remove(level);
            if children.capacity() > 4 * children.len() {
                children.shrink_to(2 * children.len());
            }
            if !children.is_empty() {
                return;
            }
        }
        *self = Self::None;
    }
}

/// A node still to visit, and what is left of the topic there.
type Visit<'t> = (u32, Option<&'t str>);

/// A stack that allocates only beyond a depth that few topics have.
#[derive(Default)]
struct Waiting<'t> {
    first: [Visit<'t>; 8],
    used: usize,
    /// Holds something only while `first` is full.
    more: Vec<Visit<'t>>,
}

impl<'t> Waiting<'t> {
    fn push(&mut self, visit: Visit<'t>) {
        match self.first.get_mut(self.used) {
            Some(slot) => {
                *slot = visit;
                self.used += 1;
            }
            None => self.more.push(visit),
        }
    }

    fn pop(&mut self) -> Option<Visit<'t>> {
        self.more.pop().or_else(|| {
            self.used = self.used.checked_sub(1)?;
            Some(self.first[self.used])
        })
    }
}

/// The first level, and the others if there are any. Levels are short: a search made for long texts would cost more than
/// what it looks at.
fn first_level(text: &str) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == b'/') {
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    }
}

const ROOT: u32 = 0;

/// Room kept by an emptied router, so that a few filters that come and go do not resize it.
const SPARE_NODES: usize = 32;
