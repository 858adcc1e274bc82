//! Acknowledgements that wait until a message is taken.

use super::*;
use crate::ErrorKind;

/// A session that holds this many messages, on a connection.
fn holding(capacity: usize) -> Bench {
    let mut bench = Bench::with(|options| options.holding(capacity));
    bench.connect(false);
    bench
}

/// A stream on "t", established.
fn feed(bench: &mut Bench) -> Feed {
    let mut feed = bench.subscribe_as(&["t"], QOS2, Retained::IfFirst);
    let id = asked(bench);
    bench.grant(id, &[QOS2]);
    answered(&mut feed).unwrap()
}

/// The identifier of the SUBSCRIBE or UNSUBSCRIBE that goes out now; a session that is kept begins at any.
fn asked(bench: &mut Bench) -> PacketId {
    match bench.sent()[..] {
        [Sent::Subscribe(id, _) | Sent::Unsubscribe(id, _), ..] => id,
        ref other => panic!("{other:?}"),
    }
}

/// The next message, not acknowledged.
fn next(feed: &mut Feed) -> Message {
    feed.events.try_recv().unwrap().unwrap()
}

fn take(feed: &mut Feed) -> String {
    let mut message = next(feed);
    message.take();
    message.text().unwrap().to_owned()
}

fn is_empty(feed: &mut Feed) -> bool {
    feed.events.try_recv().is_err()
}

#[test]
fn a_message_is_acknowledged_when_it_is_taken_and_not_before() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "0", QOS0, 0);
    bench.receive_publish("t", "1", QOS1, 5);
    bench.receive_publish("t", "2", QOS2, 6);
    assert_eq!(bench.sent(), []);
    assert_eq!([take(&mut feed), take(&mut feed)], ["0", "1"]);
    assert_eq!(bench.sent(), [Sent::PubAck(5)]);
    assert_eq!(take(&mut feed), "2");
    assert_eq!(bench.sent(), [Sent::PubRec(6)]);
    bench.receive(Inbound::PubRel(6));
    assert_eq!(bench.sent(), [Sent::PubComp(6)]);
    bench.session.receiving.assert_empty();
}

#[test]
fn acknowledgements_go_out_in_the_order_of_arrival_whatever_the_order_in_which_they_are_given() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    for (id, qos) in [(5, QOS1), (6, QOS2), (7, QOS1), (8, QOS2)] {
        bench.receive_publish("t", "x", qos, id);
    }
    let messages = [next(&mut feed), next(&mut feed), next(&mut feed), next(&mut feed)];
    messages[3].ack();
    messages[1].ack();
    messages[1].clone().ack();
    assert_eq!(bench.sent(), []);
    messages[0].ack();
    assert_eq!(bench.sent(), [Sent::PubAck(5), Sent::PubRec(6)]);
    messages[2].ack();
    assert_eq!(bench.sent(), [Sent::PubAck(7), Sent::PubRec(8)]);
    drop(messages);
    assert_eq!(bench.sent(), []);
}

#[test]
fn nothing_is_read_while_the_stream_is_full() {
    for qos in [QOS0, QOS1, QOS2] {
        let mut bench = holding(3);
        let mut feed = feed(&mut bench);
        let mut id = 0;
        for _ in 0..4 {
            while bench.session.wants_read() {
                id += 1;
                bench.receive_publish("t", &id.to_string(), qos, if qos == QOS0 { 0 } else { id });
            }
            assert_eq!(bench.session.receiving.held(), 3);
            take(&mut feed);
            take(&mut feed);
            bench.take_notices();
        }
        let rest: Vec<_> = std::iter::from_fn(|| feed.events.try_recv().ok()).collect();
        assert_eq!((id, rest.len()), (9, 1), "nothing was lost");
    }
}

#[test]
fn what_is_acknowledged_behind_one_that_is_not_counts_as_held() {
    let mut bench = holding(3);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "stuck", QOS1, 1);
    let _stuck = next(&mut feed);
    for id in 2..4 {
        assert!(bench.session.wants_read());
        bench.receive_publish("t", "x", QOS1, id);
        take(&mut feed);
        bench.take_notices();
    }
    assert!(!bench.session.wants_read());
}

#[test]
fn the_slowest_clone_decides_and_one_that_is_dropped_does_not() {
    let mut bench = holding(8);
    let mut first = feed(&mut bench);
    let mut second = first.channel.upgrade().unwrap().subscribe();
    bench.receive_publish("t", "1", QOS1, 1);
    bench.receive_publish("t", "2", QOS1, 2);
    take(&mut first);
    assert_eq!(bench.sent(), []);
    second.try_recv().unwrap().unwrap().take();
    assert_eq!(bench.sent(), [Sent::PubAck(1)]);
    take(&mut first);
    drop(second);
    assert_eq!(bench.sent(), [Sent::PubAck(2)]);
    bench.receive_publish("t", "3", QOS1, 3);
    let third = first.channel.upgrade().unwrap().subscribe();
    drop((first, third));
    assert_eq!(bench.sent(), [unsubscribed(1, &["t"])], "nobody took the last");
}

#[test]
fn an_acknowledgement_from_before_a_reconnect_is_for_nothing() {
    for session_present in [true, false] {
        let mut bench = holding(8);
        let mut feed = feed(&mut bench);
        bench.receive_publish("t", "old", QOS1, 1);
        let old = next(&mut feed);
        bench.lose_connection();
        bench.connect(session_present);
        bench.sent();
        // The same identifier, for the same message again or for another.
        bench.receive_publish("t", "new", QOS1, 1);
        old.ack();
        drop(old);
        assert_eq!(bench.sent(), []);
        assert_eq!(take(&mut feed), "new");
        assert_eq!(bench.sent(), [Sent::PubAck(1)]);
    }
}

#[test]
fn a_qos_2_message_that_comes_again_after_a_reconnect_is_delivered_once_and_acknowledged_for_its_first_delivery() {
    for is_late in [false, true] {
        let mut bench = holding(8);
        let mut feed = feed(&mut bench);
        bench.receive_publish("t", "x", QOS2, 1);
        let message = next(&mut feed);
        bench.lose_connection();
        if !is_late {
            message.ack();
        }
        bench.connect(true);
        assert_eq!(bench.sent(), []);
        bench.receive_publish("t", "y", QOS1, 2);
        bench.receive_publish("t", "x", QOS2, 1);
        if is_late {
            assert_eq!(take(&mut feed), "y");
            assert_eq!(bench.sent(), [Sent::PubAck(2)]);
            message.ack();
            assert_eq!(bench.sent(), [Sent::PubRec(1)]);
        } else {
            assert_eq!(bench.sent(), [], "in the order in which they came on this connection");
            assert_eq!(take(&mut feed), "y");
            assert_eq!(bench.sent(), [Sent::PubAck(2), Sent::PubRec(1)]);
        }
        // Its PUBREC may have been lost.
        bench.lose_connection();
        bench.connect(true);
        bench.receive_publish("t", "x", QOS2, 1);
        assert_eq!(bench.sent(), [Sent::PubRec(1)]);
        bench.receive(Inbound::PubRel(1));
        assert_eq!(bench.sent(), [Sent::PubComp(1)]);
        assert!(is_empty(&mut feed));
        bench.session.receiving.assert_empty();
    }
}

#[test]
fn a_message_that_is_dropped_unacknowledged_keeps_back_the_others_and_comes_again() {
    for qos in [QOS1, QOS2] {
        for is_late in [false, true] {
            let mut bench = holding(8);
            let mut feed = feed(&mut bench);
            bench.receive_publish("t", "dropped", qos, 1);
            bench.receive_publish("t", "next", QOS1, 2);
            let dropped = next(&mut feed);
            next(&mut feed).ack();
            if is_late {
                bench.lose_connection();
                drop(dropped);
                bench.take_notices();
            } else {
                drop(dropped);
                assert_eq!(bench.sent(), []);
                bench.lose_connection();
            }
            bench.connect(true);
            bench.receive_publish("t", "dropped", qos, 1);
            assert_eq!(take(&mut feed), "dropped");
            assert_eq!(bench.sent(), [if qos == QOS1 { Sent::PubAck(1) } else { Sent::PubRec(1) }]);
        }
    }
}

#[test]
fn a_session_that_is_lost_forgets_what_it_was_owed() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "old", QOS2, 1);
    let old = next(&mut feed);
    bench.lose_connection();
    bench.connect(false);
    bench.sent();
    bench.receive_publish("t", "new", QOS2, 1);
    old.ack();
    assert_eq!(bench.sent(), []);
    assert_eq!(take(&mut feed), "new");
    assert_eq!(bench.sent(), [Sent::PubRec(1)]);
}

#[test]
fn what_was_not_taken_before_a_reconnect_and_what_comes_after_it_are_bounded_together() {
    let mut bench = holding(4);
    let mut feed = feed(&mut bench);
    for id in 1..4 {
        bench.receive_publish("t", "x", QOS1, id);
    }
    bench.lose_connection();
    bench.connect(true);
    assert!(bench.session.wants_read());
    bench.receive_publish("t", "x", QOS1, 1);
    assert!(!bench.session.wants_read());
    for _ in 0..4 {
        take(&mut feed);
    }
    bench.sent();
    assert!(bench.session.wants_read());
}

#[test]
fn a_message_that_nobody_wants_or_that_is_too_large_keeps_nobody_back() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "x", QOS1, 1);
    bench.receive_publish("else", "x", QOS2, 2);
    bench.receive(Inbound::Oversized { qos: QOS1, id: 3, size: 1 << 24 });
    assert_eq!(bench.sent(), []);
    take(&mut feed);
    assert_eq!(bench.sent(), [Sent::PubAck(1), Sent::PubRec(2), Sent::PubAck(3)]);
    assert_eq!(bench.session.receiving.held(), 0);
}

#[test]
fn a_subscriber_that_is_full_before_its_suback_is_handed_its_stream() {
    let mut bench = Bench::with(|options| options.holding(2).client_id("c").clean_session(false));
    let mut feed = bench.subscribe(&["t"]);
    bench.connect(true);
    let id = asked(&mut bench);
    bench.receive_publish("t", "1", QOS1, 1);
    assert!(answer(&mut feed).is_none());
    bench.receive_publish("t", "2", QOS1, 2);
    let mut feed = answered(&mut feed).unwrap();
    assert!(feed.granted.is_empty() && !bench.session.wants_read());
    take(&mut feed);
    bench.sent();
    assert!(bench.session.wants_read());
    bench.receive(Inbound::SubAck { id, granted: vec![refused()] });
    take(&mut feed);
    assert_eq!(feed.events.try_recv().unwrap().unwrap_err().kind(), ErrorKind::SubscribeRefused);
}

#[test]
fn refusals_push_no_message_out() {
    let mut bench = holding(4);
    let mut feed = feed(&mut bench);
    for round in 0..20 {
        // What joins no stream makes no place in one.
        bench.receive_publish("nobody's", "x", QOS1, 8);
        bench.receive(Inbound::Oversized { qos: QOS1, id: 9, size: 1 });
        bench.take_notices();
        if bench.session.wants_read() {
            bench.receive_publish("t", &round.to_string(), QOS1, 7);
        }
        bench.lose_connection();
        bench.connect(false);
        let id = asked(&mut bench);
        bench.receive(Inbound::SubAck { id, granted: vec![refused()] });
    }
    let items: Vec<_> = std::iter::from_fn(|| feed.events.try_recv().ok()).collect();
    let texts: Vec<_> = items.iter().flatten().map(|message| message.text().unwrap()).collect();
    assert_eq!(texts, ["0", "1", "2", "3"]);
    assert_eq!(items.len(), 5);
}

#[test]
fn an_end_waits_for_those_who_work_and_takes_nothing_new() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS1, 1);
    let message = next(&mut feed);
    let mut end = bench.close(Some(SECOND));
    bench.receive_publish("t", "2", QOS1, 2);
    assert_eq!(bench.sent(), []);
    message.ack();
    assert_eq!(bench.sent(), [Sent::PubAck(1), Sent::Disconnect]);
    assert!(bench.session.is_finished(bench.now) && is_empty(&mut feed));
    let (replies, unfinished) = bench.session.finish();
    replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
    assert!(answered(&mut end).unwrap().is_empty());
}

#[test]
fn an_end_reports_what_was_not_acknowledged_in_time() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS1, 1);
    let _message = next(&mut feed);
    let _end = bench.close(Some(SECOND));
    bench.advance(SECOND);
    assert_eq!(bench.session.finish().1, Unfinished { publishes: 0, requests: 0, unacknowledged: 1 });
}

#[test]
fn a_subscription_that_is_given_up_full_is_unsubscribed_and_its_messages_stay_with_the_broker() {
    let mut bench = holding(1);
    let feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS1, 1);
    let mut gone = feed.guard.unsubscribe();
    assert_eq!(bench.sent(), [unsubscribed(1, &["t"])]);
    assert!(bench.session.wants_read());
    bench.receive_publish("t", "2", QOS1, 2);
    bench.receive(unsuback(1));
    assert!(answered(&mut gone).is_ok());
    drop(feed);
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_session_that_the_broker_keeps_is_not_left_with_filters_that_nobody_wants() {
    let kept = || {
        let mut bench =
            Bench::with(|options| options.holding(8).client_id("c").clean_session(false));
        bench.connect(false);
        bench
    };
    // Without a connection it waits for one.
    let mut bench = kept();
    drop(feed(&mut bench));
    bench.lose_connection();
    bench.take_notices();
    bench.session.handle_abandoned(bench.now + LONG);
    assert!(!bench.session.is_finished(bench.now));
    bench.connect(true);
    assert!(matches!(bench.sent()[..], [Sent::Unsubscribe(..), Sent::Disconnect]));
    // A caller that left before its SUBACK says nothing.
    let mut bench = kept();
    drop(bench.subscribe(&["t"]));
    let id = asked(&mut bench);
    bench.session.handle_abandoned(bench.now + LONG);
    assert_eq!(bench.sent(), []);
    bench.grant(id, &[QOS1]);
    assert!(matches!(bench.sent()[..], [Sent::Unsubscribe(..), Sent::Disconnect]));
}

#[test]
fn a_broker_that_is_not_read_from_is_pinged_and_believed_to_be_there() {
    let mut bench = Bench::with(|options| options.holding(1).keep_alive(10 * SECOND));
    bench.connect(false);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS1, 1);
    for _ in 0..5 {
        bench.advance(10 * SECOND);
        assert_eq!(bench.write(usize::MAX), [Sent::PingReq]);
    }
    take(&mut feed);
    assert_eq!(bench.sent(), [Sent::PubAck(1)]);
    bench.session.handle_timeout(bench.now).unwrap();
    assert!(bench.try_advance(20 * SECOND).is_err(), "read from again, it has to answer");
}

#[test]
fn a_repetition_after_the_pubrec_is_not_answered_once_the_broker_has_released_the_message() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS2, 1);
    bench.receive_publish("t", "2", QOS1, 2);
    take(&mut feed);
    assert_eq!(bench.sent(), [Sent::PubRec(1)]);
    bench.receive_publish("t", "1", QOS2, 1);
    bench.receive(Inbound::PubRel(1));
    assert_eq!(bench.sent(), [Sent::PubComp(1)]);
    assert_eq!(take(&mut feed), "2");
    assert_eq!(bench.sent(), [Sent::PubAck(2)], "a PUBREC would be taken for that of another message");
}

#[test]
fn a_broker_that_releases_what_it_has_no_pubrec_of_is_owed_none_and_leaves_nothing_behind() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    for _ in 0..2 {
        bench.receive_publish("t", "x", QOS2, 1);
        bench.receive(Inbound::PubRel(1));
    }
    bench.receive_publish("t", "y", QOS1, 2);
    assert_eq!(bench.sent(), [Sent::PubComp(1), Sent::PubComp(1)]);
    assert_eq!([take(&mut feed), take(&mut feed), take(&mut feed)], ["x", "x", "y"]);
    assert_eq!(bench.sent(), [Sent::PubAck(2)]);
    bench.session.receiving.assert_empty();
}

#[test]
fn what_a_message_kept_back_is_acknowledged_when_the_broker_releases_that_message() {
    let mut bench = holding(8);
    let mut feed = feed(&mut bench);
    bench.receive_publish("t", "1", QOS2, 1);
    bench.receive_publish("t", "2", QOS1, 2);
    let first = next(&mut feed);
    next(&mut feed).ack();
    assert_eq!(bench.sent(), []);
    bench.receive(Inbound::PubRel(1));
    assert_eq!(bench.sent(), [Sent::PubAck(2), Sent::PubComp(1)]);
    drop(first);
}
