//! Calls that share a reply filter and the time.

use super::*;
use crate::rpc::{Correlation, Key};

/// Replies to "r/+", known by the last level of their topic.
fn call(bench: &mut Bench, id: &str) -> (RequestId, Answer<Replies>) {
    keyed(bench, id, "r/+", &Correlation::topic(id))
}

fn keyed(bench: &mut Bench, payload: &str, reply_to: &str, rule: &Correlation) -> (RequestId, Answer<Replies>) {
    let key = key(rule);
    bench.request_with(payload, reply_to, |request| Request { key, ..request })
}

fn key(rule: &Correlation) -> Option<Box<Key>> {
    rule.key(b"", || [0; 16]).unwrap()
}

/// Replies such as "17 ok", known by the first word.
fn by_first_word(id: &'static str) -> Correlation {
    Correlation::by_key(id, |reply: &Message| Some(reply.text().ok()?.split(' ').next()?.to_owned()))
}

fn reply(bench: &mut Bench, topic: &str, payload: &str) {
    bench.receive_publish(topic, payload, QOS0, 0);
}

/// The broker answers all, time passes, and nothing is left.
fn ends(mut bench: Bench) {
    for id in 1..4 {
        bench.receive(puback(id));
    }
    bench.advance(30 * SECOND);
    for packet in bench.sent() {
        let Sent::Unsubscribe(id, _) = packet else { panic!("{packet:?}") };
        bench.receive(unsuback(id));
    }
    bench.has_nothing();
}

fn late(bench: &Bench) -> u64 {
    bench.session.counters.snapshot().late_replies
}

#[test]
fn calls_with_keys_leave_together_when_their_filter_is_confirmed() {
    let mut bench = Bench::connected();
    let mut calls: Vec<_> = ["1", "2", "3"].map(|id| call(&mut bench, id).1).into();
    assert_eq!(bench.sent(), [subscribed(1, &[("r/+", QOS1)])]);
    bench.grant(1, &[QOS1]);
    assert_eq!(bench.sent(), [requested("1", 1, false), requested("2", 2, false), requested("3", 3, false)]);
    for id in ["2", "3", "1"] {
        reply(&mut bench, &format!("r/{id}"), id);
    }
    for (call, id) in calls.iter_mut().zip(["1", "2", "3"]) {
        assert_eq!(texts(answered(call)), [id]);
    }
    // One packet more: the filter lingers.
    let (_, mut fourth) = call(&mut bench, "4");
    assert_eq!(bench.sent(), [requested("4", 4, false)]);
    reply(&mut bench, "r/4", "4");
    assert_eq!(texts(answered(&mut fourth)), ["4"]);
    assert_eq!(late(&bench), 0);
}

#[test]
fn a_reply_that_nobody_waits_for_is_counted_and_given_to_nobody() {
    let mut bench = Bench::connected();
    let (_, mut first) = call(&mut bench, "1");
    bench.grant_all();
    reply(&mut bench, "r/1", "before it was sent");
    bench.sent();
    reply(&mut bench, "r/2", "unknown");
    assert!(answer(&mut first).is_none());
    reply(&mut bench, "r/1", "a");
    reply(&mut bench, "r/1", "once more");
    assert_eq!(texts(answered(&mut first)), ["a"]);
    assert_eq!(late(&bench), 3);
}

#[test]
fn a_key_in_use_is_refused_and_free_again_after_its_call() {
    let mut bench = Bench::connected();
    let (id, first) = call(&mut bench, "1");
    let (_, mut second) = call(&mut bench, "1");
    assert_eq!(fails(&mut second), (ErrorKind::KeyInUse, Outcome::NotSent));
    bench.grant_all();
    assert_eq!(bench.sent(), [requested("1", 1, false)], "the first is not disturbed");
    drop(first);
    bench.session.handle_notice(Notice::RequestGone(id), bench.now);
    let (_, mut third) = call(&mut bench, "1");
    bench.sent();
    reply(&mut bench, "r/1", "a");
    assert_eq!(texts(answered(&mut third)), ["a"]);
}

#[test]
fn a_deadline_frees_the_key_of_its_call_and_of_no_other() {
    let mut bench = Bench::connected();
    let deadline = bench.now + SECOND;
    let key_one = key(&Correlation::topic("1"));
    let (_, mut short) =
        bench.request_with("1", "r/+", |request| Request { key: key_one, deadline, ..request });
    let (_, mut long) = call(&mut bench, "2");
    bench.grant_all();
    bench.sent();
    bench.advance(SECOND);
    assert_eq!(fails(&mut short), (ErrorKind::Timeout, Outcome::Unknown));
    reply(&mut bench, "r/1", "late");
    assert_eq!(late(&bench), 1);
    reply(&mut bench, "r/2", "b");
    assert_eq!(texts(answered(&mut long)), ["b"]);
    ends(bench);
}

#[test]
fn a_caller_that_leaves_at_any_stage_leaves_nothing_behind() {
    for stage in 0..4 {
        let mut bench = Bench::connected();
        let (id, gone) = call(&mut bench, "1");
        if stage > 0 {
            bench.sent();
        }
        if stage > 1 {
            bench.grant(1, &[QOS1]);
        }
        if stage > 2 {
            assert_eq!(bench.sent(), [requested("1", 1, false)]);
        }
        drop(gone);
        bench.session.handle_notice(Notice::RequestGone(id), bench.now);
        if stage == 1 {
            bench.grant(1, &[QOS1]);
        }
        bench.grant_all();
        assert_eq!(bench.sent(), [], "stage {stage}");
        ends(bench);
    }
}

#[test]
fn replies_survive_a_reconnect_and_what_was_not_sent_waits_for_the_filter_in_its_order() {
    for session_present in [true, false] {
        let mut bench = Bench::connected();
        let mut calls: Vec<_> = ["1", "2"].map(|id| call(&mut bench, id).1).into();
        bench.grant_all();
        bench.sent();
        bench.receive(puback(1));
        bench.lose_connection();
        calls.extend(["3", "4"].map(|id| call(&mut bench, id).1));
        bench.connect(session_present);
        if session_present {
            assert_eq!(bench.sent(), [requested("2", 2, true), requested("3", 1, false), requested("4", 3, false)]);
        } else {
            assert_eq!(bench.sent(), [subscribed(1, &[("r/+", QOS1)])]);
            bench.grant(1, &[QOS1]);
            let sent = bench.sent();
            assert_eq!((payloads(&sent), sent.len()), (vec!["2".into(), "3".into(), "4".into()], 3));
        }
        for (call, id) in calls.iter_mut().zip(["1", "2", "3", "4"]) {
            reply(&mut bench, &format!("r/{id}"), id);
            assert_eq!(texts(answered(call)), [id]);
        }
    }
}

#[test]
fn a_refused_filter_fails_all_calls_that_share_it() {
    let mut bench = Bench::connected();
    let mut calls = ["1", "2"].map(|id| call(&mut bench, id).1);
    let (_, mut by_turns) = bench.request("3", "r/+");
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![refused()] });
    for call in &mut calls {
        assert_eq!(fails(call), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    }
    assert_eq!(fails(&mut by_turns), (ErrorKind::SubscribeRefused, Outcome::NotSent));
    bench.has_nothing();
}

#[test]
fn the_request_leaves_when_both_its_reply_filters_are_confirmed() {
    let mut bench = Bench::connected();
    let both = || ReplyPaths { rejected_by: Some(Filter::new("no/+").unwrap()), ..paths("yes/+") };
    let ask = |bench: &mut Bench, id: &'static str| {
        let key = key(&Correlation::topic(id));
        bench.request_with(id, "unused", |request| Request { reply_to: Some(both()), key, ..request }).1
    };
    let mut first = ask(&mut bench, "1");
    assert_eq!(bench.sent(), [subscribed(1, &[("yes/+", QOS1), ("no/+", QOS1)])]);
    bench.grant(1, &[QOS1, QOS1]);
    let mut second = ask(&mut bench, "2");
    assert_eq!(bench.sent(), [requested("1", 1, false), requested("2", 2, false)]);
    reply(&mut bench, "no/2", "no");
    reply(&mut bench, "yes/1", "yes");
    assert_eq!((texts(answered(&mut first)), texts(answered(&mut second))), (vec!["yes".into()], vec!["no".into()]));
    let mut third = ask(&mut bench, "3");
    bench.sent();
    bench.lose_connection();
    bench.connect(false);
    bench.sent();
    bench.receive(Inbound::SubAck { id: 1, granted: vec![Ok(QOS1), refused()] });
    assert_eq!(fails(&mut third), (ErrorKind::SubscribeRefused, Outcome::Unknown));
}

#[test]
fn rules_on_one_filter_do_not_disturb_each_other() {
    let mut bench = Bench::connected();
    let (_, mut by_topic) = keyed(&mut bench, "a", "r/+", &Correlation::topic("a"));
    let (_, mut by_word) = keyed(&mut bench, "b", "r/+", &by_first_word("b"));
    let (_, mut by_turns) = bench.request("c", "r/+");
    bench.grant_all();
    assert_eq!(bench.sent().len(), 3);
    reply(&mut bench, "r/x", "b ok");
    assert_eq!(texts(answered(&mut by_word)), ["b ok"]);
    reply(&mut bench, "r/a", "x");
    assert_eq!(texts(answered(&mut by_topic)), ["x"]);
    reply(&mut bench, "r/x", "anything");
    assert_eq!(texts(answered(&mut by_turns)), ["anything"]);
}

#[test]
fn many_calls_with_one_closure_read_a_reply_once() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    // A closure that captures nothing can count nowhere else. Each version's suite has one of its own.
    static READ: AtomicUsize = AtomicUsize::new(0);
    let rule = |id: String| {
        Correlation::by_key(id, |reply: &Message| {
            READ.fetch_add(1, Relaxed);
            Some(reply.payload().clone())
        })
    };
    let mut bench = Bench::connected();
    let mut calls: Vec<_> = (0..100).map(|n| keyed(&mut bench, "x", "r", &rule(n.to_string())).1).collect();
    bench.grant_all();
    bench.sent();
    READ.store(0, Relaxed);
    reply(&mut bench, "r", "57");
    assert_eq!(texts(answered(&mut calls[57])), ["57"]);
    assert_eq!(READ.load(Relaxed), 1);
}

#[test]
fn a_closure_that_panics_costs_nobody_anything() {
    let mut bench = Bench::connected();
    let panics = Correlation::by_key("1", |reply: &Message| -> Option<Bytes> { panic!("{:?}", reply.text()) });
    let (_, mut call) = keyed(&mut bench, "x", "r", &panics);
    bench.grant_all();
    bench.sent();
    reply(&mut bench, "r", "x");
    assert!(answer(&mut call).is_none());
    assert_eq!(late(&bench), 1);
}

#[test]
fn replies_until_the_deadline_are_no_error_once_the_request_was_sent() {
    let up_to = |bench: &mut Bench, most| {
        let deadline = bench.now + SECOND;
        bench.request_with("x", "r", |request| Request { wanted: Wanted::UpTo(most), deadline, ..request }).1
    };
    let mut bench = Bench::connected();
    let mut unsent = up_to(&mut bench, 3);
    bench.advance(SECOND);
    assert_eq!(fails(&mut unsent), (ErrorKind::Timeout, Outcome::NotSent));
    bench.grant_all();
    for replies in 0..=3 {
        let mut call = up_to(&mut bench, 3);
        bench.sent();
        for _ in 0..replies {
            reply(&mut bench, "r", "y");
        }
        assert_eq!(answer(&mut call).is_none(), replies < 3, "the last one ends it");
        bench.advance(if replies < 3 { SECOND } else { Duration::ZERO });
        if replies < 3 {
            assert_eq!(texts(answered(&mut call)).len(), replies);
        }
    }
}

#[test]
fn replies_are_handed_on_as_they_come_and_the_last_word_is_the_answer() {
    let mut bench = Bench::connected();
    let each = |bench: &mut Bench| {
        let (events, replies) = broadcast::channel(2);
        let deadline = bench.now + SECOND;
        let call = bench.request_with("x", "r", |request| Request { wanted: Wanted::Each(events), deadline, ..request });
        (call.1, replies)
    };
    let (mut call, mut replies) = each(&mut bench);
    bench.grant_all();
    bench.sent();
    for n in ["1", "2"] {
        reply(&mut bench, "r", n);
        assert_eq!(replies.try_recv().unwrap().text().unwrap(), n);
    }
    bench.advance(SECOND);
    assert!(answered(&mut call).unwrap().is_empty());
    assert_eq!(replies.try_recv(), Err(broadcast::error::TryRecvError::Closed));
    let (mut silent, _replies) = each(&mut bench);
    bench.sent();
    bench.advance(SECOND);
    assert_eq!(fails(&mut silent), (ErrorKind::Timeout, Outcome::Unknown));
}
