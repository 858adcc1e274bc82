//! Which subscriptions a topic belongs to: a trie of filter levels.
//!
//! A filter has one path in the trie, so a topic reaches a node at most once, and goes on from it
//! to two children at most: the one named like the level, and `+`. The work follows the topic's
//! depth and the filters that fit it so far, whatever the number of the others.
//!
//! Levels at which no two filters part share an edge, so that most filters need one node besides
//! those they share: among many, a node that is not in the cache costs more than all else here.
//! So the label of an edge is in the node that it leads to, which is looked at anyway.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use node::{common_levels, first_edge, first_level, Label, Node};
use smallvec::SmallVec;

use crate::topic::Filter;

mod node;
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
    hasher: RandomState,
}

impl<V> Router<V> {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), len: 0, hasher: RandomState::default() }
    }

    pub(crate) fn get_or_insert_with(&mut self, filter: &Filter, make: impl FnOnce() -> V) -> &mut V {
        let node = self.make_path(filter);
        if self.node(node).get(filter).is_none() {
            self.len += 1;
            return self.node_mut(node).insert(filter.clone(), make());
        }
        self.node_mut(node).get_mut(filter).expect("it was just there")
    }

    /// Takes out the value of `filter`, and the nodes that only this filter needed.
    pub(crate) fn remove(&mut self, filter: &Filter) -> Option<V> {
        let mut path = Vec::new();
        let node = self.find(filter, |step| path.push(step))?;
        let value = self.node_mut(node).remove(filter)?;
        self.len -= 1;
        self.prune(&path);
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
            let (level, after) = first_level(rest);
            // [MQTT-4.7.2-1] again.
            let sees = |label: &Label| index != ROOT || !label.as_str().starts_with('$');
            let go_on = |child| Some((child, self.label(child).covered_by(rest)?));
            match level {
                "#" => {
                    node.plain_values().for_each(&mut visit);
                    waiting.extend(node.named().filter(|child| sees(self.label(*child))).filter_map(go_on));
                    waiting.extend(node.plus().map(|child| (child, Some("#"))));
                    waiting.extend(node.hash().map(|child| (child, None)));
                }
                "+" => {
                    waiting.extend(node.named().filter(|child| sees(self.label(*child))).filter_map(go_on));
                    waiting.extend(node.plus().map(|child| (child, after)));
                }
                name => waiting.extend(self.named(node, name).and_then(go_on)),
            }
        }
    }

    /// Shows every node whose filters match what starts with `text`: that alone if `is_whole`, else also all below it.
    fn walk(&self, text: Option<&str>, is_whole: bool, mut visit: impl FnMut(&Node<V>)) {
        // Where both children fit, '+' waits here: one at most for each level of the filters, not
        // of the topic.
        let mut waiting = Waiting::new();
        let mut next = Some((ROOT, text));
        while let Some((index, rest)) = next {
            let node = self.node(index);
            // [MQTT-4.7.2-1]: a leading wildcard does not see topics that start with '$'.
            let sees = index != ROOT || !text.is_some_and(|text| text.starts_with('$'));
            // Before the end of the topic is looked at: '#' also matches its parent.
            if let Some(hash) = node.hash().filter(|_| sees) {
                visit(self.node(hash));
            }
            let Some(rest) = rest else {
                if is_whole {
                    visit(node);
                }
                next = waiting.pop();
                continue;
            };
            let (level, after) = first_level(rest);
            let named = self.named(node, level).and_then(|child| Some((child, self.label(child).pass(rest)?)));
            let plus = node.plus().filter(|_| sees).map(|child| (child, after));
            if let (Some(_), Some(plus)) = (named, plus) {
                waiting.push(plus);
            }
            next = named.or(plus).or_else(|| waiting.pop());
        }
    }

    pub(crate) fn get(&self, filter: &Filter) -> Option<&V> {
        self.node(self.find(filter, drop)?).get(filter)
    }

    pub(crate) fn get_mut(&mut self, filter: &Filter) -> Option<&mut V> {
        let node = self.find(filter, drop)?;
        self.node_mut(node).get_mut(filter)
    }

    /// The node of `filter`; shows the edges on the way.
    fn find<'f>(&self, filter: &'f Filter, mut visit: impl FnMut(Step<'f>)) -> Option<u32> {
        let (mut node, mut rest) = (ROOT, Some(filter.matched()));
        while let Some(text) = rest {
            let parent = node;
            (node, rest) = self.child(parent, text)?;
            visit(Step { parent, level: first_level(text).0, child: node });
        }
        Some(node)
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The node of `filter`, made if need be.
    fn make_path(&mut self, filter: &Filter) -> u32 {
        let (mut node, mut rest) = (ROOT, Some(filter.matched()));
        while let Some(text) = rest {
            (node, rest) = self.make_step(node, text);
        }
        node
    }

    /// The first child on the way of `text` from `node`, made if need be, and what is left of the text there.
    fn make_step<'t>(&mut self, node: u32, text: &'t str) -> (u32, Option<&'t str>) {
        if let Some(step) = self.child(node, text) {
            return step;
        }
        let child = self.make_node();
        let edge = match self.take_named(node, first_level(text).0) {
            // They part within an edge: the new node is where.
            Some(end) => {
                let label = std::mem::take(&mut self.node_mut(end).label);
                let shared = common_levels(label.as_str(), text);
                self.attach(child, &label.as_str()[shared + 1..], end);
                &text[..shared]
            }
            None => first_edge(text),
        };
        self.attach(node, edge, child);
        (child, text.get(edge.len() + 1..))
    }

    fn attach(&mut self, parent: u32, edge: &str, child: u32) {
        match edge {
            "+" => self.node_mut(parent).set_plus(Some(child)),
            "#" => self.node_mut(parent).set_hash(Some(child)),
            _ => {
                self.node_mut(child).label = Label::new(edge);
                let mut named = self.node_mut(parent).take_named();
                named.insert_unique(self.hash(child), child, |child| self.hash(*child));
                self.node_mut(parent).put_named(named);
            }
        }
    }

    fn detach(&mut self, parent: u32, level: &str) {
        match level {
            "+" => self.node_mut(parent).set_plus(None),
            "#" => self.node_mut(parent).set_hash(None),
            _ => {
                self.take_named(parent, level);
            }
        }
    }

    /// Takes out the child whose edge starts with `level`.
    fn take_named(&mut self, parent: u32, level: &str) -> Option<u32> {
        // Most new edges part no other: nothing is moved to find that out.
        self.named(self.node(parent), level)?;
        let mut named = self.node_mut(parent).take_named();
        let hash = self.hasher.hash_one(level);
        let taken = named.find_entry(hash, |child| self.label(*child).starts_with(level));
        let taken = taken.ok().map(|entry| entry.remove().0);
        if named.capacity() > 4 * named.len() {
            named.shrink_to(2 * named.len(), |child| self.hash(*child));
        }
        self.node_mut(parent).put_named(named);
        taken
    }

    /// Of a child by an edge that is not a wildcard.
    fn hash(&self, child: u32) -> u64 {
        self.hasher.hash_one(self.label(child).first())
    }

    fn make_node(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.nodes.len()).expect("memory ends before 2^32 nodes");
            self.nodes.push(Node::default());
            index
        })
    }

    /// Frees the nodes at the end of `path`, which starts at the root, that hold nothing. Edges stay parted: whatever
    /// parted them is likely to come again.
    fn prune(&mut self, path: &[Step<'_>]) {
        if self.len == 0 {
            self.nodes.truncate(1);
            self.nodes[0] = Node::default();
            self.nodes.shrink_to(SPARE_NODES);
            self.free = Vec::new();
            return;
        }
        for step in path.iter().rev() {
            if !self.node(step.child).is_unused() {
                break;
            }
            self.detach(step.parent, step.level);
            *self.node_mut(step.child) = Node::default();
            self.free.push(step.child);
        }
    }

    /// The child of `parent` on the way of a filter with these levels, and those that are left there.
    fn child<'t>(&self, parent: u32, levels: &'t str) -> Option<(u32, Option<&'t str>)> {
        let node = self.node(parent);
        let (level, after) = first_level(levels);
        match level {
            "+" => Some((node.plus()?, after)),
            "#" => Some((node.hash()?, after)),
            _ => {
                let child = self.named(node, level)?;
                Some((child, self.label(child).pass(levels)?))
            }
        }
    }

    /// The only child whose edge may start with `level`, if that is not a wildcard.
    fn named(&self, node: &Node<V>, level: &str) -> Option<u32> {
        node.find_named(self.hasher.hash_one(level), |child| self.label(child).starts_with(level))
    }

    fn label(&self, node: u32) -> &Label {
        &self.node(node).label
    }

    fn node(&self, index: u32) -> &Node<V> {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<V> {
        &mut self.nodes[index as usize]
    }
}

/// One edge on the way of a filter.
struct Step<'f> {
    parent: u32,
    /// The first of the edge.
    level: &'f str,
    child: u32,
}

/// A node still to visit, and what is left of the topic there.
type Visit<'t> = (u32, Option<&'t str>);

/// Allocates only beyond a depth that few topics have.
type Waiting<'t> = SmallVec<[Visit<'t>; 8]>;

const ROOT: u32 = 0;

/// Room kept by an emptied router, so that a few filters that come and go do not resize it.
const SPARE_NODES: usize = 32;
