use super::*;
use crate::rpc::Correlation;

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

/// A call without a word of where its reply comes.
fn ask(bench: &mut Bench, payload: &str, data: u8) -> (RequestId, Answer<Replies>) {
    let key = Correlation::data().key(b"", || [data; 16]).unwrap();
    bench.request_with(payload, "unused", |request| {
        let properties =
            Properties { correlation_data: key.as_ref().map(|key| key.value.clone()), ..Properties::default() };
        let publish = wire::Publish { properties: Some(Box::new(properties)), ..request.publish.unwrap() };
        Request { publish: Some(publish), key, reply_to: None, ..request }
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
    let mut bench = crate::session::tests::Bench::<4>::new();
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
