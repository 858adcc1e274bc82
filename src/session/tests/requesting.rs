use super::*;

/// A bench on which the broker holds the reply filter "r", by way of a call that is over.
fn ready() -> Bench {
    let mut bench = Bench::connected();
    let (_, mut first) = bench.request("first", "r");
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("first", 1, false)]);
    bench.receive(puback(1));
    reply(&mut bench, "done");
    assert_eq!(texts(answered(&mut first)), ["done"]);
    bench
}

fn reply(bench: &mut Bench, payload: &str) {
    bench.receive_publish("r", payload, QOS0, 0);
}

fn leave(bench: &mut Bench, id: RequestId) {
    bench.session.handle_notice(Notice::RequestGone(id), bench.now);
}

#[test]
fn the_request_leaves_when_its_reply_filter_is_confirmed() {
    let mut bench = ready();
    assert_eq!(bench.session.counters.snapshot().late_replies, 0);
    // The filter lingers: the second call costs one round trip.
    let (_, mut second) = bench.request("second", "r");
    assert_eq!(bench.sent(), [requested("second", 1, false)]);
    reply(&mut bench, "2");
    assert_eq!(texts(answered(&mut second)), ["2"]);
}

#[test]
fn calls_with_one_reply_filter_take_turns_and_those_with_others_do_not_wait() {
    let mut bench = ready();
    let (_, mut first) = bench.request("1", "r");
    let (_, mut second) = bench.request("2", "r");
    let (gone, third) = bench.request("3", "r");
    let (_, mut fourth) = bench.request("4", "r");
    let (_, _other) = bench.request("other", "else");
    assert_eq!(bench.sent(), [subscribed(1, &[("else", QOS1)]), requested("1", 2, false)]);
    drop(third);
    leave(&mut bench, gone);
    reply(&mut bench, "a");
    assert_eq!(texts(answered(&mut first)), ["a"]);
    assert_eq!(bench.sent(), [requested("2", 3, false)]);
    reply(&mut bench, "b");
    assert_eq!(texts(answered(&mut second)), ["b"]);
    assert_eq!(bench.sent(), [requested("4", 4, false)]);
    reply(&mut bench, "d");
    assert_eq!(texts(answered(&mut fourth)), ["d"]);
}

#[test]
fn what_comes_before_the_request_is_sent_is_not_its_reply() {
    let mut bench = ready();
    let (_, mut call) = bench.request("x", "r");
    reply(&mut bench, "late");
    assert_eq!(bench.session.counters.snapshot().late_replies, 1);
    bench.sent();
    let (topic, payload) = (Topic::new("r").unwrap(), Bytes::from("retained"));
    bench.receive(Inbound::Publish(Incoming { retain: true, ..plain(topic, payload, QOS0, 0) }));
    assert!(answer(&mut call).is_none());
    reply(&mut bench, "reply");
    assert_eq!(texts(answered(&mut call)), ["reply"]);
}

#[test]
fn several_replies_are_collected_and_those_that_came_are_in_the_error() {
    let mut bench = ready();
    let (_, mut two) = bench.request_as("x", "r", 2, Offline::Wait, LONG);
    bench.sent();
    reply(&mut bench, "a");
    assert!(answer(&mut two).is_none());
    reply(&mut bench, "b");
    assert_eq!(texts(answered(&mut two)), ["a", "b"]);

    let (_, mut late) = bench.request_as("y", "r", 2, Offline::Wait, SECOND);
    bench.sent();
    reply(&mut bench, "a");
    bench.advance(SECOND);
    let error = answered(&mut late).unwrap_err();
    assert_eq!((error.kind(), error.outcome(), error.messages().len()), (ErrorKind::Timeout, Outcome::Unknown, 1));
}

#[test]
fn a_caller_that_leaves_frees_its_turn_at_every_stage() {
    // Before the filter is asked, before it is granted, before it is sent, before its reply.
    for stage in 0..4 {
        let mut bench = Bench::connected();
        let (id, call) = bench.request("gone", "r");
        let (_, mut next) = bench.request("next", "r");
        if stage > 0 {
            bench.sent();
        }
        if stage > 1 {
            bench.grant(1, &[QOS1]);
        }
        if stage > 2 {
            assert_eq!(bench.sent(), [requested("gone", 1, false)]);
        }
        drop(call);
        leave(&mut bench, id);
        leave(&mut bench, id);
        let mut sent = bench.sent();
        if stage < 2 {
            bench.grant(1, &[QOS1]);
            sent = bench.sent();
        }
        let id = if stage > 2 { 2 } else { 1 };
        assert_eq!(sent, [requested("next", id, false)], "stage {stage}");
        reply(&mut bench, "x");
        assert!(answered(&mut next).is_ok());
        bench.receive(puback(1));
        bench.receive(puback(2));
        bench.advance(SECOND * 30);
        bench.sent();
        bench.receive(unsuback(1));
        bench.receive(unsuback(2));
        bench.has_nothing();
    }
}

#[test]
fn the_filter_lingers_after_the_last_call_and_no_longer() {
    let mut bench = ready();
    bench.advance(SECOND * 20);
    let (_, mut call) = bench.request("x", "r");
    bench.sent();
    bench.advance(SECOND * 40);
    assert_eq!(bench.sent(), [], "it is in use");
    reply(&mut bench, "x");
    assert!(answered(&mut call).is_ok());
    bench.advance(SECOND * 29);
    assert_eq!(bench.sent(), []);
    bench.advance(SECOND);
    assert_eq!(bench.sent(), [unsubscribed(2, &["r"])]);
    bench.receive(puback(1));
    bench.receive(unsuback(2));
    bench.has_nothing();
}

#[test]
fn a_call_that_ends_unsent_without_a_connection_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let mut calls: Vec<_> =
        (0..9).map(|n| bench.request_as("x", &format!("r/{n}"), 1, Offline::Wait, SECOND).1).collect();
    bench.advance(SECOND);
    for call in &mut calls {
        assert_eq!(fails(call), (ErrorKind::Timeout, Outcome::NotSent));
    }
    bench.advance(SECOND * 30);
    bench.connect(false);
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn a_refused_reply_filter_fails_all_its_calls_unsent_and_the_next_asks_again() {
    let mut bench = Bench::connected();
    let (_, mut first) = bench.request("1", "r");
    let (_, mut second) = bench.request("2", "r");
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![refused()] });
    assert_eq!(fails(&mut first), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    assert_eq!(fails(&mut second), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    bench.has_nothing();
    let _third = bench.request("3", "r");
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)])]);
}

#[test]
fn a_filter_refused_after_a_reconnect_fails_the_call_that_waits_for_its_reply() {
    let mut bench = ready();
    let (_, mut call) = bench.request("x", "r");
    let (_, mut waiting) = bench.request("y", "r");
    bench.sent();
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)])]);
    bench.receive(Inbound::SubAck { id: 1, granted: vec![refused()] });
    assert_eq!(fails(&mut call), (ErrorKind::SubscribeRefused, Outcome::Unknown));
    assert_eq!(fails(&mut waiting), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn a_request_that_the_broker_refuses_fails_at_once_and_gives_its_turn_on() {
    let mut bench = ready();
    let (_, mut refused) = bench.request("refused", "r");
    let (_, mut next) = bench.request("next", "r");
    assert_eq!(bench.sent(), [requested("refused", 1, false)]);
    bench.receive(Inbound::PubAck { id: 1, reason: ReasonCode(0x87).into() });
    assert_eq!(fails(&mut refused), (ErrorKind::PublishRefused, Outcome::Refused));
    assert_eq!(bench.sent(), [requested("next", 1, false)]);
    reply(&mut bench, "done");
    assert_eq!(texts(answered(&mut next)), ["done"]);
}

#[test]
fn a_reply_survives_a_reconnect() {
    for session_present in [true, false] {
        let mut bench = ready();
        let (_, mut call) = bench.request("x", "r");
        bench.sent();
        if session_present {
            bench.receive(puback(1));
        }
        bench.lose_connection();
        bench.connect(session_present);
        if !session_present {
            assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)])]);
            bench.grant(1, &[QOS1]);
            assert_eq!(bench.sent(), [requested("x", 1, false)]);
        }
        reply(&mut bench, "reply");
        assert_eq!(texts(answered(&mut call)), ["reply"]);
    }
}

#[test]
fn a_lost_session_makes_what_was_about_to_leave_wait_for_its_filter_again() {
    let mut bench = ready();
    let (_, mut call) = bench.request("x", "r");
    let (_, mut next) = bench.request("y", "r");
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("x", 1, false)]);
    reply(&mut bench, "1");
    assert!(answered(&mut call).is_ok());
    assert_eq!(bench.sent(), [requested("y", 2, false)]);
    reply(&mut bench, "2");
    assert!(answered(&mut next).is_ok());
}

#[test]
fn a_request_that_is_over_is_not_repeated() {
    let mut bench = ready();
    let (id, call) = bench.request("x", "r");
    let (_, _next) = bench.request("y", "r");
    bench.sent();
    drop(call);
    leave(&mut bench, id);
    bench.lose_connection();
    bench.connect(true);
    assert_eq!(bench.sent(), [requested("y", 1, false)], "its reply would be taken for the next one's");
}

#[test]
fn a_lost_connection_fails_the_unsent_calls_of_those_who_would_not_wait() {
    let mut bench = ready();
    let (_, mut sent) = bench.request_as("1", "r", 1, Offline::Fail, LONG);
    let (_, mut unsent) = bench.request_as("2", "r", 1, Offline::Fail, LONG);
    let (_, mut waits) = bench.request_as("3", "r", 1, Offline::Wait, LONG);
    bench.sent();
    bench.lose_connection();
    assert_eq!(fails(&mut unsent), (ErrorKind::Offline, Outcome::NotSent));
    assert!(answer(&mut sent).is_none() && answer(&mut waits).is_none());
    let (_, mut refused) = bench.request_as("4", "r", 1, Offline::Fail, LONG);
    assert_eq!(fails(&mut refused), (ErrorKind::Offline, Outcome::NotSent));
    let (_, mut late) = bench.request_as("5", "r", 1, Offline::Wait, Duration::ZERO);
    assert_eq!(fails(&mut late), (ErrorKind::Timeout, Outcome::NotSent));
}

#[test]
fn a_call_that_is_queued_again_and_expires_leaves_the_queue_counted_right() {
    let mut bench = ready();
    let (_, mut call) = bench.request_as("x", "r", 1, Offline::Wait, SECOND);
    bench.sent();
    bench.lose_connection();
    bench.connect(false);
    bench.sent();
    bench.grant(1, &[QOS1]);
    bench.advance(Duration::from_millis(999));
    bench.lose_connection();
    bench.connect(false);
    bench.advance(Duration::from_millis(1));
    assert_eq!(fails(&mut call), (ErrorKind::Timeout, Outcome::Unknown));
    bench.sent();
    assert_eq!(bench.session.publishes.len(), 0);
}

#[test]
fn a_qos_0_request_that_was_not_written_fails_with_its_connection_and_the_next_has_its_turn() {
    let mut bench = Bench::connected();
    let at_qos_0 = |request: Request| Request { publish: Some(wire_publish("q", "x".into(), QOS0)), ..request };
    let (_, mut first) = bench.request_with("x", "r", at_qos_0);
    bench.grant_all();
    let (_, mut second) = bench.request("y", "r");
    assert_eq!(bench.transmit().len(), 1);
    bench.lose_connection();
    assert_eq!(fails(&mut first), (ErrorKind::Connection, Outcome::NotSent));
    bench.connect(true);
    assert_eq!(bench.sent(), [requested("y", 1, false)]);
    bench.receive_publish("r", "reply", QOS0, 0);
    assert_eq!(texts(answered(&mut second)), ["reply"]);
}
