use std::mem;

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
        self.node_mut(node).insert(filter, value);
        self.len += 1;
        None
    }

    /// All filters and their values, in no order that means anything.
    fn iter(&self) -> impl Iterator<Item = (&Filter, &V)> + '_ {
        let entries = self.nodes.iter().flat_map(Node::entries);
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
        assert_eq!(live_nodes(&router), 3);
        router.remove(&passing);
    }
    assert_eq!((router.nodes.len(), live_nodes(&router)), (3, 2));
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
    let (dev, _) = router.child(ROOT, "dev").unwrap();
    assert!(router.node_mut(dev).take_named().capacity() < 8);
}

#[test]
fn a_node_is_a_line_of_the_cache() {
    // As much as the session keeps of a filter.
    assert_eq!(mem::size_of::<Node<[u32; 4]>>(), 64);
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
fn a_filter_adds_one_node_where_it_parts_from_the_others() {
    let mut router = router(["site/1/dev/1/temp"]);
    assert_eq!(live_nodes(&router), 2);
    // One where they part, and the end of the other.
    router.insert(filter("site/1/dev/2/temp"), String::new());
    assert_eq!(live_nodes(&router), 4);
    for device in 3..100 {
        router.insert(filter(&format!("site/1/dev/{device}/temp")), String::new());
    }
    assert_eq!(live_nodes(&router), 101);
    // It ends where two parted.
    router.insert(filter("site/1/dev"), String::new());
    assert_eq!(live_nodes(&router), 101);
    // The end of one lies on the way of another.
    router.insert(filter("site/1/dev/7"), String::new());
    assert_eq!(live_nodes(&router), 102);
    assert_eq!(matches(&router, "site/1/dev/1/temp"), ["site/1/dev/1/temp"]);
    assert_eq!(matches(&router, "site/1/dev/1"), [""; 0]);
}

#[test]
fn a_name_that_starts_like_another_is_another() {
    let router = router(["dev/1/a", "dev/10/a", "dev/1/ab", "dev/1/a/b", "de", "é/x", "ê/x", "/", "//a"]);
    assert_eq!(matches(&router, "dev/1/a"), ["dev/1/a"]);
    assert_eq!(matches(&router, "dev/10/a"), ["dev/10/a"]);
    assert_eq!(matches(&router, "dev/1/ab"), ["dev/1/ab"]);
    assert_eq!(matches(&router, "dev/1/a/b"), ["dev/1/a/b"]);
    assert_eq!(matches(&router, "ê/x"), ["ê/x"]);
    assert_eq!(matches(&router, "//a"), ["//a"]);
    for topic in ["dev", "dev/1", "dev/1/a/", "dev/1/a/b/c", "é", "é/xy", "//"] {
        assert_eq!(matches(&router, topic), [""; 0], "{topic}");
    }
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

/// By the words: level by level.
fn covers(wide: &Filter, narrow: &Filter) -> bool {
    if wide.share_group().or(narrow.share_group()).is_some() {
        return false;
    }
    if wide.as_str().starts_with(['+', '#']) && narrow.as_str().starts_with('$') {
        return false;
    }
    let (mut wide, mut narrow) = (wide.levels(), narrow.levels());
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) => return true,
            (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

fn some_topic() -> impl Strategy<Value = String> {
    // Also text that is no topic: wildcards in it are compared as they are.
    let level = prop::sample::select(&["a", "b", "", "$", "é", "+", "#"]);
    prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
}

proptest! {
    #[test]
    fn covering_equals_a_scan_of_all_filters(
        filters in prop::collection::vec(some_filter(), 1..40),
        topics in prop::collection::vec(some_topic(), 1..10),
        asked in some_filter(),
    ) {
        let mut router = Router::new();
        for filter in &filters {
            router.insert(filter.clone(), filter.clone());
        }
        let scan = |fits: &dyn Fn(&Filter) -> bool| {
            let mut expected: Vec<_> = filters.iter().filter(|filter| fits(filter)).cloned().collect();
            expected.sort_unstable();
            expected.dedup();
            expected
        };
        let is_plain = asked.share_group().is_none();
        let (mut over, mut under) = (Vec::new(), Vec::new());
        router.for_each_cover(&asked, |filter| over.push(filter.clone()));
        router.for_each_covered(&asked, |filter| under.push(filter.clone()));
        over.sort_unstable();
        under.sort_unstable();
        if is_plain {
            prop_assert_eq!(&over, &scan(&|filter| covers(filter, &asked)));
            prop_assert_eq!(under, scan(&|filter| covers(&asked, filter)));
            for topic in topics.iter().filter(|topic| asked.matches(topic)) {
                prop_assert!(over.iter().all(|filter| filter.matches(topic)), "{}", topic);
            }
        }
    }

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
