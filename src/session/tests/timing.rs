use super::*;

fn keeping(interval: Duration) -> Bench {
    let mut bench = Bench::with(|options| options.keep_alive(interval));
    bench.connect(false);
    bench
}

#[test]
fn an_idle_connection_is_pinged_and_a_silent_one_given_up() {
    let mut bench = keeping(SECOND * 10);
    for _ in 0..5 {
        bench.advance(SECOND * 10);
        assert_eq!(bench.write(usize::MAX), [Sent::PingReq]);
        bench.receive(Inbound::PingResp);
    }
    bench.advance(SECOND * 10);
    assert_eq!(bench.write(usize::MAX), [Sent::PingReq]);
    bench.advance(SECOND * 4);
    assert!(bench.try_advance(SECOND).is_err());
    bench.lose_connection();
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn a_ping_finds_its_way_past_a_queue_that_never_ends() {
    let mut bench = keeping(SECOND * 10);
    let large = "x".repeat(WRITE_AHEAD);
    for second in 0..60 {
        for _ in 0..4 {
            bench.publish_for(None, large.clone().into(), QOS0, Offline::Wait, None);
        }
        bench.transmit();
        for packet in bench.write(2 * WRITE_AHEAD) {
            if packet == Sent::PingReq {
                bench.receive(Inbound::PingResp);
            }
        }
        assert!(bench.try_advance(SECOND).is_ok(), "given up after {second} s of steady writing");
    }
}

#[test]
fn a_connection_that_takes_no_byte_is_given_up_and_one_that_takes_some_is_not() {
    let mut bench = Bench::connected();
    bench.publish_for(None, "x".repeat(100).into(), QOS0, Offline::Wait, None);
    bench.transmit();
    for _ in 0..5 {
        bench.advance(SECOND * 19);
        bench.write(1);
    }
    bench.advance(SECOND * 19);
    assert!(bench.try_advance(SECOND).is_err());
    bench.lose_connection();
    bench.connect(true);
    bench.publish_for(None, "x".into(), QOS0, Offline::Wait, None);
    bench.sent();
    assert_eq!(bench.session.poll_timeout(), None, "all is written");
    bench.advance(LONG);
}

#[test]
fn deadlines_of_what_is_over_ask_for_nothing_twice() {
    let mut bench = Bench::with(|options| options.write_timeout(LONG));
    bench.connect(false);
    for n in 0..200 {
        let timeout = SECOND + Duration::from_millis(n);
        let _publish = bench.publish_as("x", QOS1, Offline::Wait, timeout);
        let _call = bench.request_as("x", &format!("r/{}", n % 7), 1, Offline::Wait, timeout);
        let _feed = bench.subscribe_within(&["f"], QOS1, Retained::Include, timeout);
    }
    // The bench asserts at each stop that the next is later.
    bench.advance(SECOND * 2);
    bench.advance(SECOND * 60);
    bench.sent();
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn input_that_makes_something_due_needs_no_timer() {
    let mut bench = Bench::with(|options| options.max_in_flight(1));
    bench.connect(false);
    let (_, _call) = bench.request("x", "r");
    let _next = bench.publish("y", QOS1);
    assert_eq!(bench.sent(), [subscribed(1, &[("r", QOS1)]), published("y", QOS1, 2, false)]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), []);
    bench.receive(puback(2));
    assert_eq!(bench.sent(), [requested("x", 1, false)]);
}

#[test]
fn round_trips_count_from_the_first_sending_on() {
    let mut bench = Bench::with(|options| options.max_in_flight(1));
    let _waiting = bench.publish("x", QOS1);
    // Waiting for a connection is not part of it.
    bench.advance(SECOND * 9);
    bench.connect(false);
    let (_, _call) = bench.request("y", "r");
    bench.sent();
    bench.grant(1, &[QOS1]);
    bench.advance(SECOND);
    bench.lose_connection();
    bench.connect(true);
    bench.sent();
    bench.advance(SECOND * 2);
    bench.receive(puback(2));
    bench.sent();
    bench.advance(SECOND * 5);
    bench.receive_publish("r", "z", QOS0, 0);
    let stats = bench.session.counters.snapshot();
    assert_eq!((stats.ack_times.count(), stats.ack_times.mean()), (1, Some(SECOND * 3)));
    assert_eq!((stats.reply_times.count(), stats.reply_times.mean()), (1, Some(SECOND * 5)));
}
