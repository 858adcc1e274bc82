use super::*;
use crate::subscribe::Retained::{IfFirst, Ignore, Include, Only};
use crate::ErrorKind;

fn refuse(bench: &mut Bench, id: PacketId) {
    bench.receive(Inbound::SubAck { id, granted: vec![refused()] });
}

/// A stream on "f" that is established under identifier 1.
fn stream(bench: &mut Bench) -> Feed {
    let mut feed = bench.subscribe(&["f"]);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    bench.grant(1, &[QOS1]);
    answered(&mut feed).unwrap()
}

fn taken(feed: &mut Feed) -> Vec<String> {
    let texts = std::iter::from_fn(|| feed.events.try_recv().ok());
    texts.map(|event| event.map_or("refused".into(), |message| message.text().unwrap().to_owned())).collect()
}

fn receive_retained(bench: &mut Bench, payload: &str) {
    let (topic, payload) = (Topic::new("f").unwrap(), Bytes::from(payload.to_owned()));
    bench.receive(Inbound::Publish(Incoming { retain: true, ..plain(topic, payload, QOS0, 0) }));
}

#[test]
fn subscribers_share_one_subscription_and_the_last_to_leave_ends_it() {
    let mut bench = Bench::connected();
    let first = stream(&mut bench);
    let mut second = bench.subscribe(&["f"]);
    let second = answered(&mut second).unwrap();
    assert_eq!(bench.sent(), []);
    drop(first);
    assert_eq!(bench.sent(), []);
    drop(second);
    assert_eq!(bench.sent(), [unsubscribed(1, &["f"])]);
    bench.receive(unsuback(1));
    bench.has_nothing();
}

#[test]
fn a_call_returns_when_its_last_filter_is_granted_with_what_each_was_granted() {
    let mut bench = Bench::with(|options| options.max_filters_per_subscribe(2));
    bench.connect(false);
    let mut feed = bench.subscribe(&["a", "b", "a", "c"]);
    assert_eq!(bench.sent(), [subscribed(1, &[("a", QOS1), ("b", QOS1)]), subscribed(2, &[("c", QOS1)])]);
    bench.grant(2, &[QOS1]);
    assert!(answer(&mut feed).is_none());
    bench.grant(1, &[QOS0, QOS1]);
    let granted = answered(&mut feed).unwrap().granted;
    let granted: Vec<_> = granted.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
    assert_eq!(granted, [("a", QOS0), ("b", QOS1), ("c", QOS1)]);
}

#[test]
fn one_who_joins_while_the_suback_is_awaited_returns_with_it() {
    let mut bench = Bench::connected();
    let mut first = bench.subscribe(&["f"]);
    bench.sent();
    let mut second = bench.subscribe(&["f"]);
    assert_eq!(bench.sent(), []);
    bench.grant(1, &[QOS1]);
    assert!(answered(&mut first).is_ok() && answered(&mut second).is_ok());
}

#[test]
fn the_highest_quality_of_service_is_asked_for_and_a_lower_grant_is_not_asked_again() {
    let mut bench = Bench::connected();
    let first = stream(&mut bench);
    let mut second = bench.subscribe_as(&["f"], QOS2, IfFirst);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS2)])]);
    let mut third = bench.subscribe_as(&["f"], QOS0, IfFirst);
    assert!(answered(&mut third).is_ok());
    bench.grant(1, &[QOS0]);
    assert_eq!(answered(&mut second).unwrap().granted[0].1, QOS0);
    let mut fourth = bench.subscribe_as(&["f"], QOS2, IfFirst);
    assert!(answered(&mut fourth).is_ok());
    assert_eq!(bench.sent(), []);
    drop(first);
}

#[test]
fn a_higher_wish_while_the_suback_is_awaited_is_asked_after_it() {
    let mut bench = Bench::connected();
    let mut first = bench.subscribe(&["f"]);
    bench.sent();
    let mut second = bench.subscribe_as(&["f"], QOS2, IfFirst);
    assert_eq!(bench.sent(), []);
    bench.grant(1, &[QOS1]);
    assert!(answered(&mut first).is_ok() && answer(&mut second).is_none());
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS2)])]);
    bench.grant(1, &[QOS2]);
    assert!(answered(&mut second).is_ok());
}

#[test]
fn a_refusal_names_the_filter_and_takes_the_whole_call_back() {
    let mut bench = Bench::connected();
    let mut feed = bench.subscribe(&["a", "b"]);
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![Ok(QOS1), refused()] });
    let error = answered(&mut feed).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert!(error.to_string().contains("\"b\""));
    assert_eq!(bench.sent(), [unsubscribed(1, &["a"])]);
    bench.receive(unsuback(1));
    bench.has_nothing();
}

#[test]
fn a_refusal_after_a_reconnect_is_an_item_and_a_later_grant_brings_the_stream_back() {
    let mut bench = Bench::connected();
    let mut feed = stream(&mut bench);
    bench.lose_connection();
    bench.connect(false);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    refuse(&mut bench, 1);
    assert_eq!(taken(&mut feed), ["refused"]);
    assert_eq!(bench.sent(), []);
    let mut other = bench.subscribe(&["f"]);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert!(answered(&mut other).is_ok());
    bench.receive_publish("f", "x", QOS0, 0);
    assert_eq!(taken(&mut feed), ["x"]);
}

#[test]
fn a_suback_for_another_number_of_filters_ends_the_connection_and_all_is_asked_again() {
    let mut bench = Bench::connected();
    let mut feed = bench.subscribe(&["a", "b"]);
    bench.sent();
    let suback = Inbound::SubAck { id: 1, granted: vec![Ok(QOS1)] };
    assert!(bench.session.handle_inbound(suback, bench.now).is_err());
    bench.lose_connection();
    assert!(answer(&mut feed).is_none());
    bench.connect(true);
    assert_eq!(bench.sent(), [subscribed(1, &[("a", QOS1), ("b", QOS1)])]);
    bench.grant(1, &[QOS1, QOS1]);
    assert!(answered(&mut feed).is_ok());
}

#[test]
fn an_unanswered_subscribe_is_asked_again_whatever_became_of_the_session() {
    for session_present in [true, false] {
        let mut bench = Bench::connected();
        let mut feed = bench.subscribe(&["f"]);
        bench.sent();
        bench.lose_connection();
        bench.connect(session_present);
        assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
        bench.grant(1, &[QOS1]);
        let feed = answered(&mut feed).unwrap();
        assert_eq!(bench.sent(), []);
        drop(feed);
    }
}

#[test]
fn an_unanswered_unsubscribe_is_sent_again_only_where_the_session_is_kept() {
    for session_present in [true, false] {
        let mut bench = Bench::connected();
        let feed = stream(&mut bench);
        let mut gone = feed.guard.unsubscribe();
        assert_eq!(bench.sent(), [unsubscribed(1, &["f"])]);
        bench.lose_connection();
        assert!(answer(&mut gone).is_none());
        bench.connect(session_present);
        if session_present {
            assert_eq!(bench.sent(), [unsubscribed(1, &["f"])]);
            bench.receive(unsuback(1));
        }
        assert_eq!(bench.sent(), []);
        assert!(answered(&mut gone).is_ok());
        bench.has_nothing();
    }
}

#[test]
fn a_filter_wanted_again_before_its_unsubscribe_goes_out_stays() {
    let mut bench = Bench::connected();
    let feed = stream(&mut bench);
    let mut gone = feed.guard.unsubscribe();
    bench.take_notices();
    let mut again = bench.subscribe(&["f"]);
    assert!(answered(&mut again).is_ok());
    assert_eq!(bench.sent(), [unsubscribed(1, &["f"])], "the answer was dropped, and its guard with it");
    assert!(answered(&mut gone).is_ok(), "others want the filter: there is nothing to wait for");
}

#[test]
fn a_filter_wanted_again_while_the_unsuback_is_awaited_is_asked_after_it() {
    let mut bench = Bench::connected();
    let feed = stream(&mut bench);
    let mut gone = feed.guard.unsubscribe();
    assert_eq!(bench.sent(), [unsubscribed(1, &["f"])]);
    let mut again = bench.subscribe(&["f"]);
    assert_eq!(bench.sent(), []);
    bench.receive(unsuback(1));
    assert!(answered(&mut gone).is_ok());
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert!(answered(&mut again).is_ok());
}

#[test]
fn a_caller_of_unsubscribe_is_answered_when_a_newcomer_meets_a_lost_connection() {
    let mut bench = Bench::connected();
    let feed = stream(&mut bench);
    let mut gone = feed.guard.unsubscribe();
    bench.sent();
    let _again = bench.subscribe(&["f"]);
    bench.lose_connection();
    assert!(answered(&mut gone).is_ok());
    bench.connect(true);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
}

#[test]
fn a_caller_of_unsubscribe_waits_for_all_its_filters() {
    let mut bench = Bench::with(|options| options.max_filters_per_subscribe(1));
    bench.connect(false);
    let mut feed = bench.subscribe(&["a", "b"]);
    bench.sent();
    bench.grant(1, &[QOS1]);
    bench.grant(2, &[QOS1]);
    let feed = answered(&mut feed).unwrap();
    let mut gone = feed.guard.unsubscribe();
    assert_eq!(bench.sent().len(), 2);
    bench.receive(unsuback(2));
    assert!(answer(&mut gone).is_none());
    bench.receive(unsuback(1));
    assert!(answered(&mut gone).is_ok());
}

#[test]
fn a_caller_of_unsubscribe_that_the_end_overtakes_is_told() {
    let mut bench = Bench::connected();
    let feed = stream(&mut bench);
    let mut gone = feed.guard.unsubscribe();
    bench.sent();
    bench.session.finish();
    assert!(answered(&mut gone).unwrap_err().is_closed());
}

#[test]
fn a_call_that_is_never_confirmed_times_out_and_leaves_nothing() {
    let mut bench = Bench::new();
    let mut feed = bench.subscribe_within(&["a", "b"], QOS1, IfFirst, SECOND);
    bench.advance(SECOND);
    assert!(answered(&mut feed).unwrap_err().is_timeout());
    bench.connect(false);
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
    // Once it is asked, the broker may hold it.
    let mut feed = bench.subscribe_within(&["a"], QOS1, IfFirst, SECOND);
    bench.sent();
    bench.advance(SECOND);
    assert!(answered(&mut feed).unwrap_err().is_timeout());
    assert_eq!(bench.sent(), []);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [unsubscribed(1, &["a"])]);
    bench.receive(unsuback(1));
    bench.has_nothing();
}

#[test]
fn a_caller_that_leaves_before_the_suback_ends_its_subscription() {
    let mut bench = Bench::connected();
    drop(bench.subscribe(&["f"]));
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [unsubscribed(1, &["f"])]);
}

#[test]
fn callers_that_come_and_go_without_a_connection_do_not_pile_up() {
    let mut bench = Bench::new();
    let mut stays = bench.subscribe(&["f"]);
    for n in 0..1_000 {
        drop(bench.subscribe(&["f", &format!("left/{n}")]));
    }
    let held = (bench.session.subscriptions.subscribers.len(), bench.session.subscriptions.filters.len());
    assert!(held.0 <= 64 && held.1 <= 64, "{held:?}");
    bench.connect(false);
    bench.sent();
    bench.grant(1, &[QOS1].repeat(held.1));
    assert!(answered(&mut stays).is_ok());
}

#[test]
fn overlapping_filters_deliver_one_message_once() {
    let mut bench = Bench::connected();
    let mut feed = bench.subscribe(&["f", "+", "#"]);
    bench.grant_all();
    let mut feed = answered(&mut feed).unwrap();
    bench.receive_publish("f", "x", QOS1, 1);
    assert_eq!(taken(&mut feed), ["x"]);
}

#[test]
fn retained_messages_go_to_those_who_asked_for_them() {
    let mut bench = Bench::connected();
    let mut first = bench.subscribe_as(&["f"], QOS1, IfFirst);
    bench.sent();
    receive_retained(&mut bench, "early");
    bench.grant(1, &[QOS1]);
    // The same topic once more was asked for by somebody else.
    receive_retained(&mut bench, "r");
    let mut first = answered(&mut first).unwrap();
    assert_eq!(taken(&mut first), ["early"]);

    let [mut second, mut ignores] = [IfFirst, Ignore].map(|retained| bench.subscribe_as(&["f"], QOS1, retained));
    assert_eq!(bench.sent(), []);
    let mut third = bench.subscribe_as(&["f"], QOS1, Include);
    assert_eq!(bench.sent(), [subscribed(1, &[("f", QOS1)])]);
    bench.grant(1, &[QOS1]);
    receive_retained(&mut bench, "r");
    let mut only = bench.subscribe_as(&["f"], QOS1, Only);
    bench.sent();
    bench.grant(1, &[QOS1]);
    receive_retained(&mut bench, "r");
    bench.receive_publish("f", "live", QOS0, 0);
    assert_eq!(taken(&mut first), ["live"]);
    for (feed, expected) in
        [(&mut second, &["live"][..]), (&mut ignores, &["live"]), (&mut third, &["r", "live"]), (&mut only, &["r"])]
    {
        assert_eq!(taken(&mut answered(feed).unwrap()), expected);
    }
}

#[test]
fn an_established_stream_takes_what_a_resumed_session_brings_before_its_filter_is_asked_again() {
    let mut bench = Bench::connected();
    let mut feed = stream(&mut bench);
    bench.lose_connection();
    bench.connect(false);
    bench.sent();
    // The broker took the SUBSCRIBE; its SUBACK is lost.
    bench.lose_connection();
    bench.connect(true);
    bench.receive_publish("f", "x", QOS1, 1);
    assert_eq!(taken(&mut feed), ["x"]);
}

#[test]
fn a_subscribe_that_does_not_wait_for_a_connection_fails_with_the_one_it_was_asked_on() {
    let mut bench = Bench::connected();
    let (reply, mut feed) = Reply::channel();
    bench.command(Command::Subscribe(crate::command::Subscribe {
        filters: vec![Filter::new("f").unwrap()],
        wish: Wish::new(QOS1, IfFirst),
        capacity: 4,
        offline: Offline::Fail,
        deadline: bench.now + LONG,
        reply,
    }));
    bench.sent();
    bench.lose_connection();
    assert_eq!(answered(&mut feed).unwrap_err().kind(), ErrorKind::Offline);
    bench.connect(false);
    assert_eq!(bench.sent(), []);
    bench.has_nothing();
}

#[test]
fn filters_that_come_and_go_without_a_connection_leave_nothing() {
    let mut bench = Bench::new();
    let kept = bench.subscribe(&["kept"]);
    for n in 0..10_000 {
        let (id, answer) = bench.request_as("q", &format!("a/{n}"), 1, Offline::Wait, SECOND);
        drop(answer);
        bench.session.handle_notice(Notice::RequestGone(id), bench.now);
        let answer = bench.subscribe_within(&[&format!("b/{n}")], QOS1, Retained::IfFirst, SECOND);
        bench.advance(SECOND / 10);
        drop(answer);
    }
    bench.advance(LONG / 2);
    let due = bench.session.subscriptions.due.len();
    assert!(due < 100, "{due} are due");
    bench.connect(false);
    assert_eq!(bench.sent(), [subscribed(1, &[("kept", QOS1)])]);
    drop(kept);
}
