use super::*;

#[test]
fn a_resumed_session_gets_releases_and_then_publishes_in_their_first_order() {
    let mut bench = Bench::connected();
    let mut answers: Vec<_> = (0..6).map(|n| bench.publish(&n.to_string(), [QOS1, QOS2][n % 2])).collect();
    bench.sent();
    bench.receive(pubrec(6));
    bench.receive(puback(3));
    bench.receive(pubrec(2));
    answers.push(bench.publish("new", QOS1));
    bench.lose_connection();
    bench.connect(true);
    let expected = [
        Sent::PubRel(6),
        Sent::PubRel(2),
        published("0", QOS1, 1, true),
        published("3", QOS2, 4, true),
        published("4", QOS1, 5, true),
        published("new", QOS1, 3, false),
    ];
    assert_eq!(bench.sent(), expected);
    // An acknowledgement that arrives before the repetition is encoded makes it unnecessary.
    bench.lose_connection();
    bench.connect(true);
    bench.receive(puback(5));
    bench.receive(pubrec(4));
    let expected = [
        Sent::PubRel(4),
        Sent::PubRel(6),
        Sent::PubRel(2),
        published("0", QOS1, 1, true),
        published("new", QOS1, 3, true),
    ];
    assert_eq!(bench.sent(), expected);
    for id in [2, 4, 6] {
        bench.receive(Inbound::PubComp(id));
    }
    bench.receive(puback(1));
    bench.receive(puback(3));
    assert!(answers.iter_mut().all(|receiver| answered(receiver).is_ok()));
    bench.has_nothing();
}

#[test]
fn a_lost_session_gets_everything_anew_ahead_of_what_waited() {
    let mut bench = Bench::with(|options| options.max_in_flight(3));
    bench.connect(false);
    let mut answers: Vec<_> = (0..5).map(|n| bench.publish(&n.to_string(), QOS1)).collect();
    let mut two = bench.publish("two", QOS2);
    assert_eq!(payloads(&bench.sent()), ["0", "1", "2"]);
    bench.lose_connection();
    bench.connect(false);
    let sent = bench.sent();
    assert_eq!(payloads(&sent), ["0", "1", "2"]);
    assert!(sent.iter().all(|sent| matches!(sent, Sent::Publish { dup: false, .. })));
    for id in [1, 2, 3] {
        bench.receive(puback(id));
    }
    assert_eq!(payloads(&bench.sent()), ["3", "4", "two"]);
    bench.receive(pubrec(3));
    bench.sent();
    // A released message goes once more: whether the broker passed it on is not known.
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(payloads(&bench.sent()), ["3", "4", "two"]);
    bench.receive(puback(3));
    bench.receive(puback(1));
    bench.receive(pubrec(2));
    bench.receive(Inbound::PubComp(2));
    bench.sent();
    assert!(answers.iter_mut().all(|receiver| answered(receiver).is_ok()));
    assert_eq!(answered(&mut two).unwrap(), Delivery::Completed);
    bench.has_nothing();
}

#[test]
fn what_expired_is_not_repeated_and_its_identifier_is_freed() {
    for session_present in [true, false] {
        let mut bench = Bench::connected();
        let mut one = bench.publish_as("one", QOS1, Offline::Wait, SECOND);
        let mut two = bench.publish_as("two", QOS2, Offline::Wait, SECOND);
        let _later = bench.publish_as("later", QOS1, Offline::Wait, SECOND * 3);
        bench.sent();
        bench.lose_connection();
        bench.advance(SECOND);
        assert_eq!(fails(&mut one), (ErrorKind::Timeout, Outcome::Unknown));
        assert_eq!(fails(&mut two), (ErrorKind::Timeout, Outcome::Unknown));
        bench.connect(session_present);
        let sent = bench.sent();
        assert_eq!(payloads(&sent), ["later"]);
        // The broker may hold the identifier of the QoS 2 message, and is made to let it go.
        assert_eq!(sent.contains(&Sent::PubRel(2)), session_present);
        if session_present {
            bench.receive(Inbound::PubComp(2));
            bench.receive(puback(3));
        } else {
            bench.receive(puback(1));
        }
        bench.has_nothing();
    }
}

#[test]
fn a_repetition_whose_deadline_passes_before_it_is_encoded_stays_away() {
    let mut bench = Bench::connected();
    let _one = bench.publish_as("one", QOS1, Offline::Wait, SECOND);
    bench.sent();
    bench.lose_connection();
    bench.connect(true);
    bench.now += SECOND;
    bench.session.handle_timeout(bench.now).unwrap();
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn what_is_queued_again_and_expires_leaves_the_queue_counted_right() {
    let mut bench = Bench::connected();
    let mut one = bench.publish_as("one", QOS1, Offline::Wait, SECOND);
    let mut two = bench.publish_as("two", QOS2, Offline::Fail, SECOND * 2);
    bench.sent();
    bench.lose_connection();
    bench.connect(false);
    bench.lose_connection();
    // It was sent, so it is neither withdrawn nor called unsent.
    assert!(answer(&mut two).is_none());
    bench.advance(SECOND);
    assert_eq!(fails(&mut one), (ErrorKind::Timeout, Outcome::Unknown));
    bench.connect(true);
    assert_eq!(payloads(&bench.sent()), ["two"]);
    assert_eq!(bench.session.publishes.len(), 0);
}

#[test]
fn what_was_sent_and_is_queued_again_is_owed_even_when_its_caller_leaves() {
    let mut bench = Bench::connected();
    let one = bench.publish("one", QOS1);
    bench.sent();
    bench.lose_connection();
    bench.connect(false);
    drop(one);
    assert_eq!(payloads(&bench.sent()), ["one"]);
    bench.receive(puback(1));
    bench.has_nothing();
}

#[test]
fn a_message_that_ends_each_connection_is_given_up_and_the_next_gets_through() {
    for (qos, session_present) in [(QOS1, true), (QOS1, false), (QOS2, true), (QOS2, false)] {
        let mut bench = Bench::connected();
        bench.publish_for(None, "poison".into(), qos, Offline::Wait, None);
        bench.publish_for(None, "fine".into(), QOS1, Offline::Wait, None);
        for _ in 0..10 {
            assert_eq!(payloads(&bench.sent()), ["poison", "fine"]);
            bench.lose_connection();
            bench.connect(session_present);
        }
        let sent = bench.sent();
        assert_eq!(payloads(&sent), ["fine"], "{qos:?}, session present: {session_present}");
        assert_eq!(sent.contains(&Sent::PubRel(1)), qos == QOS2 && session_present);
        assert_eq!(bench.session.counters.snapshot().given_up, 1);
    }
}

#[test]
fn a_connection_on_which_a_message_was_not_sent_says_nothing_of_it() {
    let mut bench = Bench::connected();
    bench.publish_for(None, "fine".into(), QOS1, Offline::Wait, None);
    for _ in 0..20 {
        bench.lose_connection();
        bench.connect(true);
    }
    assert_eq!(payloads(&bench.sent()), ["fine"]);
    for _ in 0..20 {
        bench.lose_connection();
        bench.connect(true);
    }
    assert_eq!(payloads(&bench.sent()), ["fine"]);
    assert_eq!(bench.session.counters.snapshot().given_up, 0);
}

#[test]
fn a_line_that_lets_an_acknowledgement_through_now_and_then_loses_nothing() {
    let mut bench = Bench::connected();
    for n in 0..20 {
        bench.publish_for(None, n.to_string().into(), QOS1, Offline::Wait, None);
    }
    for id in 1..=20 {
        for _ in 0..9 {
            bench.sent();
            bench.lose_connection();
            bench.connect(true);
        }
        assert_eq!(bench.sent().len(), 21 - usize::from(id));
        bench.receive(puback(id));
    }
    bench.has_nothing();
}
