//! Which subscriptions a topic belongs to: a trie of filter levels.
//!
//! A filter has one path in the trie, so a topic reaches a node at most once, and goes on from it
//! to two children at most: the one named like the level, and `+`. The work follows the topic's
//! depth and the filters that fit it so far, whatever the number of the others.

use std::collections::HashMap;
use std::mem;

use foldhash::fast::RandomState;

use crate::topic::Filter;

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
        // Where both children fit, '+' waits here: one at most for each level of the filters, not
        // of the topic.
        let mut waiting = Waiting::default();
        let mut next = Some((ROOT, Some(topic)));
        while let Some((index, rest)) = next {
            let node = self.node(index);
            // [MQTT-4.7.2-1]: a leading wildcard does not see topics that start with '$'.
            let sees = index != ROOT || !topic.starts_with('$');
            // Before the end of the topic is looked at: '#' also matches its parent.
            if let Some(hash) = node.hash.filter(|_| sees) {
                self.node(hash).values().for_each(&mut visit);
            }
            let Some(rest) = rest else {
                node.values().for_each(&mut visit);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What only tests ask.
    impl<V> Router<V> {
        fn is_empty(&self) -> bool {
            self.len == 0
        }

        /// Sets the value of `filter` and returns the one it had.
        fn insert(&mut self, filter: Filter, value: V) -> Option<V> {
            if let Some(held) = self.get_mut(&filter) {
                return Some(mem::replace(held, value));
            }
            let node = self.make_path(&filter);
            self.node_mut(node).push(filter, value);
            self.len += 1;
            None
        }

        fn get_mut(&mut self, filter: &Filter) -> Option<&mut V> {
            let node = self.find(filter)?;
            let at = self.node(node).position(filter)?;
            Some(&mut self.node_mut(node).entries[at].1)
        }

        /// All filters and their values, in no order that means anything.
        fn iter(&self) -> impl Iterator<Item = (&Filter, &V)> + '_ {
            let entries = self.nodes.iter().flat_map(|node| &node.entries);
            entries.map(|(filter, value)| (filter, value))
        }
    }

    fn filter(text: &str) -> Filter {
        Filter::new(text).unwrap()
    }

    fn router<const N: usize>(filters: [&str; N]) -> Router<String> {
        let mut router = Router::new();
        for text in filters {
            assert_eq!(router.insert(filter(text), text.into()), None);
        }
        router
    }

    fn matches(router: &Router<String>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        router.for_each_match(topic, |value| found.push(value.clone()));
        found.sort();
        found
    }

    fn live_nodes<V>(router: &Router<V>) -> usize {
        router.nodes.len() - router.free.len()
    }

    #[test]
    fn a_filter_holds_one_value() {
        let mut router = Router::new();
        assert_eq!(router.insert(filter("a/+"), 1), None);
        assert_eq!(router.insert(filter("a/+"), 2), Some(1));
        *router.get_or_insert_with(&filter("a/+"), || unreachable!()) += 1;
        *router.get_or_insert_with(&filter("a/#"), || 10) += 1;
        *router.get_mut(&filter("a/#")).unwrap() += 1;
        assert_eq!(router.get(&filter("a/+")), Some(&3));
        assert_eq!(router.get(&filter("a/#")), Some(&12));
        assert_eq!(router.get(&filter("a")), None);
        assert_eq!(router.remove(&filter("a")), None);
        assert_eq!(router.remove(&filter("a/b/c")), None);
        assert_eq!(router.len(), 2);
    }

    #[test]
    fn shared_and_plain_filters_live_side_by_side() {
        let mut router = router(["a", "$share/g/a", "$share/h/a", "$share/g/#"]);
        let all = ["$share/g/#", "$share/g/a", "$share/h/a", "a"];
        assert_eq!(matches(&router, "a"), all);
        assert_eq!(matches(&router, "$SYS"), [""; 0]);
        assert_eq!(live_nodes(&router), 3);
        assert_eq!(router.remove(&filter("$share/g/a")).unwrap(), "$share/g/a");
        assert_eq!(matches(&router, "a"), ["$share/g/#", "$share/h/a", "a"]);
        assert_eq!(router.remove(&filter("$share/g/a")), None);
        assert_eq!(router.len(), 3);
    }

    #[test]
    fn emptying_returns_every_node() {
        let all = ["a/b/c", "a/b", "a/+/c", "#", "$share/g/a/b", "é/+/#"];
        let mut router = router(all);
        for text in all {
            assert_eq!(router.remove(&filter(text)).unwrap(), text);
        }
        assert!(router.is_empty());
        assert_eq!((router.nodes.len(), router.free.len()), (1, 0));
        assert_eq!(router.iter().count(), 0);
        assert_eq!(matches(&router, "a/b/c"), [""; 0]);
    }

    #[test]
    fn freed_nodes_are_used_again() {
        let mut router = router(["keep/me"]);
        for round in 0..1_000 {
            let passing = filter(&format!("dev/{round}/x"));
            router.insert(passing.clone(), String::new());
            assert_eq!(live_nodes(&router), 6);
            router.remove(&passing);
        }
        assert_eq!((router.nodes.len(), live_nodes(&router)), (6, 3));
    }

    #[test]
    fn a_level_that_loses_its_children_gives_back_their_room() {
        let mut router = Router::new();
        let filters: Vec<_> = (0..1_000).map(|id| filter(&format!("dev/{id}"))).collect();
        for each in &filters {
            router.insert(each.clone(), ());
        }
        for each in &filters[1..] {
            router.remove(each);
        }
        let dev = router.node(ROOT).child("dev").unwrap();
        let named = &router.node(dev).named;
        assert!(matches!(named, Named::Many(children) if children.capacity() < 8));
        assert!(router.get(&filters[0]).is_some());
    }

    #[test]
    fn the_deepest_topic_and_filter_are_no_trouble() {
        let topic = "/".repeat(65_535);
        let deep = "+/".repeat(32_767) + "#";
        let mut router = router(["#", "+/#", "/+/#", "+", &topic, &deep]);
        let all = ["#", "+/#", &deep, "/+/#", &topic];
        assert_eq!(matches(&router, &topic), all);
        router.remove(&filter(&deep)).unwrap();
        router.remove(&filter(&topic)).unwrap();
        assert_eq!(matches(&router, &topic), ["#", "+/#", "/+/#"]);
        assert_eq!(live_nodes(&router), 7);
    }

    #[test]
    fn wildcards_at_every_level_show_each_value_once() {
        let mut router = Router::new();
        for bits in 0..1 << 10 {
            let levels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|at| ["a", "+"][bits >> at & 1]);
            router.insert(filter(&levels.join("/")), bits);
        }
        let mut found = Vec::new();
        router.for_each_match("a/a/a/a/a/a/a/a/a/a", |bits| found.push(*bits));
        found.sort_unstable();
        assert_eq!(found, (0..1 << 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_node_is_one_cache_line() {
        assert!(size_of::<Node<u64>>() <= 64);
    }

    fn some_filter() -> impl Strategy<Value = Filter> {
        let level = prop::sample::select(&["a", "b", "", "$", "é", "+", "+"]);
        let group = prop::sample::select(&["", "", "$share/g/", "$share/h/"]);
        let levels = (prop::collection::vec(level, 0..4), any::<bool>());
        (group, levels).prop_filter_map("empty", |(group, (mut levels, tail))| {
            levels.extend(tail.then_some("#"));
            Filter::new(format!("{group}{}", levels.join("/"))).ok()
        })
    }

    fn some_topic() -> impl Strategy<Value = String> {
        // Also text that is no topic: wildcards in it are compared as they are.
        let level = prop::sample::select(&["a", "b", "", "$", "é", "+", "#"]);
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #[test]
        fn routing_equals_a_scan_of_all_filters(
            steps in prop::collection::vec((0..3, some_filter()), 1..60),
            topics in prop::collection::vec(some_topic(), 1..10),
        ) {
            let mut router = Router::new();
            let mut scan: Vec<(Filter, usize)> = Vec::new();
            for (value, (step, filter)) in steps.into_iter().enumerate() {
                let at = scan.iter().position(|(held, _)| *held == filter);
                if step == 0 {
                    let held = at.map_or(value, |at| scan[at].1);
                    prop_assert_eq!(*router.get_or_insert_with(&filter, || value), held);
                    if at.is_none() {
                        scan.push((filter, value));
                    }
                } else {
                    let held = at.map(|at| scan.swap_remove(at).1);
                    if step == 1 {
                        scan.push((filter.clone(), value));
                        prop_assert_eq!(router.insert(filter, value), held);
                    } else {
                        prop_assert_eq!(router.remove(&filter), held);
                    }
                }
                prop_assert_eq!(router.len(), scan.len());
                for topic in &topics {
                    let mut found = Vec::new();
                    router.for_each_match(topic, |value| found.push(*value));
                    found.sort_unstable();
                    let fits = scan.iter().filter(|(filter, _)| filter.matches(topic));
                    let mut expected: Vec<_> = fits.map(|(_, value)| *value).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(found, expected, "{}", topic);
                }
            }
            prop_assert_eq!(router.iter().count(), scan.len());
            for (filter, value) in &scan {
                prop_assert_eq!(router.get(filter), Some(value));
                prop_assert_eq!(router.remove(filter), Some(*value));
            }
            prop_assert_eq!((router.nodes.len(), router.free.len()), (1, 0));
        }
    }
}
