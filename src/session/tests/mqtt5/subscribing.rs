use proptest::prelude::*;

use super::*;

#[test]
fn of_overlapping_filters_each_copy_reaches_its_own_subscribers_and_one_copy_for_all_reaches_all() {
    let mut bench = Bench::connected();
    let mut feeds: Vec<_> = ["a/#", "a/+", "a/b"].map(|filter| bench.subscribe(&[filter])).into();
    bench.grant_all();
    let identifiers: Vec<_> = bench.carried.iter().filter_map(|carried| carried.identifier).collect();
    assert_eq!(identifiers, [1, 2, 3], "filters that overlap do not share an identifier");
    let mut feeds: Vec<_> = feeds.iter_mut().map(|feed| answered(feed).unwrap()).collect();
    let copy = |bench: &mut Bench, subscriptions: &[usize]| {
        let topic = Topic::new("a/b").unwrap();
        let subscriptions = subscriptions.to_vec();
        bench.receive(Inbound::Publish(Incoming { subscriptions, ..plain(topic, "x".into(), QOS0, 0) }));
    };
    let counts = |feeds: &mut Vec<Feed>| -> Vec<usize> {
        feeds.iter_mut().map(|feed| std::iter::from_fn(|| feed.events.try_recv().ok()).count()).collect()
    };
    copy(&mut bench, &[1]);
    copy(&mut bench, &[3]);
    assert_eq!(counts(&mut feeds), [1, 0, 1]);
    copy(&mut bench, &[1, 2, 3]);
    assert_eq!(counts(&mut feeds), [1, 1, 1]);
    copy(&mut bench, &[]);
    assert_eq!(counts(&mut feeds), [1, 1, 1], "a broker may leave them out");
    copy(&mut bench, &[77]);
    assert_eq!(counts(&mut feeds), [1, 1, 1], "one queued for an earlier process names none of these");
}

#[test]
fn a_subscriber_with_several_filters_takes_the_best_of_the_copies() {
    let mut bench = Bench::connected();
    let mut feed = bench.subscribe_as(&["a/#", "a/+", "a/b"], QOS2, Retained::IfFirst);
    bench.sent();
    let copy = |bench: &mut Bench, identifier: usize, payload: &'static str| {
        let (topic, subscriptions) = (Topic::new("a/b").unwrap(), vec![identifier]);
        bench.receive(Inbound::Publish(Incoming { subscriptions, ..plain(topic, payload.into(), QOS0, 0) }));
    };
    bench.grant(1, &[QOS0]);
    copy(&mut bench, 2, "2 may not be subscribed yet");
    copy(&mut bench, 1, "early");
    bench.grant(2, &[QOS2]);
    bench.grant(3, &[QOS1]);
    for (identifier, payload) in [(1, "one"), (2, "two"), (3, "three")] {
        copy(&mut bench, identifier, payload);
    }
    let mut feed = answered(&mut feed).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| feed.events.try_recv().ok()).collect();
    let texts: Vec<_> = taken.iter().map(|event| event.as_ref().unwrap().text().unwrap()).collect();
    assert_eq!(texts, ["early", "two"]);
}

#[test]
fn filters_that_do_not_overlap_share_a_packet_and_keep_their_identifier() {
    let mut bench = Bench::connected();
    let mut first = bench.subscribe(&["a/1", "a/2", "b/+"]);
    assert_eq!(bench.sent(), [subscribed(1, &[("a/1", QOS1), ("a/2", QOS1), ("b/+", QOS1)])]);
    bench.grant(1, &[QOS1; 3]);
    let _feed = answered(&mut first).unwrap();
    let mut second = bench.subscribe_as(&["a/1", "c"], QOS2, Retained::IfFirst);
    assert_eq!(bench.sent(), [subscribed(1, &[("a/1", QOS2)]), subscribed(2, &[("c", QOS2)])]);
    let identifiers: Vec<_> = bench.carried.iter().map(|carried| carried.identifier).collect();
    assert_eq!(identifiers, [Some(1), Some(1), Some(2)]);
    assert!(answer(&mut second).is_none());
}

#[test]
fn a_shared_filter_and_the_same_without_its_group_do_not_share_an_identifier_in_either_order() {
    for filters in [["a", "$share/g/a"], ["$share/g/a", "a"]] {
        let mut bench = Bench::connected();
        let _feed = bench.subscribe(&filters);
        assert_eq!(bench.sent().len(), 2, "{filters:?}");
        let identifiers: Vec<_> = bench.carried.iter().map(|carried| carried.identifier).collect();
        assert_eq!(identifiers, [Some(1), Some(2)]);
    }
}

#[test]
fn without_identifiers_at_the_broker_none_is_sent() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms { subscription_identifiers_available: false, ..terms });
    let _feed = bench.subscribe(&["a/#", "a/b"]);
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(bench.carried[0].identifier, None);
}

#[test]
fn retained_messages_are_asked_for_only_where_somebody_wants_them() {
    let mut bench = Bench::connected();
    let mut ignoring = bench.subscribe_as(&["f"], QOS1, Retained::Ignore);
    bench.grant_all();
    let _ignoring = answered(&mut ignoring).unwrap();
    let _including = bench.subscribe_as(&["f"], QOS1, Retained::Include);
    bench.sent();
    let asked: Vec<_> = bench.carried.iter().map(|carried| carried.asks[0].retained).collect();
    assert_eq!(asked, [false, true]);
}

fn subscribe_as(bench: &mut Bench, filter: &str, wish: Wish) -> Answer<Feed> {
    let (reply, answer) = Reply::channel();
    let (filters, deadline) = (vec![Filter::new(filter).unwrap()], bench.now + LONG);
    let subscribe = Subscribe { filters, wish, capacity: 16, offline: Offline::Wait, deadline, reply };
    bench.command(Command::Subscribe(subscribe));
    answer
}

#[test]
fn the_options_of_a_subscription_reach_the_broker_and_cannot_differ_among_its_subscribers() {
    let mut bench = Bench::connected();
    let plain = Wish::new(QOS1, Retained::IfFirst);
    let raw = Wish { no_local: true, retain_as_published: true, ..plain };
    let mut first = subscribe_as(&mut bench, "f", raw);
    bench.grant_all();
    let first = answered(&mut first).unwrap();
    let ask = &bench.carried[0].asks[0];
    assert!(ask.no_local && ask.retain_as_published);
    let mut second = subscribe_as(&mut bench, "f", plain);
    assert_eq!(answered(&mut second).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut third = subscribe_as(&mut bench, "f", raw);
    let third = answered(&mut third).unwrap();
    drop((first, third));
    // Nobody else is there any more, and the broker has not been told yet.
    bench.take_notices();
    let mut fourth = subscribe_as(&mut bench, "f", plain);
    assert!(answer(&mut fourth).is_none());
    bench.grant_all();
    assert!(!bench.carried[1].asks[0].no_local);
    answered(&mut fourth).unwrap();
}

#[test]
fn with_retain_as_published_every_message_comes_as_it_is() {
    let mut bench = Bench::connected();
    let wish = Wish { retain_as_published: true, ..Wish::new(QOS1, Retained::Ignore) };
    let mut feed = subscribe_as(&mut bench, "f", wish);
    bench.grant_all();
    let mut feed = answered(&mut feed).unwrap();
    for payload in ["1", "2"] {
        let topic = Topic::new("f").unwrap();
        bench.receive(Inbound::Publish(Incoming { retain: true, ..super::plain(topic, payload.into(), QOS0, 0) }));
        let message = feed.events.try_recv().unwrap().unwrap();
        assert!(message.is_retained() && message.text() == Ok(payload));
    }
}

#[test]
fn a_filter_that_the_broker_does_not_offer_fails_unasked() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms {
        wildcard_subscriptions_available: false,
        shared_subscriptions_available: false,
        ..terms
    });
    for filter in ["a/+", "$share/g/a"] {
        let mut feed = bench.subscribe(&[filter]);
        assert_eq!(bench.sent(), []);
        assert_eq!(answered(&mut feed).unwrap_err().kind(), ErrorKind::Unsupported);
    }
    bench.has_nothing();
}

#[test]
fn a_caller_of_unsubscribe_hears_that_the_broker_refused() {
    let mut bench = Bench::connected();
    let mut feed = bench.subscribe(&["a", "b"]);
    bench.grant_all();
    let feed = answered(&mut feed).unwrap();
    let mut left = feed.guard.unsubscribe();
    bench.sent();
    bench.receive(Inbound::UnsubAck { id: 1, reasons: vec![ReasonCode::SUCCESS, ReasonCode::NOT_AUTHORIZED] });
    let error = answered(&mut left).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsubscribeRefused);
    assert!(error.to_string().contains("\"b\""), "{error}");
    drop(feed);
    bench.take_notices();
    bench.has_nothing();
}

#[test]
fn a_copy_for_a_plain_filter_reaches_a_subscriber_that_has_a_shared_one_too() {
    for filters in [["$share/g/a", "a"], ["a", "$share/g/a"]] {
        let mut bench = Bench::connected();
        let mut feed = bench.subscribe(&filters);
        bench.grant_all();
        let mut feed = answered(&mut feed).unwrap();
        let shared = 1 + filters.iter().position(|filter| filter.starts_with('$')).unwrap();
        // What another member of the group got comes by the plain filter only.
        for (identifier, payload) in [(3 - shared, "one"), (3 - shared, "two"), (shared, "two")] {
            let (topic, subscriptions) = (Topic::new("a").unwrap(), vec![identifier]);
            bench.receive(Inbound::Publish(Incoming { subscriptions, ..plain(topic, payload.into(), QOS0, 0) }));
        }
        let taken: Vec<_> = std::iter::from_fn(|| feed.events.try_recv().ok()).collect();
        let texts: Vec<_> = taken.iter().map(|event| event.as_ref().unwrap().text().unwrap()).collect();
        assert_eq!(texts, ["one", "two"], "{filters:?}");
    }
}

#[test]
fn no_subscribe_is_larger_than_the_broker_takes() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms { maximum_packet_size: Some(128), ..terms });
    let filters: Vec<_> = (0..20).map(|n| format!("devices/{n:02}/state")).collect();
    let _feeds: Vec<_> = filters.iter().map(|filter| bench.subscribe(&[filter])).collect();
    let mut too_long = bench.subscribe(&[&"x".repeat(120)]);
    let before = bench.output.len();
    let sent = bench.transmit();
    let asked: usize =
        sent.iter().map(|packet| if let Sent::Subscribe(_, filters) = packet { filters.len() } else { 0 }).sum();
    assert_eq!((before, asked), (0, 20));
    assert!(bench.unwritten.iter().all(|(_, size)| *size <= 128), "{:?}", bench.unwritten);
    assert!(sent.len() < 6, "as many go into one as fit");
    assert_eq!(answered(&mut too_long).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_call_does_not_change_how_a_stream_is_subscribed() {
    let mut bench = Bench::connected();
    let mut feed = subscribe_as(&mut bench, "r", Wish { no_local: true, ..Wish::new(QOS1, Retained::IfFirst) });
    bench.grant_all();
    let _feed = answered(&mut feed).unwrap();
    let (_, mut call) = bench.request("x", "r");
    assert_eq!(fails(&mut call), (ErrorKind::InvalidArgument, Outcome::NotSent));
    assert_eq!(bench.sent(), []);
}

proptest! {
    /// The session of one that acknowledges late.
    #[test]
    fn of_the_copies_of_a_message_a_subscriber_takes_one_and_all_are_acknowledged_in_their_order(
        filters in proptest::sample::subsequence(&["#", "+/b", "a/#", "a/+", "a/b"], 1..=5).prop_shuffle(),
        messages in proptest::collection::vec((proptest::sample::select(&["a/b", "a/c", "c/b"]), any::<bool>()), 1..20),
    ) {
        let mut bench = Bench::with(|options| options.holding(128));
        bench.connect(false);
        let mut feed = bench.subscribe(&filters);
        let asked: Vec<_> = bench.sent().into_iter().filter_map(|sent| match sent {
            Sent::Subscribe(id, filters) => Some((id, filters)),
            _ => None,
        }).collect();
        let mut identifiers = Vec::new();
        for ((id, filters), carried) in asked.into_iter().zip(std::mem::take(&mut bench.carried)) {
            bench.grant(id, &vec![QOS1; filters.len()]);
            identifiers.extend(filters.into_iter().map(|(filter, _)| (Filter::new(filter).unwrap(), carried.identifier)));
        }
        let mut feed = answered(&mut feed).unwrap();
        let (mut id, mut wanted) = (0, Vec::new());
        for (n, (topic, backwards)) in messages.into_iter().enumerate() {
            let mut copies: Vec<_> = identifiers.iter().filter(|(filter, _)| filter.matches(topic)).collect();
            wanted.extend((!copies.is_empty()).then(|| n.to_string()));
            if backwards {
                copies.reverse();
            }
            for (_, identifier) in copies {
                id += 1;
                let subscriptions = vec![identifier.unwrap()];
                let plain = plain(Topic::new(topic).unwrap(), n.to_string().into(), QOS1, id);
                bench.receive(Inbound::Publish(Incoming { subscriptions, ..plain }));
            }
        }
        let mut taken = Vec::new();
        while let Ok(event) = feed.events.try_recv() {
            let mut message = event.unwrap();
            message.take();
            taken.push(message.text().unwrap().to_owned());
        }
        prop_assert_eq!(taken, wanted);
        prop_assert_eq!(bench.sent(), (1..=id).map(Sent::PubAck).collect::<Vec<_>>());
    }
}
