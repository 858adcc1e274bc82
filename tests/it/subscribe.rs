//! Subscriptions: when they resolve, what the broker sees of them, and what their streams say.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::pin::pin;

use futures::future::join_all;
use futures::stream::{select_all, FusedStream};
use futures::{FutureExt, StreamExt};
use mqtt_agent::{Agent, Error, ErrorKind, Filter, QoS, Retained, Subscription};
use rumqttc::mqttbytes::v4::{Publish, SubscribeReasonCode};
use rumqttc::mqttbytes::QoS as WireQoS;

use crate::script::*;
use crate::support::{
    broker_test, drop_after_polls, drop_when_woken_after_polls, is_v5, millis, mosquitto_or_skip, within,
    BrokerOptions, MosquittoConfig, Scripted, LIMIT,
};

const GRANTED: SubscribeReasonCode = SubscribeReasonCode::Success(WireQoS::AtLeastOnce);

async fn text(stream: &mut Subscription) -> String {
    let item = within(LIMIT, "a message", stream.recv()).await.expect("the agent is open");
    item.unwrap().text().unwrap().to_owned()
}

async fn failure(stream: &mut Subscription) -> Error {
    within(LIMIT, "an error", stream.recv()).await.expect("the agent is open").unwrap_err()
}

fn is_empty(stream: &mut Subscription) -> bool {
    stream.recv().now_or_never().is_none()
}

#[tokio::test]
async fn a_subscribe_resolves_at_suback_and_not_before() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut call = pin!(agent.subscribe("a/+").into_future());
    assert!(is_pending(&mut call).await);
    let subscribe = peer.expect_subscribe().await;
    nothing_sent(&agent, &mut peer).await;
    assert!(is_pending(&mut call).await);
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let stream = call.await.unwrap();
    assert_eq!(stream.granted(), [(Filter::new("a/+").unwrap(), QoS::AtLeastOnce)]);
}

#[tokio::test]
async fn a_refused_filter_is_named_and_the_others_are_given_up() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.subscribe(["a", "no/entry", "c"]).into_future());
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[GRANTED, SubscribeReasonCode::Failure, GRANTED]).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert!(error.to_string().contains("\"no/entry\""), "{error}");
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a", "c"]);
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

#[tokio::test]
async fn a_refusal_that_comes_first_or_last_leaves_nothing_either() {
    for refused in [0, 1] {
        let (_scripted, agent, mut peer) = pair().await;
        let call = tokio::spawn(agent.subscribe(["a", "b"]).into_future());
        let subscribe = peer.expect_subscribe().await;
        let mut codes = [GRANTED; 2];
        codes[refused] = SubscribeReasonCode::Failure;
        peer.suback(subscribe.pkid, &codes).await;
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::SubscribeRefused);
        let unsubscribe = peer.expect_unsubscribe().await;
        assert_eq!(unsubscribe.topics, [["b", "a"][refused]]);
        peer.unsuback(unsubscribe.pkid).await;
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
    }
}

#[tokio::test]
async fn a_refusal_fails_everyone_who_waits_for_that_filter_and_nobody_else() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = tokio::spawn(join_all([
        agent.subscribe("no").into_future(),
        agent.subscribe(["yes", "no"]).into_future(),
        agent.subscribe("yes").into_future(),
    ]));
    let subscribe = peer.expect_subscribe().await;
    assert_eq!(asked(&subscribe), [("no", 1), ("yes", 1)]);
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure, GRANTED]).await;
    let mut answers = calls.await.unwrap();
    let mut kept = answers.pop().unwrap().unwrap();
    for answer in answers {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::SubscribeRefused);
    }
    peer.publish(message("yes", "1")).await;
    assert_eq!(text(&mut kept).await, "1");
    nothing_sent(&agent, &mut peer).await;
}

broker_test!(
    a_refusal_by_the_broker_is_an_error_that_names_the_filter,
    options = BrokerOptions { refused: vec!["secret".into()], ..Default::default() },
    |broker| async move {
        let agent = Agent::connect(broker.url()).await.unwrap();
        let error = agent.subscribe(["open/#", "secret/x"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
        assert!(error.to_string().contains("secret/x"), "{error}");
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
        let mut stream = agent.subscribe("open/#").await.unwrap();
        agent.publish("open/1", "still here").await.unwrap();
        assert_eq!(text(&mut stream).await, "still here");
    }
);

#[tokio::test]
async fn two_subscribers_of_one_filter_cost_one_subscribe_at_the_same_time_or_later() {
    let (_scripted, agent, mut peer) = pair().await;
    let (mut first, mut second) = (pin!(agent.subscribe("a").into_future()), pin!(agent.subscribe("a").into_future()));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    let subscribe = peer.expect_subscribe().await;
    // One more while the SUBSCRIBE is in flight.
    let mut third = pin!(agent.subscribe("a").into_future());
    assert!(is_pending(&mut third).await);
    nothing_sent(&agent, &mut peer).await;
    assert!(is_pending(&mut third).await);
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let mut streams = vec![first.await.unwrap(), second.await.unwrap(), third.await.unwrap()];
    streams.push(agent.subscribe("a").await.unwrap());
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 1);
    assert_eq!(agent.stats().subscribers, 4);
    peer.publish(message("a", "1")).await;
    for stream in &mut streams {
        assert_eq!(text(stream).await, "1");
    }
}

#[tokio::test]
async fn the_last_subscriber_gone_is_one_unsubscribe() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let second = agent.subscribe("a").await.unwrap();
    drop(first);
    nothing_sent(&agent, &mut peer).await;
    drop(second);
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a"]);
    nothing_sent(&agent, &mut peer).await;
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_subscriber_that_comes_while_the_filter_is_unsubscribed_subscribes_it_again() {
    let (_scripted, agent, mut peer) = pair().await;
    drop(granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap());
    let unsubscribe = peer.expect_unsubscribe().await;
    let mut call = pin!(agent.subscribe("a").into_future());
    assert!(is_pending(&mut call).await);
    // Its SUBSCRIBE waits for the UNSUBACK: their order at the broker is never in doubt.
    nothing_sent(&agent, &mut peer).await;
    peer.unsuback(unsubscribe.pkid).await;
    let mut stream = granted(&mut peer, call).await.unwrap();
    peer.publish(message("a", "1")).await;
    assert_eq!(text(&mut stream).await, "1");
}

#[tokio::test]
async fn several_filters_are_one_packet_and_their_messages_keep_their_order() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.subscribe(["a/#", "b/+", "c"]).into_future());
    assert_eq!(asked(&grant(&mut peer).await), [("a/#", 1), ("b/+", 1), ("c", 1)]);
    let mut stream = call.await.unwrap().unwrap();
    for n in 0..30 {
        peer.publish(message(["a/x/y", "c", "b/1"][n % 3], &n.to_string())).await;
    }
    for n in 0..30 {
        assert_eq!(text(&mut stream).await, n.to_string());
    }
    drop(stream);
    let topics: BTreeSet<_> = peer.expect_unsubscribe().await.topics.into_iter().collect();
    assert_eq!(topics, ["a/#", "b/+", "c"].map(String::from).into());
}

#[tokio::test]
async fn the_highest_qos_wins() {
    let (_scripted, agent, mut peer) = pair().await;
    let middle = agent.subscribe("a").qos(QoS::AtLeastOnce).into_future();
    let _middle = granted(&mut peer, middle).await.unwrap();
    let _low = agent.subscribe("a").qos(QoS::AtMostOnce).await.unwrap();
    nothing_sent(&agent, &mut peer).await;
    let mut high = pin!(agent.subscribe("a").qos(QoS::ExactlyOnce).into_future());
    assert!(is_pending(&mut high).await);
    assert_eq!(asked(&grant(&mut peer).await), [("a", 2)]);
    let high = high.await.unwrap();
    assert_eq!(high.granted()[0].1, QoS::ExactlyOnce);
    // One that asks anew asks for no less than the others have.
    let mut again = pin!(agent.subscribe("a").qos(QoS::AtMostOnce).retained(Retained::Include).into_future());
    assert!(is_pending(&mut again).await);
    assert_eq!(asked(&grant(&mut peer).await), [("a", 2)]);
    drop(again.await.unwrap());
}

#[tokio::test]
async fn of_subscribers_before_the_first_subscribe_the_highest_qos_is_asked() {
    let (_scripted, agent, mut peer) = pair().await;
    let qos = [QoS::AtMostOnce, QoS::ExactlyOnce, QoS::AtLeastOnce];
    let calls = join_all(qos.map(|qos| agent.subscribe("a").qos(qos).into_future()));
    let calls = tokio::spawn(calls);
    assert_eq!(asked(&grant(&mut peer).await), [("a", 2)]);
    calls.await.unwrap().into_iter().for_each(|stream| drop(stream.unwrap()));
}

#[tokio::test]
async fn a_qos_granted_lower_than_asked_is_visible() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.subscribe(["a", "b"]).qos(QoS::ExactlyOnce).into_future());
    let subscribe = peer.expect_subscribe().await;
    let codes = [WireQoS::AtMostOnce, WireQoS::AtLeastOnce].map(SubscribeReasonCode::Success);
    peer.suback(subscribe.pkid, &codes).await;
    let stream = call.await.unwrap().unwrap();
    let granted: Vec<_> = stream.granted().iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
    assert_eq!(granted, [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce)]);
    // Asking again would get no more.
    let late = agent.subscribe("a").qos(QoS::ExactlyOnce).await.unwrap();
    assert_eq!(late.granted()[0].1, QoS::AtMostOnce);
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn retained_messages_go_to_those_who_asked_and_to_nobody_twice() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    assert_eq!(text(&mut first).await, "kept");

    let mut late = agent.subscribe("a").await.unwrap();
    let mut ignores = agent.subscribe("a").retained(Retained::Ignore).await.unwrap();
    nothing_sent(&agent, &mut peer).await;

    let mut includes =
        granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    assert_eq!(text(&mut includes).await, "kept");

    let mut only = granted(&mut peer, agent.subscribe("a").retained(Retained::Only).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    let item = within(LIMIT, "the retained message", only.recv()).await.unwrap().unwrap();
    assert!(item.is_retained());

    peer.publish(message("a", "new")).await;
    for stream in [&mut first, &mut late, &mut ignores, &mut includes] {
        assert_eq!(text(stream).await, "new");
    }
    assert!(is_empty(&mut only));
}

/// Brokers may send retained messages well after the SUBACK: mosquitto when its window of unacknowledged messages is
/// full, others because they queue them.
#[tokio::test]
async fn retained_messages_that_arrive_after_the_suback_of_the_next_subscribe_still_reach_the_first() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    let mut second = granted(&mut peer, agent.subscribe("a").retained(Retained::Include).into_future()).await.unwrap();
    for _ in 0..2 {
        peer.publish(retained("a", "kept")).await;
    }
    peer.publish(message("a", "new")).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(text(stream).await, "kept");
        assert_eq!(text(stream).await, "new");
    }
}

#[tokio::test]
async fn a_first_subscriber_that_ignores_retained_messages_gets_none() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").retained(Retained::Ignore).into_future()).await.unwrap();
    peer.publish(retained("a", "kept")).await;
    peer.publish(message("a", "new")).await;
    assert_eq!(text(&mut stream).await, "new");
}

#[tokio::test]
async fn one_subscribe_gives_its_retained_messages_to_all_who_wait_for_it() {
    let (_scripted, agent, mut peer) = pair().await;
    let kinds = [Retained::IfFirst, Retained::Include, Retained::Only];
    let calls = tokio::spawn(join_all(kinds.map(|kind| agent.subscribe("+").retained(kind).into_future())));
    let subscribe = peer.expect_subscribe().await;
    // [MQTT-3.8.4-3]: the broker may start before its SUBACK.
    peer.publish(retained("a", "early")).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    peer.publish(retained("b", "kept")).await;
    for stream in calls.await.unwrap() {
        let mut stream = stream.unwrap();
        assert_eq!(text(&mut stream).await, "early");
        assert_eq!(text(&mut stream).await, "kept");
    }
}

broker_test!(retained_messages_of_a_broker_reach_first_and_late_joiners_as_they_chose, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("r/1", "kept").retain(true).await.unwrap();
    let mut first = agent.subscribe("r/+").await.unwrap();
    assert_eq!(text(&mut first).await, "kept");
    let mut late = agent.subscribe("r/+").await.unwrap();
    let mut ignores = agent.subscribe("r/+").retained(Retained::Ignore).await.unwrap();
    let mut includes = agent.subscribe("r/+").retained(Retained::Include).await.unwrap();
    assert_eq!(text(&mut includes).await, "kept");
    let mut only = agent.subscribe("r/+").retained(Retained::Only).await.unwrap();
    assert_eq!(text(&mut only).await, "kept");
    agent.publish("r/1", "new").retain(true).await.unwrap();
    for stream in [&mut first, &mut late, &mut ignores, &mut includes] {
        assert_eq!(text(stream).await, "new");
        assert!(is_empty(stream));
    }
    assert!(is_empty(&mut only));
});

#[tokio::test]
async fn overlapping_filters_of_one_subscription_give_one_copy_of_each_delivery() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe(["a/#", "a/+", "a/b", "a/b"]).into_future()).await.unwrap();
    assert_eq!(stream.granted().len(), 3);
    for n in 0..10 {
        peer.publish(message("a/b", &n.to_string())).await;
    }
    for n in 0..10 {
        assert_eq!(text(&mut stream).await, n.to_string());
    }
    assert!(is_empty(&mut stream));
}

#[tokio::test]
async fn overlapping_filters_of_two_subscriptions_give_each_its_copy() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut wide = granted(&mut peer, agent.subscribe("a/#").into_future()).await.unwrap();
    let mut narrow = granted(&mut peer, agent.subscribe("a/b").into_future()).await.unwrap();
    peer.publish(message("a/b", "1")).await;
    peer.publish(message("a/c", "2")).await;
    assert_eq!(text(&mut wide).await, "1");
    assert_eq!(text(&mut wide).await, "2");
    assert_eq!(text(&mut narrow).await, "1");
    assert!(is_empty(&mut narrow));
}

#[tokio::test]
async fn a_slow_stream_says_exactly_how_many_it_lost_and_goes_on_with_the_newest() {
    // Capacities are rounded up to a power of two.
    for (capacity, held) in [(4, 4), (3, 4), (1, 1), (5, 8)] {
        let (_scripted, agent, mut peer) = pair().await;
        let mut stream = granted(&mut peer, agent.subscribe("a").capacity(capacity).into_future()).await.unwrap();
        for n in 0..20 {
            peer.publish(message("a", &n.to_string())).await;
        }
        received(&agent, 20).await;
        let gap = failure(&mut stream).await;
        assert_eq!(gap.kind(), ErrorKind::Lagged(20 - held));
        assert_eq!(gap.lagged(), Some(20 - held));
        for n in 20 - held..20 {
            assert_eq!(text(&mut stream).await, n.to_string());
        }
        assert!(is_empty(&mut stream));
        assert_eq!(agent.stats().lagged, 20 - held);
        peer.publish(message("a", "next")).await;
        assert_eq!(text(&mut stream).await, "next");
    }
}

#[tokio::test]
async fn a_capacity_out_of_bounds_is_refused_before_anything_is_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    for capacity in [0, 1_048_577, usize::MAX] {
        let error = agent.subscribe("a").capacity(capacity).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
    let none: [&str; 0] = [];
    assert_eq!(agent.subscribe(none).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    for filter in ["", "a/#/b", "a+", "$share/g", "a\0"] {
        assert_eq!(agent.subscribe(filter).await.unwrap_err().kind(), ErrorKind::InvalidFilter, "{filter:?}");
    }
    nothing_sent(&agent, &mut peer).await;
}

broker_test!(one_stuck_subscriber_among_a_hundred_costs_the_others_nothing, |broker| async move {
    const ROUNDS: u64 = 40;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(agent.subscribe("s").capacity(16).await.unwrap());
    }
    let mut stuck = streams.pop().unwrap();
    for round in 0..ROUNDS {
        agent.publish("s", round.to_string()).await.unwrap();
        for stream in &mut streams {
            assert_eq!(text(stream).await, round.to_string());
        }
    }
    assert_eq!(agent.stats().lagged, 0);
    assert_eq!(failure(&mut stuck).await.lagged(), Some(ROUNDS - 16));
    assert_eq!(agent.stats().lagged, ROUNDS - 16);
});

#[tokio::test]
async fn a_clone_gets_the_same_messages_from_then_on() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(message("a", "1")).await;
    received(&agent, 1).await;
    let mut clone = stream.clone();
    assert_eq!(clone.granted(), stream.granted());
    peer.publish(message("a", "2")).await;
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    assert_eq!(text(&mut clone).await, "2");
    assert_eq!(agent.stats().subscribers, 1);
    drop(stream);
    nothing_sent(&agent, &mut peer).await;
    peer.publish(message("a", "3")).await;
    assert_eq!(text(&mut clone).await, "3");
    drop(clone);
    assert_eq!(peer.expect_unsubscribe().await.topics, ["a"]);
}

#[tokio::test]
async fn unsubscribe_returns_at_unsuback() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe(["a", "b"]).into_future()).await.unwrap();
    let mut end = pin!(stream.unsubscribe());
    assert!(is_pending(&mut end).await);
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a", "b"]);
    nothing_sent(&agent, &mut peer).await;
    assert!(is_pending(&mut end).await);
    peer.unsuback(unsubscribe.pkid).await;
    within(LIMIT, "the answer to UNSUBACK", end).await.unwrap();
    assert_eq!(agent.stats().filters, 0);
}

#[tokio::test]
async fn unsubscribe_returns_when_the_last_of_several_packets_is_acknowledged() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).max_filters_per_subscribe(1);
    let (agent, mut peer) = connect(&scripted, options).await;
    let call = tokio::spawn(agent.subscribe(["a", "b"]).into_future());
    grant(&mut peer).await;
    grant(&mut peer).await;
    let mut end = pin!(call.await.unwrap().unwrap().unsubscribe());
    assert!(is_pending(&mut end).await);
    let first = peer.expect_unsubscribe().await;
    let second = peer.expect_unsubscribe().await;
    peer.unsuback(first.pkid).await;
    settled(&agent, "one filter gone", |stats| stats.filters == 1).await;
    assert!(is_pending(&mut end).await);
    peer.unsuback(second.pkid).await;
    within(LIMIT, "the answer to UNSUBACK", end).await.unwrap();
}

#[tokio::test]
async fn unsubscribe_returns_at_once_where_others_want_the_filter() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let other = agent.subscribe("a").await.unwrap();
    let clone = other.clone();
    within(LIMIT, "the end of one of two", stream.unsubscribe()).await.unwrap();
    within(LIMIT, "the end of one of two clones", other.unsubscribe()).await.unwrap();
    nothing_sent(&agent, &mut peer).await;
    drop(clone);
    peer.expect_unsubscribe().await;
}

#[tokio::test]
async fn unsubscribe_returns_when_a_newcomer_takes_the_filter_over() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    // Both reach the agent before it sends anything, so that there is nothing to send.
    let mut end = pin!(stream.unsubscribe());
    assert!(is_pending(&mut end).await);
    let mut newcomer = within(LIMIT, "the newcomer", agent.subscribe("a").into_future()).await.unwrap();
    nothing_sent(&agent, &mut peer).await;
    within(LIMIT, "the end of the first", end).await.unwrap();
    peer.publish(message("a", "1")).await;
    assert_eq!(text(&mut newcomer).await, "1");
}

#[tokio::test]
async fn an_unsubscribe_that_the_end_of_the_agent_overtakes_says_closed() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let mut end = pin!(stream.unsubscribe());
    assert!(is_pending(&mut end).await);
    peer.expect_unsubscribe().await;
    agent.close().await;
    assert!(within(LIMIT, "an answer", end).await.unwrap_err().is_closed());
}

#[tokio::test]
async fn a_dropped_unsubscribe_ends_the_subscription_all_the_same() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    {
        let mut end = pin!(stream.unsubscribe());
        assert!(is_pending(&mut end).await);
    }
    let unsubscribe = peer.expect_unsubscribe().await;
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0).await;
}

#[tokio::test]
async fn a_subscription_can_be_dropped_outside_of_a_runtime() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    std::thread::spawn(move || drop(stream)).join().unwrap();
    assert_eq!(peer.expect_unsubscribe().await.topics, ["a"]);
}

#[tokio::test]
async fn a_subscription_can_be_cloned_and_dropped_after_the_end_of_the_agent() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let other = stream.clone();
    peer.publish(message("a", "last")).await;
    received(&agent, 1).await;
    agent.close().await;
    assert!(agent.subscribe("a").await.unwrap_err().is_closed());
    // What arrived before the end is still there.
    assert_eq!(text(&mut stream).await, "last");
    assert!(!stream.is_terminated());
    assert!(stream.recv().await.is_none());
    assert!(stream.is_terminated());
    assert!(stream.next().await.is_none());
    assert!(stream.clone().next().await.is_none());
    std::thread::spawn(move || drop(other)).join().unwrap();
    assert!(stream.unsubscribe().await.unwrap_err().is_closed());
}

#[tokio::test]
async fn a_call_dropped_before_its_suback_leaves_no_subscription() {
    let (_scripted, agent, mut peer) = pair().await;
    let subscribe = {
        let mut call = pin!(agent.subscribe("a").into_future());
        assert!(is_pending(&mut call).await);
        peer.expect_subscribe().await
    };
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let unsubscribe = peer.expect_unsubscribe().await;
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

broker_test!(a_subscribe_dropped_at_any_point_leaves_no_subscription, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut polls = 0;
    while drop_after_polls(agent.subscribe("a").into_future(), polls).await.is_none() {
        let _ = drop_when_woken_after_polls(agent.subscribe("b").into_future(), polls).await;
        polls += 1;
    }
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
    agent.publish("a", "nobody").await.unwrap();
    agent.publish("b", "nobody").await.unwrap();
    assert_eq!(agent.stats().received, 0);
});

#[tokio::test]
async fn a_subscribe_that_times_out_leaves_no_subscription() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.subscribe("a").timeout(millis(500)).into_future());
    let subscribe = peer.expect_subscribe().await;
    assert!(call.await.unwrap().unwrap_err().is_timeout());
    assert_eq!(agent.stats().subscribers, 0);
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    let unsubscribe = peer.expect_unsubscribe().await;
    peer.unsuback(unsubscribe.pkid).await;
    settled(&agent, "no filter", |stats| stats.filters == 0).await;
}

#[tokio::test]
async fn the_stream_composes_with_the_combinators_of_others() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let other = granted(&mut peer, agent.subscribe("b").into_future()).await.unwrap();
    let again = granted(&mut peer, agent.subscribe("c").into_future()).await.unwrap();
    for n in 0..4 {
        peer.publish(message("a", &n.to_string())).await;
    }
    let taken: Vec<_> = stream.clone().take(0).collect().await;
    assert!(taken.is_empty());
    let handled: Vec<_> = stream
        .take(4)
        .map(|item| async move { item.unwrap().text().unwrap().to_owned() })
        .buffer_unordered(2)
        .collect()
        .await;
    assert_eq!(handled.iter().collect::<BTreeSet<_>>().len(), 4);

    let mut merged = select_all([other, again]);
    peer.publish(message("b", "1")).await;
    peer.publish(message("c", "2")).await;
    let both: BTreeSet<_> =
        merged.by_ref().take(2).map(|item| item.unwrap().topic().as_str().to_owned()).collect().await;
    assert_eq!(both, ["b", "c"].map(String::from).into());
    // An empty stream times out item by item and goes on afterwards.
    let mut patient = pin!(tokio_stream::StreamExt::timeout(merged, millis(20)));
    assert!(patient.next().await.unwrap().is_err());
    peer.publish(message("b", "3")).await;
    let next = loop {
        if let Ok(item) = within(LIMIT, "an item", patient.next()).await.unwrap() {
            break item.unwrap();
        }
    };
    assert_eq!(next.text().unwrap(), "3");
}

#[tokio::test]
async fn a_lost_session_is_subscribed_again_before_publishes_are_repeated() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let mut stream = granted(&mut peer, agent.subscribe(["a", "b"]).into_future()).await.unwrap();
    let mut high = pin!(agent.subscribe("b").qos(QoS::ExactlyOnce).into_future());
    assert!(is_pending(&mut high).await);
    grant(&mut peer).await;
    let _high = high.await.unwrap();
    let publish = tokio::spawn(agent.publish("p", "owed").into_future());
    peer.expect_publish().await;
    peer.reset();

    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = grant(&mut peer).await;
    let filters: BTreeSet<_> = asked(&subscribe).into_iter().collect();
    assert_eq!(filters, [("a", 1), ("b", 2)].into());
    let repeated = peer.expect_publish().await;
    assert_eq!(repeated.topic, "p");
    peer.puback(repeated.pkid).await;
    publish.await.unwrap().unwrap();
    peer.publish(message("a", "after")).await;
    assert_eq!(text(&mut stream).await, "after");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_session_that_is_still_there_is_not_subscribed_again() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("kept").clean_session(false);
    let (agent, mut peer) = connect(&scripted, options).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    peer.publish(message("a", "after")).await;
    assert_eq!(text(&mut stream).await, "after");
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().reconnects, 1);
}

#[tokio::test]
async fn a_filter_refused_after_a_reconnect_is_an_item_and_the_stream_goes_on() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let mut stream = granted(&mut peer, agent.subscribe(["a", "b"]).into_future()).await.unwrap();
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = peer.expect_subscribe().await;
    let codes: Vec<_> = asked(&subscribe)
        .into_iter()
        .map(|(filter, _)| if filter == "a" { SubscribeReasonCode::Failure } else { GRANTED })
        .collect();
    peer.suback(subscribe.pkid, &codes).await;
    let error = failure(&mut stream).await;
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert!(error.to_string().contains("\"a\""), "{error}");
    peer.publish(message("b", "1")).await;
    assert_eq!(text(&mut stream).await, "1");

    // The next who wants the filter asks for it again, and brings it back for all.
    let mut second = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(message("a", "2")).await;
    assert_eq!(text(&mut second).await, "2");
    assert_eq!(text(&mut stream).await, "2");
    drop((stream, second));
    let mut topics = peer.expect_unsubscribe().await.topics;
    topics.sort_unstable();
    assert_eq!(topics, ["a", "b"]);
}

#[tokio::test]
async fn a_filter_that_stays_refused_is_given_up_without_an_unsubscribe() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    assert_eq!(failure(&mut stream).await.kind(), ErrorKind::SubscribeRefused);
    within(LIMIT, "the end of a subscription the broker does not hold", stream.unsubscribe()).await.unwrap();
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 0);
}

#[tokio::test]
async fn a_subscribe_in_flight_when_the_connection_is_lost_is_sent_again() {
    for session_present in [false, true] {
        let scripted = Scripted::listen().await;
        let options = options(&scripted.url()).client_id("kept").clean_session(false);
        let (agent, mut peer) = connect(&scripted, options).await;
        let call = tokio::spawn(agent.subscribe("a").into_future());
        peer.expect_subscribe().await;
        peer.reset();
        let (mut peer, _) = scripted.accept_session(session_present).await;
        assert_eq!(asked(&grant(&mut peer).await), [("a", 1)]);
        let mut stream = call.await.unwrap().unwrap();
        peer.publish(message("a", "1")).await;
        assert_eq!(text(&mut stream).await, "1");
        nothing_sent(&agent, &mut peer).await;
    }
}

#[tokio::test]
async fn a_subscribe_resolves_only_when_all_its_filters_are_held_on_one_connection() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).max_filters_per_subscribe(1);
    let (agent, mut peer) = connect(&scripted, options).await;
    let mut call = pin!(agent.subscribe(["a", "b"]).into_future());
    assert!(is_pending(&mut call).await);
    grant(&mut peer).await;
    peer.expect_subscribe().await;
    peer.reset();
    // The broker has forgotten the first filter, and what it granted then counts no more.
    let (mut peer, _) = scripted.accept_session(false).await;
    let first = grant(&mut peer).await;
    let second = peer.expect_subscribe().await;
    let filters: BTreeSet<_> = [&first, &second].into_iter().flat_map(asked).collect();
    assert_eq!(filters, [("a", 1), ("b", 1)].into());
    nothing_sent(&agent, &mut peer).await;
    peer.publish(message("fence", "")).await;
    received(&agent, 1).await;
    assert!(is_pending(&mut call).await);
    peer.suback(second.pkid, &[GRANTED]).await;
    assert_eq!(within(LIMIT, "both filters", call).await.unwrap().granted().len(), 2);
}

#[tokio::test]
async fn an_unsubscribe_in_flight_when_the_connection_is_lost_is_sent_again_to_a_session_that_is_still_there() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("kept").clean_session(false);
    let (agent, mut peer) = connect(&scripted, options).await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let end = tokio::spawn(stream.unsubscribe());
    peer.expect_unsubscribe().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a"]);
    nothing_sent(&agent, &mut peer).await;
    assert!(!end.is_finished());
    peer.unsuback(unsubscribe.pkid).await;
    end.await.unwrap().unwrap();
    assert_eq!(agent.stats().filters, 0);
}

#[tokio::test]
async fn an_unsubscribe_in_flight_ends_with_the_session() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    let end = tokio::spawn(stream.unsubscribe());
    peer.expect_unsubscribe().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    end.await.unwrap().unwrap();
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 0);
}

#[tokio::test]
async fn many_filters_are_split_over_several_packets() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).max_filters_per_subscribe(8)).await;
    let filters: Vec<_> = (0..20).map(|n| format!("f/{n}")).collect();
    let call = tokio::spawn(agent.subscribe(filters.clone()).into_future());
    let packets = [grant(&mut peer).await, grant(&mut peer).await, grant(&mut peer).await];
    assert_eq!(packets.each_ref().map(|packet| packet.filters.len()), [8, 8, 4]);
    let sent: Vec<_> = packets.iter().flat_map(|packet| &packet.filters).map(|filter| filter.path.clone()).collect();
    assert_eq!(sent, filters);
    let stream = call.await.unwrap().unwrap();
    assert_eq!(stream.granted().len(), 20);
    drop(stream);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        sizes.push(peer.expect_unsubscribe().await.topics.len());
    }
    assert_eq!(sizes, [8, 8, 4]);
}

#[tokio::test]
async fn an_incoming_qos_1_message_is_acknowledged_and_its_repetition_delivered() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    assert_eq!(peer.expect_puback().await, 7);
    peer.publish(Publish { dup: true, ..numbered("a", "1", WireQoS::AtLeastOnce, 7) }).await;
    assert_eq!(peer.expect_puback().await, 7);
    let first = stream.recv().await.unwrap().unwrap();
    let second = stream.recv().await.unwrap().unwrap();
    assert_eq!([first.is_duplicate(), second.is_duplicate()], [false, true]);
    assert_eq!(first.qos(), QoS::AtLeastOnce);
}

#[tokio::test]
async fn a_message_that_nobody_wants_is_acknowledged_and_counted() {
    let (_scripted, agent, mut peer) = pair().await;
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    assert_eq!(peer.expect_puback().await, 7);
    assert_eq!(agent.stats().unclaimed, 1);
}

#[tokio::test]
async fn an_incoming_qos_2_message_is_delivered_once_however_often_it_comes() {
    let (_scripted, agent, mut peer) = pair().await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    for dup in [false, true, true] {
        peer.publish(Publish { dup, ..numbered("a", "1", WireQoS::ExactlyOnce, 7) }).await;
        assert_eq!(peer.expect_pubrec().await, 7);
    }
    for _ in 0..2 {
        peer.pubrel(7).await;
        assert_eq!(peer.expect_pubcomp().await, 7);
    }
    // The identifier is free again: this is another message.
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    assert!(is_empty(&mut stream));
    assert_eq!(agent.stats().received, 2);
}

#[tokio::test]
async fn an_incoming_qos_2_message_is_delivered_once_across_a_reconnect_of_its_session() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("kept").clean_session(false);
    let (agent, mut peer) = connect(&scripted, options).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();

    let (mut peer, _) = scripted.accept_session(true).await;
    peer.publish(Publish { dup: true, ..numbered("a", "1", WireQoS::ExactlyOnce, 7) }).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();

    let (mut peer, _) = scripted.accept_session(true).await;
    peer.pubrel(7).await;
    assert_eq!(peer.expect_pubcomp().await, 7);
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
    assert_eq!(agent.stats().received, 2);
}

#[tokio::test]
async fn a_new_session_may_use_the_identifiers_of_the_old_for_other_messages() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    peer.publish(numbered("a", "2", WireQoS::ExactlyOnce, 7)).await;
    assert_eq!(peer.expect_pubrec().await, 7);
    assert_eq!(text(&mut stream).await, "1");
    assert_eq!(text(&mut stream).await, "2");
}

#[tokio::test]
async fn acknowledgements_of_a_lost_connection_are_not_sent_on_the_next() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("kept").clean_session(false);
    let (agent, mut peer) = connect(&scripted, options).await;
    let mut stream = granted(&mut peer, agent.subscribe("a").into_future()).await.unwrap();
    peer.publish(numbered("a", "1", WireQoS::AtLeastOnce, 7)).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    nothing_sent(&agent, &mut peer).await;
    peer.publish(numbered("a", "2", WireQoS::AtLeastOnce, 8)).await;
    assert_eq!(peer.expect_puback().await, 8);
    // A reset may overtake the message before it.
    while text(&mut stream).await != "2" {}
}

#[tokio::test]
async fn an_oversized_message_is_acknowledged_dropped_and_counted() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).max_packet_size(1000);
    let (agent, mut peer) = connect(&scripted, options).await;
    let subscribe = agent.subscribe("a").qos(QoS::ExactlyOnce).into_future();
    let mut stream = granted(&mut peer, subscribe).await.unwrap();
    let big = "x".repeat(2000);
    peer.publish(message("a", &big)).await;
    peer.publish(numbered("a", &big, WireQoS::AtLeastOnce, 5)).await;
    assert_eq!(peer.expect_puback().await, 5);
    for _ in 0..2 {
        peer.publish(numbered("a", &big, WireQoS::ExactlyOnce, 6)).await;
        assert_eq!(peer.expect_pubrec().await, 6);
    }
    peer.pubrel(6).await;
    assert_eq!(peer.expect_pubcomp().await, 6);
    peer.publish(message("a", "small")).await;
    assert_eq!(text(&mut stream).await, "small");
    assert!(is_empty(&mut stream));
    let stats = agent.stats();
    assert_eq!((stats.oversized, stats.received, stats.reconnects), (3, 1, 0));
}

#[tokio::test]
async fn an_oversized_message_of_a_broker_does_not_end_the_connection() {
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let sender = Agent::connect(broker.url().as_str()).await.unwrap();
    let agent = options(&broker.url()).max_packet_size(1000).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    sender.publish("a", vec![0; 100_000]).await.unwrap();
    sender.publish("a", "small").await.unwrap();
    assert_eq!(text(&mut stream).await, "small");
    let stats = agent.stats();
    // With MQTT 5 the broker knows the limit, and keeps it back.
    assert_eq!((stats.oversized, stats.received, stats.reconnects), (u64::from(!is_v5()), 1, 0));
}

#[tokio::test]
async fn the_topics_of_the_broker_itself_can_be_read() {
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    let agent = Agent::connect(broker.url().as_str()).await.unwrap();
    let mut everything = agent.subscribe("#").await.unwrap();
    let mut system = agent.subscribe("$SYS/#").await.unwrap();
    let message = within(LIMIT, "a message of the broker", system.recv()).await.unwrap().unwrap();
    assert!(message.topic().as_str().starts_with("$SYS/"), "{message:?}");
    // [MQTT-4.7.2-1]
    assert!(is_empty(&mut everything));
}

broker_test!(a_shared_filter_spreads_the_load_over_two_agents, |broker| async move {
    const MESSAGES: usize = 40;
    let sender = Agent::connect(broker.url()).await.unwrap();
    let agents = [Agent::connect(broker.url()).await.unwrap(), Agent::connect(broker.url()).await.unwrap()];
    let first = agents[0].subscribe("$share/g/a").await.unwrap();
    let second = agents[1].subscribe("$share/g/a").await.unwrap();
    for n in 0..MESSAGES {
        sender.publish("a", n.to_string()).await.unwrap();
    }
    let shares = select_all([first, second]).take(MESSAGES).map(|item| item.unwrap().text().unwrap().to_owned());
    let got: BTreeSet<_> = within(LIMIT, "every message", shares.collect()).await;
    assert_eq!(got.len(), MESSAGES);
    for agent in &agents {
        let stats = agent.stats();
        assert!(stats.received > 0, "one agent got nothing");
        assert_eq!(stats.unclaimed, 0);
    }
});

broker_test!(topics_and_filters_may_use_any_script, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe(["küche/+/温度", "🚪/#"]).await.unwrap();
    for topic in ["küche/ofen/温度", "🚪/haustür", "🚪"] {
        agent.publish(topic, topic).await.unwrap();
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.topic(), topic);
        assert_eq!(message.text().unwrap(), topic);
    }
});

broker_test!(messages_of_several_filters_arrive_in_the_order_they_were_sent, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe(["a/#", "b/+", "c"]).await.unwrap();
    for n in 0..60 {
        agent.publish(["a/x/y", "c", "b/1"][n % 3], n.to_string()).await.unwrap();
    }
    for n in 0..60 {
        assert_eq!(text(&mut stream).await, n.to_string());
    }
});

broker_test!(overlapping_filters_lose_nothing_and_keep_the_order, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe(["a/#", "a/+", "a/b"]).await.unwrap();
    for n in 0..20 {
        agent.publish("a/b", n.to_string()).await.unwrap();
    }
    agent.publish("a/end", "end").await.unwrap();
    let mut seen = Vec::new();
    loop {
        let text = text(&mut stream).await;
        if text == "end" {
            break;
        }
        // A broker may send one copy for each filter (MQTT-3.3.5-1); then these are several deliveries.
        seen.push(text.parse::<u32>().unwrap());
    }
    seen.dedup();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
});
