use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

#[test]
fn a_topic_is_checked_when_built() {
    let good = "a / // /finance $SYS/x 温度/é $share/g/a a//b";
    let longest = "é".repeat(MAX_BYTES / 2) + "x";
    for good in good.split(' ').chain([" ", "Accounts payable", &longest]) {
        assert_eq!(Topic::new(good).unwrap(), good);
    }
    let bad = "+ # a/+ a/b# a+b \0 a/\0/b é/#";
    let too_long = longest.clone() + "x";
    for bad in bad.split(' ').chain(["", &too_long]) {
        assert!(Topic::new(bad).is_err(), "{bad:.20?}");
        assert!(Topic::from_wire(bad.into()).is_err(), "{bad:.20?}");
    }
}

#[test]
fn a_filter_is_checked_when_built() {
    let good = "# + / +/ /+ /# +/+ +/# a//b sport/tennis/# +/tennis/# sport/+/player1 \
        $SYS/# $SYS/monitor/+ $shared $shared/a $sharé/a $Share/+/a a/$share/+ \
        $share/g/a $share/g// $share/g/# $share/é/+/温 $share/g/$share/x";
    let longest = "a/".repeat(MAX_BYTES / 2) + "#";
    for good in good.split(' ').chain([" ", "Accounts payable/+", &longest]) {
        assert_eq!(Filter::new(good).unwrap(), good);
    }
    let bad = "\0 a/\0 sport/tennis# sport/tennis/#/ranking sport+ +a ## #/ #/a ++ +# a/+b/c a/é+ \
        $share $share/ $share/g $share/g/ $share//a $share// $share/+/a $share/#/a $share/g+/a \
        $share/g/#/a $share/g/a+ $share/#";
    let too_long = longest.clone() + "#";
    for bad in bad.split(' ').chain(["", &too_long]) {
        assert!(Filter::new(bad).is_err(), "{bad:.20?}");
    }
}

#[test]
fn matching_follows_every_example_of_the_specification() {
    // A filter > topics it matches ! topics it does not.
    let examples = [
        "sport/tennis/player1/# > sport/tennis/player1 sport/tennis/player1/ranking ! sport/tennis",
        "sport/tennis/player1/# > sport/tennis/player1/score/wimbledon ! sport/tennis/player2",
        "sport/# > sport sport/ sport/tennis ! sports Sport",
        "# > sport sport/tennis / a/$SYS ! $SYS/monitor/Clients $SYS $",
        "sport/tennis/+ > sport/tennis/player1 sport/tennis/player2 ! sport/tennis/player1/ranking",
        "sport/+ > sport/ ! sport",
        "+ > sport 温度 ! /finance $",
        "+/tennis/# > sport/tennis sport/tennis/player1 /tennis ! tennis $SYS/tennis",
        "sport/+/player1 > sport/tennis/player1 sport//player1 ! sport/player1",
        "+/+ > /finance ! finance $SYS/x",
        "/+ > /finance ! finance",
        "+/monitor/Clients > x/monitor/Clients ! $SYS/monitor/Clients",
        "$SYS/# > $SYS $SYS/ $SYS/monitor/Clients ! x $SYSx",
        "$SYS/monitor/+ > $SYS/monitor/Clients ! $SYS/monitor",
        "ACCOUNTS > ACCOUNTS ! Accounts",
        "/finance > /finance ! finance",
        // Beyond the specification's own.
        "a/+/# > a/ a/b a//b ! a",
        "a//b > a//b ! a/b a///b",
        "a/ > a/ ! a a//",
        "+/$SYS > a/$SYS ! $SYS/$SYS",
        "é/+ > é/ü é/ ! e/ü é",
        "$share/g/a/# > a a/b ! $share/g/a",
        "$share/g/# > a ! $SYS/x $share/g/a",
        "$share/g/+/x > /x ! $SYS/x",
        "$share/g/$SYS/# > $SYS/x ! g/$SYS/x",
    ];
    for example in examples {
        let (filter, topics) = example.split_once(" > ").unwrap();
        let (yes, no) = topics.split_once(" ! ").unwrap();
        let filter = Filter::new(filter).unwrap();
        assert!(yes.split(' ').all(|topic| filter.matches(topic)), "{example}");
        assert!(!no.split(' ').any(|topic| filter.matches(topic)), "{example}");
    }
}

#[test]
fn a_shared_filter_tells_its_parts() {
    let shared = Filter::new("$share/g/a/+").unwrap();
    assert_eq!(shared.share_group(), Some("g"));
    assert_eq!(shared.levels().collect::<Vec<_>>(), ["a", "+"]);
    assert!(shared.has_wildcards());
    let plain = Filter::new("$shared/g/a").unwrap();
    assert_eq!((plain.share_group(), plain.levels().count()), (None, 3));
    assert!(!plain.has_wildcards());
    assert_eq!(HashSet::from([shared.clone(), shared, plain]).len(), 2);
}

#[test]
fn a_topic_under_share_is_no_filter() {
    for topic in ["$share", "$share/g", "$share/g/a"] {
        assert!(Filter::try_from(Topic::new(topic).unwrap()).is_err());
    }
    let topic = Topic::new("$shared/a").unwrap();
    assert!(Filter::try_from(&topic).unwrap().matches(&topic));
}

/// The rules as the specification words them, on levels.
fn matches_by_the_book(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches_by_the_book(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && matches_by_the_book(filter, topic),
        (filter, topic) => filter.is_empty() && topic.is_empty(),
    }
}

proptest! {
    #[test]
    fn matching_equals_the_naive_matcher(
        mut filter in prop::collection::vec(prop::sample::select(&["a", "b", "", "$", "é", "+", "+", "+"]), 0..5),
        tail in any::<bool>(),
        topic in prop::collection::vec(prop::sample::select(&["a", "b", "", "$", "é"]), 1..5),
        group in any::<bool>(),
    ) {
        if tail || filter.is_empty() {
            filter.push("#");
        }
        let text = filter.join("/");
        prop_assume!(!text.is_empty());
        let hidden = topic[0].starts_with('$') && matches!(filter[0], "+" | "#");
        let expected = !hidden && matches_by_the_book(&filter, &topic);
        let filter = Filter::new(if group { format!("$share/é/{text}") } else { text }).unwrap();
        prop_assert_eq!(filter.matches(topic.join("/")), expected, "{} {:?}", filter, topic);
    }

    #[test]
    fn no_text_is_a_panic(text in "(\\$share)?[$/+#aé温\u{0}]{0,9}", other in "[$/+#aé温\u{0}]{0,6}") {
        if let Ok(topic) = Topic::new(&text) {
            prop_assert_eq!(topic.levels().collect::<Vec<_>>().join("/"), text.clone());
            if let Ok(filter) = Filter::try_from(&topic) {
                prop_assert!(filter.matches(&topic) && !filter.has_wildcards());
                prop_assert_eq!(filter.matches(&other), other == text);
            }
        }
        if let Ok(filter) = Filter::new(&text) {
            filter.matches(&other);
            prop_assert_eq!(&Filter::from_str(filter.as_str()).unwrap(), &filter);
            prop_assert_eq!(filter.has_wildcards(), filter.levels().any(|level| level == "+" || level == "#"));
        }
    }
}
