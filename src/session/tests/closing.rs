use super::*;
use crate::Outcome;

fn finish(bench: &mut Bench) -> Unfinished {
    let (replies, unfinished) = bench.session.finish();
    replies.into_iter().for_each(|reply| reply.send(Ok(unfinished)));
    unfinished
}

#[test]
fn a_drain_finishes_what_was_accepted_and_then_says_goodbye() {
    let mut bench = Bench::connected();
    let mut one = bench.publish("1", QOS1);
    let mut drained = bench.close(Some(SECOND * 5));
    let mut refused = bench.publish("2", QOS1);
    assert!(answered(&mut refused).unwrap_err().is_closed());
    assert_eq!(bench.sent(), [published("1", QOS1, 1, false)]);
    assert!(!bench.session.is_finished(bench.now));
    bench.receive(puback(1));
    assert!(answered(&mut one).is_ok());
    bench.transmit();
    assert!(!bench.session.is_finished(bench.now), "the goodbye is not written");
    assert_eq!(bench.sent(), [Sent::Disconnect]);
    assert!(bench.session.is_finished(bench.now));
    assert!(finish(&mut bench).is_empty());
    assert!(answered(&mut drained).unwrap().is_empty());
}

#[test]
fn a_drain_waits_for_requests_and_qos_0_too() {
    let mut bench = Bench::connected();
    let (_, mut call) = bench.request("x", "r");
    let mut zero = bench.publish("0", QOS0);
    let _drained = bench.close(Some(SECOND * 5));
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)]), published("0", QOS0, 0, false)]);
    assert!(answered(&mut zero).is_ok());
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("x", 1, false)]);
    bench.receive_publish("r", "y", QOS0, 0);
    assert!(answered(&mut call).is_ok());
    assert_eq!(bench.sent(), []);
    bench.receive(puback(1));
    assert_eq!(bench.sent(), [Sent::Disconnect]);
}

#[test]
fn a_drain_that_runs_out_of_time_reports_what_is_left() {
    let mut bench = Bench::with(|options| options.max_in_flight(1));
    bench.connect(false);
    let mut sent = bench.publish("sent", QOS1);
    let mut unsent = bench.publish("unsent", QOS1);
    bench.publish_for(None, "handed over".into(), QOS1, Offline::Wait, None);
    let (_, mut call) = bench.request("x", "r");
    let _drained = bench.close(Some(SECOND));
    assert_eq!(bench.sent().len(), 2);
    bench.advance(SECOND);
    assert_eq!(bench.sent(), [Sent::Disconnect]);
    assert!(bench.session.is_finished(bench.now));
    assert_eq!(finish(&mut bench), Unfinished { publishes: 3, requests: 1, unacknowledged: 0 });
    assert_eq!(answered(&mut sent).unwrap_err().outcome(), Outcome::Unknown);
    assert_eq!(answered(&mut unsent).unwrap_err().outcome(), Outcome::NotSent);
    assert_eq!(answered(&mut call).unwrap_err().outcome(), Outcome::NotSent);
}

#[test]
fn nothing_follows_a_disconnect() {
    let mut bench = Bench::with(|options| options.max_in_flight(1));
    bench.connect(false);
    let _all: Vec<_> = (0..3).map(|_| bench.publish("x", QOS1)).collect();
    bench.sent();
    let _closed = bench.close(None);
    assert_eq!(bench.transmit(), [Sent::Disconnect]);
    bench.receive(puback(1));
    bench.receive_publish("t", "x", QOS1, 1);
    let _again = bench.close(None);
    assert_eq!(bench.transmit(), []);
}

#[test]
fn closing_does_not_send_the_queue_first() {
    let mut bench = Bench::connected();
    let mut zero = bench.publish("x", QOS0);
    let _closed = bench.close(None);
    assert_eq!(bench.sent(), [Sent::Disconnect]);
    assert_eq!(finish(&mut bench).publishes, 1);
    assert_eq!(answered(&mut zero).unwrap_err().outcome(), Outcome::NotSent);
}

#[test]
fn a_peer_that_takes_no_byte_cannot_hold_up_the_end() {
    let mut bench = Bench::connected();
    let large = "x".repeat(WRITE_AHEAD);
    let _all: Vec<_> = (0..3).map(|_| bench.publish(&large, QOS0)).collect();
    bench.transmit();
    let _drained = bench.close(Some(SECOND));
    bench.transmit();
    // Asserts also that the deadline is not asked for twice.
    bench.advance(SECOND);
    assert_eq!(bench.unwritten.back().map(|(packet, _)| packet), Some(&Sent::Disconnect));
    bench.advance(SECOND);
    assert!(bench.session.is_finished(bench.now));
}

#[test]
fn without_a_connection_a_drain_waits_for_one_within_its_time() {
    let mut bench = Bench::new();
    let mut one = bench.publish("1", QOS1);
    let _drained = bench.close(Some(SECOND * 2));
    assert!(!bench.session.is_finished(bench.now));
    bench.advance(SECOND);
    bench.connect(false);
    assert_eq!(bench.sent(), [published("1", QOS1, 1, false)]);
    bench.lose_connection();
    assert!(!bench.session.is_finished(bench.now));
    bench.advance(SECOND);
    assert!(bench.session.is_finished(bench.now));
    assert_eq!(finish(&mut bench).publishes, 1);
    assert_eq!(answered(&mut one).unwrap_err().outcome(), Outcome::Unknown);
}

#[test]
fn without_a_connection_and_without_work_there_is_nothing_to_wait_for() {
    let mut bench = Bench::new();
    let _drained = bench.close(Some(LONG));
    assert!(bench.session.is_finished(bench.now));
}

#[test]
fn the_most_impatient_of_several_callers_decides_and_all_are_answered() {
    let mut bench = Bench::connected();
    let _one = bench.publish("1", QOS1);
    bench.sent();
    bench.session.handle_abandoned(bench.now + LONG);
    let mut first = bench.close(Some(SECOND * 5));
    let mut second = bench.close(Some(SECOND * 9));
    assert_eq!(bench.session.poll_timeout(), Some(bench.now + SECOND * 5));
    let mut third = bench.close(None);
    assert_eq!(bench.sent(), [Sent::Disconnect]);
    finish(&mut bench);
    assert!([&mut first, &mut second, &mut third].into_iter().all(|each| answered(each).unwrap().publishes == 1));
}

#[test]
fn when_the_last_handle_is_gone_what_was_accepted_is_still_sent() {
    let mut bench = Bench::connected();
    bench.publish_for(None, "1".into(), QOS1, Offline::Wait, None);
    bench.session.handle_abandoned(bench.now + SECOND);
    assert_eq!(bench.sent(), [published("1", QOS1, 1, false)]);
    bench.receive(puback(1));
    assert_eq!(bench.sent(), [Sent::Disconnect]);
    assert!(bench.session.is_finished(bench.now));
}

#[test]
fn a_session_that_is_dropped_tells_what_became_of_a_message() {
    let mut bench = Bench::connected();
    let mut sent = bench.publish("1", QOS1);
    bench.sent();
    let mut unsent = bench.publish("2", QOS1);
    drop(bench);
    for (publish, outcome) in [(&mut sent, Outcome::Unknown), (&mut unsent, Outcome::NotSent)] {
        assert_eq!(fails(publish), (ErrorKind::Closed, outcome));
    }
}

#[test]
fn the_end_answers_everyone() {
    let mut bench = Bench::connected();
    let mut publish = bench.publish("1", QOS1);
    let mut pending = bench.subscribe(&["f"]);
    let (_, mut call) = bench.request("x", "r");
    bench.sent();
    finish(&mut bench);
    assert!(answered(&mut publish).unwrap_err().is_closed());
    assert!(answered(&mut pending).unwrap_err().is_closed());
    assert!(answered(&mut call).unwrap_err().is_closed());
}
