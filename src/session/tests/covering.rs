//! Filters that others cover.

use super::*;

// MQTT 5 tells copies apart.
type Bench = super::Bench<4>;

/// A stream on this filter, and what was sent meanwhile but for its own SUBSCRIBE; all is confirmed.
fn stream(bench: &mut Bench, filter: &str, qos: QoS, retained: Retained) -> (Feed, Vec<Sent>) {
    let mut feed = bench.subscribe_as(&[filter], qos, retained);
    let sent = confirm(bench);
    (answered(&mut feed).unwrap(), sent)
}

/// Confirms all that is asked, until nothing more is.
fn confirm(bench: &mut Bench) -> Vec<Sent> {
    let mut all = Vec::new();
    loop {
        let sent = bench.sent();
        if sent.is_empty() {
            return all;
        }
        for packet in &sent {
            match packet {
                Sent::Subscribe(id, filters) => {
                    let granted: Vec<_> = filters.iter().map(|(_, qos)| *qos).collect();
                    bench.grant(*id, &granted);
                }
                Sent::Unsubscribe(id, _) => bench.receive(unsuback(*id)),
                other => panic!("{other:?}"),
            }
            bench.session.subscriptions.assert_covers();
        }
        all.extend(sent);
    }
}

/// Without the identifiers, which do not matter here.
fn names(sent: &[Sent]) -> Vec<String> {
    let mut names = Vec::new();
    for packet in sent {
        match packet {
            Sent::Subscribe(_, filters) => names.extend(filters.iter().map(|(filter, _)| format!("+ {filter}"))),
            Sent::Unsubscribe(_, filters) => names.extend(filters.iter().map(|filter| format!("- {filter}"))),
            other => panic!("{other:?}"),
        }
    }
    names
}

fn taken(feed: &mut Feed) -> Vec<String> {
    std::iter::from_fn(|| feed.events.try_recv().ok()).map(|event| event.unwrap().text().unwrap().to_owned()).collect()
}

#[test]
fn a_wide_filter_takes_over_the_narrow_ones_of_at_most_its_qos() {
    let mut bench = Bench::connected();
    let mut narrow = Vec::new();
    for (filter, qos) in [("a/b", QOS0), ("a/c", QOS1), ("a/d", QOS2), ("b", QOS0), ("$share/g/a/b", QOS0)] {
        narrow.push(stream(&mut bench, filter, qos, Retained::IfFirst).0);
    }
    let (wide, sent) = stream(&mut bench, "a/+", QOS1, Retained::IfFirst);
    let mut given_up = names(&sent)[1..].to_vec();
    given_up.sort();
    assert_eq!(given_up, ["- a/b", "- a/c"]);
    bench.receive_publish("a/b", "x", QOS1, 1);
    assert_eq!(taken(&mut narrow[0]), ["x"]);
    assert_eq!(bench.sent(), [Sent::PubAck(1)]);
    drop(wide);
    let sent = names(&confirm(&mut bench));
    assert_eq!((sent.len(), sent[2].as_str()), (3, "- a/+"), "the narrow ones are back before it goes");
}

#[test]
fn a_call_that_needs_no_retained_messages_costs_nothing_under_a_wide_filter() {
    let mut bench = Bench::connected();
    let (_wide, _) = stream(&mut bench, "#", QOS1, Retained::IfFirst);
    let (first, sent) = stream(&mut bench, "a", QOS1, Retained::Ignore);
    assert_eq!(sent, []);
    assert_eq!(first.granted[0].1, QOS1);
    let (_second, sent) = stream(&mut bench, "a", QOS1, Retained::IfFirst);
    assert_eq!(sent, [], "it is not the first");
    let (_third, sent) = stream(&mut bench, "a", QOS1, Retained::Include);
    assert_eq!(names(&sent), ["+ a", "- a"]);
    let (_fourth, sent) = stream(&mut bench, "a", QOS2, Retained::Ignore);
    assert_eq!(names(&sent), ["+ a"], "at more than the wide one has");
}

#[test]
fn those_that_rely_on_a_filter_go_with_it_under_a_wider_one() {
    let mut bench = Bench::connected();
    let (_a, _) = stream(&mut bench, "a/b/c", QOS1, Retained::Ignore);
    let (middle, sent) = stream(&mut bench, "a/b/+", QOS1, Retained::Ignore);
    assert_eq!(names(&sent), ["+ a/b/+", "- a/b/c"]);
    let (wide, sent) = stream(&mut bench, "a/#", QOS1, Retained::Ignore);
    assert_eq!(names(&sent), ["+ a/#", "- a/b/+"]);
    drop(wide);
    let sent = names(&confirm(&mut bench));
    let at = |what: &str| sent.iter().position(|sent| sent == what);
    assert!(at("+ a/b/+") < at("- a/#") && at("+ a/b/+").is_some(), "{sent:?}");
    assert!(at("+ a/b/c") < at("- a/b/c"), "{sent:?}");
    drop(middle);
    assert_eq!(names(&confirm(&mut bench)), ["+ a/b/c", "- a/b/+"]);
}

#[test]
fn a_narrow_filter_that_is_refused_when_the_wide_one_leaves_is_told_so() {
    let mut bench = Bench::connected();
    let (wide, _) = stream(&mut bench, "#", QOS1, Retained::Ignore);
    let (mut narrow, _) = stream(&mut bench, "a", QOS1, Retained::Ignore);
    drop(wide);
    let sent = bench.sent();
    let [Sent::Subscribe(id, _)] = &sent[..] else { panic!("{sent:?}") };
    bench.receive(Inbound::SubAck { id: *id, granted: vec![refused()] });
    assert!(narrow.events.try_recv().unwrap().is_err());
    assert_eq!(names(&confirm(&mut bench)), ["- #"]);
}

#[test]
fn a_connection_that_is_lost_while_the_narrow_filters_come_back_changes_nothing() {
    for session_present in [true, false] {
        let mut bench = Bench::connected();
        let (wide, _) = stream(&mut bench, "#", QOS1, Retained::Ignore);
        let (_narrow, _) = stream(&mut bench, "a", QOS1, Retained::Ignore);
        drop(wide);
        assert_eq!(names(&bench.sent()), ["+ a"]);
        bench.lose_connection();
        bench.connect(session_present);
        let sent = names(&confirm(&mut bench));
        assert_eq!(sent, if session_present { vec!["+ a", "- #"] } else { vec!["+ a"] });
        bench.session.subscriptions.assert_covers();
    }
}

#[test]
fn without_covering_all_filters_stand_by_themselves() {
    let mut bench = Bench::connected();
    let (_wide, _) = stream(&mut bench, "#", QOS1, Retained::Ignore);
    let (_narrow, sent) = stream(&mut bench, "a", QOS1, Retained::Ignore);
    assert_eq!(sent, []);
    bench.session.subscriptions.set_covering(false);
    assert_eq!(names(&confirm(&mut bench)), ["+ a"]);
    let (_other, sent) = stream(&mut bench, "b", QOS1, Retained::Ignore);
    assert_eq!(names(&sent), ["+ b"]);
}

#[test]
fn an_upgrade_that_was_never_answered_is_asked_for_again() {
    let mut bench = Bench::connected();
    let (_wide, _) = stream(&mut bench, "s/+", QOS0, Retained::Ignore);
    let (_narrow, _) = stream(&mut bench, "s/a", QOS1, Retained::Ignore);
    let mut upgrade = bench.subscribe_within(&["s/+"], QOS1, Retained::Ignore, SECOND);
    assert_eq!(names(&bench.sent()), ["+ s/+"]);
    bench.advance(SECOND);
    assert!(answered(&mut upgrade).unwrap_err().is_timeout());
    bench.lose_connection();
    bench.connect(true);
    assert_eq!(names(&confirm(&mut bench)), ["+ s/+", "- s/a"], "the broker may hold it at the higher QoS");
}

#[test]
fn no_filter_relies_on_one_that_relies_on_another() {
    let mut bench = Bench::connected();
    let (_middle, _) = stream(&mut bench, "s/+", QOS1, Retained::Ignore);
    let (_narrow, sent) = stream(&mut bench, "s/a", QOS1, Retained::Ignore);
    assert_eq!(sent, []);
    let _wide = bench.subscribe_as(&["#"], QOS1, Retained::Ignore);
    let sent = bench.sent();
    let [Sent::Subscribe(id, _)] = &sent[..] else { panic!("{sent:?}") };
    let mut higher = bench.subscribe_as(&["s/a"], QOS2, Retained::Ignore);
    bench.grant(*id, &[QOS1]);
    bench.session.subscriptions.assert_covers();
    assert_eq!(names(&confirm(&mut bench)), ["+ s/a", "- s/+"]);
    let mut higher = answered(&mut higher).unwrap();
    bench.receive_publish("s/a", "x", QOS2, 1);
    assert_eq!(taken(&mut higher), ["x"]);
}
