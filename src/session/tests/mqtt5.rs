//! What only MQTT 5 has.

use super::*;
use crate::rpc::Correlation;

type Bench = super::Bench<5>;

fn publish_command(bench: &Bench, publish: wire::Publish) -> (Publish, Answer<Delivery>) {
    let (reply, answer) = Reply::channel();
    let deadline = Some(bench.now + LONG);
    let reply = Some(reply);
    (Publish { publish, expires: None, offline: Offline::Wait, deadline, reply, share: None }, answer)
}

#[test]
fn no_more_than_the_receive_maximum_is_unacknowledged_also_when_it_shrinks() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms { receive_maximum: 3, ..terms });
    let _answers: Vec<_> = (0..5).map(|n| bench.publish(&n.to_string(), QOS1)).collect();
    assert_eq!(bench.sent().len(), 3);
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { receive_maximum: 1, ..terms });
    assert_eq!(bench.sent(), [published("0", QOS1, 1, true)]);
    bench.receive(puback(1));
    assert_eq!(bench.sent(), [published("1", QOS1, 2, true)]);
    bench.receive(puback(2));
    assert_eq!(bench.sent(), [published("2", QOS1, 3, true)]);
    bench.receive(puback(3));
    assert_eq!(bench.sent(), [published("3", QOS1, 1, false)]);
}

#[test]
fn the_keep_alive_of_the_broker_counts_and_zero_switches_it_off() {
    let mut bench = Bench::with(|options| options.keep_alive(60 * SECOND));
    bench.connect_with(false, |terms| Terms { keep_alive: Some(5 * SECOND), ..terms });
    bench.advance(5 * SECOND);
    assert_eq!(bench.write(usize::MAX), [Sent::PingReq]);
    bench.lose_connection();
    bench.connect_with(false, |terms| Terms { keep_alive: Some(Duration::ZERO), ..terms });
    bench.advance(LONG);
    assert_eq!(bench.sent(), []);
}

#[test]
fn what_the_broker_does_not_take_fails_unsent() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms {
        maximum_qos: QOS1,
        retain_available: false,
        maximum_packet_size: Some(100),
        ..terms
    });
    let plain = || wire_publish("t", "x".into(), QOS1);
    let cases = [
        (wire::Publish { qos: QOS2, ..plain() }, ErrorKind::Unsupported),
        (wire::Publish { retain: true, ..plain() }, ErrorKind::Unsupported),
        (wire::Publish { payload: vec![0; 100].into(), ..plain() }, ErrorKind::TooLarge),
    ];
    for (publish, kind) in cases {
        let (command, mut receiver) = publish_command(&bench, publish);
        bench.command(Command::Publish(command));
        assert_eq!(bench.sent(), []);
        let error = answered(&mut receiver).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent));
    }
    bench.has_nothing();
}

#[test]
fn a_message_that_no_longer_fits_is_not_repeated_and_its_identifier_is_free() {
    let mut bench = Bench::connected();
    let mut large = bench.publish(&"x".repeat(200), QOS1);
    let mut small = bench.publish("y", QOS1);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(100), ..terms });
    assert_eq!(bench.sent(), [published("y", QOS1, 2, true)]);
    let error = answered(&mut large).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Unknown));
    bench.receive(puback(2));
    answered(&mut small).unwrap();
    bench.has_nothing();
}

#[test]
fn properties_on_a_connection_of_an_earlier_version_are_an_error_and_not_dropped() {
    let mut bench = super::Bench::<4>::new();
    bench.connect(false);
    let properties = Some(Box::new(Properties { content_type: Some("text/plain".into()), ..Properties::default() }));
    let (reply, mut receiver) = Reply::channel();
    let (offline, deadline, reply) = (Offline::Wait, Some(bench.now + LONG), Some(reply));
    let publish = wire::Publish { properties, ..wire_publish("t", "x".into(), QOS1) };
    bench.command(Command::Publish(Publish { publish, expires: None, offline, deadline, reply, share: None }));
    assert_eq!(bench.sent(), []);
    assert_eq!(answered(&mut receiver).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn the_expiry_on_the_wire_is_what_is_left_of_it() {
    let mut bench = Bench::new();
    let (command, _receiver) = publish_command(&bench, wire_publish("t", "x".into(), QOS1));
    bench.command(Command::Publish(Publish { expires: Some(bench.now + 60 * SECOND), ..command }));
    bench.advance(20 * SECOND);
    bench.connect(false);
    bench.sent();
    assert_eq!(bench.carried[0].properties.message_expiry, Some(40 * SECOND));
    bench.lose_connection();
    bench.advance(Duration::from_millis(29_500));
    bench.connect(true);
    assert_eq!(bench.sent(), [published("x", QOS1, 1, true)]);
    assert_eq!(bench.carried[1].properties.message_expiry, Some(11 * SECOND), "rounded up");
}

#[test]
fn a_message_that_nobody_is_subscribed_to_says_so() {
    let mut bench = Bench::connected();
    let none = || Reason::from(ReasonCode::NO_MATCHING_SUBSCRIBERS);
    let (mut one, mut two) = (bench.publish("1", QOS1), bench.publish("2", QOS2));
    bench.sent();
    bench.receive(Inbound::PubAck { id: 1, reason: none() });
    assert_eq!(answered(&mut one).unwrap(), Delivery::NoSubscribers);
    bench.receive(Inbound::PubRec { id: 2, reason: none() });
    bench.sent();
    bench.receive(Inbound::PubComp(2));
    assert_eq!(answered(&mut two).unwrap(), Delivery::NoSubscribers);
    let (_, mut call) = bench.request("q", "r");
    bench.grant_all();
    assert_eq!(bench.sent(), [requested("q", 2, false)]);
    bench.receive(Inbound::PubAck { id: 2, reason: none() });
    let error = answered(&mut call).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoResponders, Outcome::Refused));
}

#[test]
fn a_request_carries_its_remaining_time() {
    let mut bench = Bench::new();
    let (_, _call) = bench.request_as("q", "r", 1, Offline::Wait, 30 * SECOND);
    bench.advance(10 * SECOND);
    bench.connect(false);
    bench.grant_all();
    assert_eq!(bench.sent(), [requested("q", 1, false)]);
    assert_eq!(bench.carried[1].properties.message_expiry, Some(20 * SECOND));
}

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
fn refusals_bring_the_reason_and_the_words_of_the_broker() {
    let mut bench = Bench::connected();
    let reason = || Reason { code: ReasonCode::NOT_AUTHORIZED, text: Some("not you".into()) };
    let check = |error: Error, kind| {
        assert_eq!((error.kind(), error.reason_code()), (kind, Some(ReasonCode::NOT_AUTHORIZED)));
        assert!(error.to_string().contains("not you"), "{error}");
    };
    let mut publish = bench.publish("x", QOS1);
    bench.sent();
    bench.receive(Inbound::PubAck { id: 1, reason: reason() });
    check(answered(&mut publish).unwrap_err(), ErrorKind::PublishRefused);
    let mut feed = bench.subscribe(&["f"]);
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![Err(reason())] });
    check(answered(&mut feed).unwrap_err(), ErrorKind::SubscribeRefused);
    let refused = Refused { reason: reason(), server_reference: Some("elsewhere:1883".into()) };
    let error = bench.session.handle_inbound(Inbound::Disconnect(refused), bench.now).unwrap_err();
    assert_eq!(error.server_reference(), Some("elsewhere:1883"));
    check(error, ErrorKind::Disconnected);
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

/// A call without a word of where its reply comes.
fn ask(bench: &mut Bench, payload: &str, data: u8) -> (RequestId, Answer<Vec<Message>>) {
    let key = Correlation::data().key(b"", || [data; 16]).unwrap();
    bench.request_with(payload, "unused", |request| {
        let properties =
            Properties { correlation_data: key.as_ref().map(|key| key.value.clone()), ..Properties::default() };
        let publish = wire::Publish { properties: Some(Box::new(properties)), ..request.publish };
        Request { publish, key, reply_to: None, ..request }
    })
}

fn respond(bench: &mut Bench, topic: &str, payload: &'static str, data: u8) {
    let properties = Properties { correlation_data: Some(vec![data; 16].into()), ..Properties::default() };
    let plain = plain(Topic::new(topic).unwrap(), payload.into(), QOS0, 0);
    bench.receive(Inbound::Publish(Incoming { properties: Some(Box::new(properties)), ..plain }));
}

#[test]
fn calls_to_the_agents_own_reply_topic_run_at_once_and_know_their_replies_by_the_correlation_data() {
    let mut bench = Bench::connected();
    let (_, mut first) = ask(&mut bench, "1", 1);
    let (_, mut second) = ask(&mut bench, "2", 2);
    assert_eq!(bench.sent(), [subscribed(1, &[("clients/c/replies", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("1", 1, false), requested("2", 2, false)]);
    let carried = &bench.carried[1];
    assert_eq!(carried.properties.response_topic.as_ref().map(Topic::as_str), Some("clients/c/replies"));
    assert_eq!(carried.properties.correlation_data.as_deref(), Some(&[1; 16][..]));
    respond(&mut bench, "clients/c/replies", "b", 2);
    respond(&mut bench, "clients/c/replies", "nobody's", 3);
    respond(&mut bench, "clients/c/replies", "a", 1);
    respond(&mut bench, "clients/c/replies", "once more", 1);
    assert_eq!((texts(answered(&mut first)), texts(answered(&mut second))), (vec!["a".into()], vec!["b".into()]));
    assert_eq!(bench.session.counters.snapshot().late_replies, 2);
}

#[test]
fn the_reply_topic_is_where_the_broker_says_also_for_calls_made_before_it_could() {
    let mut bench = Bench::new();
    let (gone, left) = ask(&mut bench, "0", 0);
    let (_, mut call) = ask(&mut bench, "1", 1);
    drop(left);
    bench.session.handle_notice(Notice::RequestGone(gone), bench.now);
    bench.connect_with(false, |terms| Terms { response_information: Some("mine/7/".into()), ..terms });
    assert_eq!(bench.sent(), [subscribed(1, &[("mine/7/replies", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("1", 1, false)]);
    respond(&mut bench, "mine/7/replies", "a", 1);
    assert_eq!(texts(answered(&mut call)), ["a"]);
}

#[test]
fn a_client_identifier_with_wildcards_makes_a_reply_topic_all_the_same() {
    let mut bench = Bench::new();
    bench.connect_with(false, |terms| Terms { client_id: "a+b/#".into(), ..terms });
    let _call = ask(&mut bench, "1", 1);
    assert_eq!(bench.sent(), [subscribed(1, &[("clients/a_b/_/replies", QOS1)])]);
}

#[test]
fn before_mqtt_5_there_is_no_reply_topic_of_the_agent_and_the_call_says_so() {
    let mut bench = super::Bench::<4>::new();
    let mut calls: Vec<_> =
        (0..2).map(|_| bench.request_with("1", "x", |call| Request { reply_to: None, ..call })).collect();
    bench.connect(false);
    calls.push(bench.request_with("1", "x", |call| Request { reply_to: None, ..call }));
    for (_, mut call) in calls {
        assert_eq!(fails(&mut call), (ErrorKind::Unsupported, Outcome::NotSent));
    }
    bench.has_nothing();
}

#[test]
fn a_call_without_a_connection_that_gives_up_waiting_for_its_reply_topic_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let (_, mut call) = bench.request_with("1", "x", |call| Request { reply_to: None, ..call });
    bench.advance(LONG);
    assert_eq!(fails(&mut call), (ErrorKind::Timeout, Outcome::NotSent));
    bench.has_nothing();
}

#[test]
fn properties_that_nobody_asked_for_by_name_are_left_out_where_the_version_has_none() {
    let mut bench = super::Bench::<4>::new();
    bench.connect(false);
    let properties = Some(Box::new(Properties { content_type: Some("text/plain".into()), ..Properties::default() }));
    let (reply, mut receiver) = Reply::channel();
    let (offline, deadline, reply) = (Offline::Wait, Some(bench.now + LONG), Some(reply));
    let publish = wire::Publish { properties, lenient: true, ..wire_publish("t", "x".into(), QOS1) };
    bench.command(Command::Publish(Publish { publish, expires: None, offline, deadline, reply, share: None }));
    assert_eq!(bench.sent(), [published("x", QOS1, 1, false)]);
    bench.receive(puback(1));
    answered(&mut receiver).unwrap();
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
    let (reply, mut answer) = Reply::channel();
    let wish = Wish { no_local: true, ..Wish::new(QOS1, Retained::IfFirst) };
    let (filters, offline, deadline) = ([Filter::new("r").unwrap()].into(), Offline::Wait, bench.now + LONG);
    bench.command(Command::Subscribe(Subscribe { filters, wish, capacity: 16, offline, deadline, reply }));
    bench.grant_all();
    let _feed = answered(&mut answer).unwrap();
    let (_, mut call) = bench.request("x", "r");
    assert_eq!(fails(&mut call), (ErrorKind::InvalidArgument, Outcome::NotSent));
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_qos_2_message_that_was_given_up_is_not_sent_to_a_broker_that_has_forgotten_it() {
    let mut bench = Bench::connected();
    let mut large = bench.publish(&"x".repeat(200), QOS2);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(100), ..terms });
    assert_eq!(bench.sent(), [Sent::PubRel(1)]);
    assert_eq!(fails(&mut large), (ErrorKind::TooLarge, Outcome::Unknown));
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn a_filter_that_no_longer_fits_is_not_unsubscribed_and_its_caller_is_told() {
    let mut bench = Bench::connected();
    let long = "x".repeat(100);
    let mut feed = bench.subscribe(&[&long]);
    bench.grant_all();
    let feed = answered(&mut feed).unwrap();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(64), ..terms });
    let mut gone = feed.guard.unsubscribe();
    assert_eq!(bench.sent(), []);
    assert_eq!(answered(&mut gone).unwrap_err().kind(), ErrorKind::UnsubscribeRefused);
    drop(feed);
    bench.take_notices();
    bench.has_nothing();
}

#[test]
fn what_a_connection_cannot_carry_keeps_no_filter_behind_it_back() {
    let mut bench = Bench::connected();
    let (mut gone, long) = (bench.subscribe(&["gone"]), "x".repeat(100));
    bench.grant_all();
    let gone = answered(&mut gone).unwrap();
    bench.lose_connection();
    let mut too_long = bench.subscribe(&[&long]);
    drop(gone);
    bench.take_notices();
    let _wanted = bench.subscribe(&["wanted"]);
    bench.connect_with(true, |terms| Terms { maximum_packet_size: Some(64), ..terms });
    bench.transmit();
    let sent: Vec<_> = bench.unwritten.iter().map(|(packet, _)| packet.clone()).collect();
    assert!(matches!(sent[..], [Sent::Unsubscribe(..), Sent::Subscribe(..)]), "{sent:?}");
    assert_eq!(answered(&mut too_long).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn what_the_broker_may_hold_from_an_earlier_connection_is_unsubscribed_where_it_cannot_be_asked_for() {
    let mut bench = Bench::connected();
    let mut wild = bench.subscribe(&["+"]);
    bench.sent();
    bench.lose_connection();
    bench.connect_with(true, |terms| Terms { wildcard_subscriptions_available: false, ..terms });
    assert!(matches!(&bench.sent()[..], [Sent::Unsubscribe(_, filters)] if filters == &["+"]));
    assert_eq!(answered(&mut wild).unwrap_err().kind(), ErrorKind::Unsupported);
}
