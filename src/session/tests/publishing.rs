use super::*;

#[test]
fn each_quality_of_service_resolves_at_its_own_moment() {
    let mut bench = Bench::connected();
    let mut zero = bench.publish("0", QOS0);
    let mut one = bench.publish("1", QOS1);
    let mut two = bench.publish("2", QOS2);
    bench.transmit();
    assert!(answer(&mut zero).is_none());
    let sent = bench.sent();
    assert_eq!(sent, [published("0", QOS0, 0, false), published("1", QOS1, 1, false), published("2", QOS2, 2, false)]);
    assert_eq!(answered(&mut zero).unwrap(), Delivery::Sent);

    assert!(answer(&mut one).is_none());
    bench.receive(puback(1));
    assert_eq!(answered(&mut one).unwrap(), Delivery::Acknowledged);

    bench.receive(Inbound::PubComp(2));
    bench.receive(pubrec(2));
    assert!(answer(&mut two).is_none());
    assert_eq!(bench.sent(), [Sent::PubRel(2)]);
    bench.receive(Inbound::PubComp(2));
    assert_eq!(answered(&mut two).unwrap(), Delivery::Completed);
    bench.has_nothing();
}

#[test]
fn acknowledgements_in_any_order_reach_their_own_callers() {
    let mut bench = Bench::connected();
    let mut answers: Vec<_> = (0..9).map(|n| bench.publish(&n.to_string(), QOS1)).collect();
    bench.sent();
    for id in [5, 1, 9, 8, 2, 3, 7, 6, 4] {
        bench.receive(puback(id));
        for (n, receiver) in answers.iter_mut().enumerate() {
            if n + 1 == usize::from(id) {
                assert_eq!(answered(receiver).unwrap(), Delivery::Acknowledged);
                *receiver = oneshot::channel().1;
            } else {
                assert!(receiver.try_recv().is_err());
            }
        }
    }
    bench.has_nothing();
}

#[test]
fn acknowledgements_of_nothing_are_no_trouble() {
    let mut bench = Bench::connected();
    let mut one = bench.publish("1", QOS1);
    bench.sent();
    for inbound in [
        puback(2),
        Inbound::PubComp(1),
        pubrec(1),
        unsuback(1),
    ] {
        bench.receive(inbound);
    }
    bench.receive(Inbound::SubAck { id: 1, granted: vec![refused()] });
    assert!(answer(&mut one).is_none());
    assert_eq!(bench.sent(), []);
    // Only this one could be of a session that the broker remembers better.
    bench.receive(pubrec(77));
    assert_eq!(bench.sent(), [Sent::PubRel(77)]);
}

#[test]
fn a_full_window_holds_the_queue_until_an_acknowledgement() {
    let mut bench = Bench::with(|options| options.max_in_flight(2));
    bench.connect(false);
    let _answers: Vec<_> = [QOS1, QOS2, QOS1, QOS0].map(|qos| bench.publish("x", qos)).into();
    assert_eq!(bench.sent().len(), 2);
    bench.receive(pubrec(2));
    assert_eq!(bench.sent(), [Sent::PubRel(2)]);
    bench.receive(Inbound::PubComp(2));
    assert_eq!(bench.sent(), [published("x", QOS1, 2, false), published("x", QOS0, 0, false)]);
}

#[test]
fn without_a_free_identifier_the_next_waits_in_its_place() {
    let mut bench = Bench::with(|options| options.max_in_flight(u16::MAX));
    bench.connect(false);
    let _feed = bench.subscribe(&["f"]);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    for _ in 0..=u16::MAX {
        bench.publish_for(None, "x".into(), QOS1, Offline::Wait, None);
    }
    bench.publish_for(None, "last".into(), QOS0, Offline::Wait, None);
    assert_eq!(bench.sent().len(), usize::from(u16::MAX) - 1);
    assert_eq!(bench.session.publishes.len(), 3);
    // A filter waits in the same way.
    let mut other = bench.subscribe(&["g"]);
    drop(bench.subscribe_within(&["never asked"], QOS1, Retained::IfFirst, SECOND));
    assert_eq!(bench.sent(), []);
    bench.advance(SECOND);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [subscribed(1, &[("g", QOS1)])]);
    bench.receive(puback(2));
    bench.receive(puback(3));
    let expected = [published("x", QOS1, 2, false), published("x", QOS1, 3, false), published("last", QOS0, 0, false)];
    assert_eq!(bench.sent(), expected);
    bench.receive(puback(2));
    bench.receive(puback(3));
    let times = bench.session.counters.snapshot().ack_times;
    assert_eq!((times.count(), times.mean()), (4, Some(SECOND / 2)), "the wait for an identifier is no part of it");
    bench.grant(1, &[QOS1]);
    assert!(answered(&mut other).is_ok());
}

#[test]
fn a_publish_whose_caller_leaves_before_it_is_sent_is_not_sent() {
    let mut bench = Bench::connected();
    let kept = bench.publish("kept", QOS1);
    drop(bench.publish("dropped", QOS1));
    drop(bench.publish("dropped", QOS0));
    drop(kept);
    let _other = bench.publish("other", QOS1);
    assert_eq!(payloads(&bench.sent()), ["other"]);
    bench.receive(puback(1));
    bench.has_nothing();
}

#[test]
fn callers_that_come_and_go_without_a_connection_do_not_pile_up() {
    let mut bench = Bench::new();
    let mut stays = bench.publish("stays", QOS1);
    for _ in 0..10_000 {
        drop(bench.publish("left", QOS1));
    }
    assert!(bench.session.publishes.len() <= 1024, "{}", bench.session.publishes.len());
    bench.connect(false);
    assert_eq!(bench.sent(), [published("stays", QOS1, 1, false)]);
    bench.receive(puback(1));
    assert_eq!(answered(&mut stays).unwrap(), Delivery::Acknowledged);
    bench.has_nothing();
}

#[test]
fn withdrawing_most_of_the_queue_keeps_the_count() {
    // The sweep comes in the midst of them, at every possible place.
    for withdrawn in 0..12 {
        for kept in 0..6 {
            let mut bench = Bench::connected();
            let mut all: Vec<_> = (0..withdrawn).map(|_| bench.publish_as("w", QOS1, Offline::Fail, LONG)).collect();
            let kept: Vec<_> = (0..kept).map(|_| bench.publish_as("k", QOS1, Offline::Wait, LONG)).collect();
            bench.lose_connection();
            for receiver in &mut all {
                assert_eq!(fails(receiver), (ErrorKind::Offline, Outcome::NotSent));
            }
            assert_eq!(bench.session.publishes.len(), kept.len());
            bench.connect(true);
            assert_eq!(payloads(&bench.sent()), vec!["k"; kept.len()]);
            for id in 1..=kept.len() {
                bench.receive(puback(id as PacketId));
            }
            bench.has_nothing();
        }
    }
}

#[test]
fn expired_entries_behind_a_stalled_front_do_not_fill_the_queue() {
    let mut bench = Bench::with(|options| options.max_in_flight(1).max_queued(10));
    bench.connect(false);
    let _first = bench.publish("first", QOS1);
    bench.sent();
    let _front = bench.publish("front", QOS1);
    for _ in 0..50 {
        let mut passing: Vec<_> = (0..9).map(|_| bench.publish_as("x", QOS1, Offline::Wait, SECOND)).collect();
        bench.advance(SECOND);
        for receiver in &mut passing {
            assert_eq!(fails(receiver), (ErrorKind::Timeout, Outcome::NotSent));
        }
        assert_eq!(bench.session.publishes.len(), 1);
    }
    bench.receive(puback(1));
    assert_eq!(payloads(&bench.sent()), ["front"]);
    bench.receive(puback(1));
    bench.has_nothing();
}

#[test]
fn without_a_connection_each_does_what_its_caller_chose() {
    let mut bench = Bench::new();
    let mut unwilling = bench.publish_as("unwilling", QOS1, Offline::Fail, LONG);
    assert_eq!(fails(&mut unwilling), (ErrorKind::Offline, Outcome::NotSent));
    let mut waits = bench.publish_as("waits", QOS1, Offline::Wait, SECOND);
    let mut queued = bench.publish_as("queued", QOS1, Offline::Queue, SECOND);
    assert_eq!(answered(&mut queued).unwrap(), Delivery::Queued);
    let mut late = bench.publish_as("late", QOS1, Offline::Wait, Duration::ZERO);
    assert_eq!(fails(&mut late), (ErrorKind::Timeout, Outcome::NotSent));
    let (now, payload) = (bench.now, Bytes::from("nobody's"));
    bench.publish_for(None, payload, QOS1, Offline::Wait, Some(now + SECOND));
    bench.advance(SECOND);
    assert_eq!(fails(&mut waits), (ErrorKind::Timeout, Outcome::NotSent));
    bench.connect(false);
    assert_eq!(payloads(&bench.sent()), ["queued"]);
}

#[test]
fn what_waits_when_the_connection_is_lost_does_what_its_caller_chose() {
    let mut bench = Bench::connected();
    let mut unwilling = bench.publish_as("unwilling", QOS1, Offline::Fail, LONG);
    let mut waits = bench.publish_as("waits", QOS1, Offline::Wait, LONG);
    let mut queued = bench.publish_as("queued", QOS1, Offline::Queue, SECOND);
    drop(bench.publish_as("dropped", QOS1, Offline::Queue, SECOND));
    bench.lose_connection();
    assert_eq!(fails(&mut unwilling), (ErrorKind::Offline, Outcome::NotSent));
    assert_eq!(answered(&mut queued).unwrap(), Delivery::Queued);
    assert!(answer(&mut waits).is_none());
    assert_eq!(bench.session.publishes.len(), 2);
    bench.advance(SECOND * 2);
    bench.connect(true);
    assert_eq!(payloads(&bench.sent()), ["waits", "queued"]);
    bench.receive(puback(1));
    bench.receive(puback(2));
    bench.has_nothing();
}

#[test]
fn qos_0_is_sent_with_its_last_byte_and_lost_with_any() {
    let mut bench = Bench::connected();
    let size = 2 + 3 + usize::from(Bench::VERSION == Version::V5) + 1;
    for written in 0..=3 * size {
        let mut answers: Vec<_> = (0..3).map(|_| bench.publish("x", QOS0)).collect();
        bench.transmit();
        let steps = [written / 2, written - written / 2];
        steps.into_iter().for_each(|bytes| drop(bench.write(bytes)));
        bench.lose_connection();
        for (n, receiver) in answers.iter_mut().enumerate() {
            match answered(receiver) {
                Ok(delivery) => assert!(delivery == Delivery::Sent && written >= (n + 1) * size),
                Err(error) if error.outcome() == Outcome::NotSent => assert!(written <= n * size),
                Err(error) => {
                    assert_eq!(error.outcome(), Outcome::Unknown);
                    assert!(written > n * size && written < (n + 1) * size);
                }
            }
        }
        bench.has_nothing();
        bench.connect(true);
        // The count starts anew whatever went before on this connection.
        bench.publish_for(None, "y".into(), QOS0, Offline::Wait, None);
        bench.sent();
        bench.lose_connection();
        bench.connect(true);
    }
}

#[test]
fn positions_are_right_behind_bytes_of_other_kinds() {
    let mut bench = Bench::connected();
    let _feed = bench.subscribe(&["f"]);
    bench.receive_publish("f", "x", QOS1, 9);
    bench.transmit();
    bench.write(3);
    let mut zero = bench.publish("x", QOS0);
    bench.transmit();
    let all = bench.output.len();
    bench.write(all - 1);
    assert!(answer(&mut zero).is_none());
    bench.write(1);
    assert_eq!(answered(&mut zero).unwrap(), Delivery::Sent);
}

#[test]
fn a_burst_gives_its_memory_back() {
    let mut bench = Bench::connected();
    for round in 0..3 {
        let answers: Vec<_> = (0..50_000).map(|n| bench.publish("x", [QOS0, QOS1][n % 2])).collect();
        bench.sent();
        for id in 1..=25_000 {
            bench.receive(puback(id));
        }
        drop(answers);
        bench.has_nothing();
        assert_eq!(bench.session.publishes.len(), 0, "round {round}");
    }
}

#[test]
fn a_refusal_with_a_reason_reaches_the_caller() {
    let mut bench = Bench::connected();
    let mut one = bench.publish("1", QOS1);
    let mut two = bench.publish("2", QOS2);
    bench.sent();
    bench.receive(Inbound::PubAck { id: 1, reason: ReasonCode(0x87).into() });
    bench.receive(Inbound::PubRec { id: 2, reason: ReasonCode(0x97).into() });
    assert_eq!(fails(&mut one), (ErrorKind::PublishRefused, Outcome::Refused));
    assert_eq!(fails(&mut two), (ErrorKind::PublishRefused, Outcome::Refused));
    // There is nothing to release.
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}
