//! Filters that match the same messages.

use super::*;
use crate::support::{echo, BrokerKind};

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

/// All that comes before "end", which is published last and to `end` alone.
async fn until_end(agent: &Agent, stream: &mut Subscription, end: &str) -> Vec<String> {
    agent.publish(end, "end").await.unwrap();
    let mut seen = Vec::new();
    loop {
        match text(stream).await {
            text if text == "end" => return seen,
            text => seen.push(text),
        }
    }
}

broker_test!(what_filters_that_cover_each_other_match_comes_once_and_in_order, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut all = agent.subscribe(["a/#", "a/+", "a/b"]).await.unwrap();
    let mut wide = agent.subscribe("#").await.unwrap();
    let mut narrow = agent.subscribe(["a/b", "a/end"]).qos(QoS::AtMostOnce).await.unwrap();
    for n in 0..20 {
        agent.publish("a/b", n.to_string()).await.unwrap();
    }
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for stream in [&mut all, &mut wide, &mut narrow] {
        // The other streams get one more "end" for each that is looked at before them.
        let seen = until_end(&agent, stream, "a/end").await;
        assert_eq!(seen, expected);
    }
});

broker_test!(narrow_filters_go_on_when_the_wide_one_leaves_and_when_it_comes_back, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut narrow = agent.subscribe(["a/b", "a/end", "c/+"]).await.unwrap();
    for round in 0..5 {
        let wide = agent.subscribe("#").await.unwrap();
        agent.publish("a/b", format!("{round}, covered")).await.unwrap();
        let leaving = tokio::spawn(wide.unsubscribe());
        agent.publish("c/x", format!("{round}, meanwhile")).await.unwrap();
        leaving.await.unwrap().unwrap();
        agent.publish("a/b", format!("{round}, alone")).await.unwrap();
        let mut seen = until_end(&agent, &mut narrow, "a/end").await;
        // For a moment the broker holds both.
        seen.dedup();
        assert_eq!(seen, ["covered", "meanwhile", "alone"].map(|when| format!("{round}, {when}")));
    }
});

broker_test!(a_covered_filter_brings_the_retained_messages_it_was_asked_for, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("r/1", "kept").retain(true).await.unwrap();
    let mut wide = agent.subscribe("#").await.unwrap();
    assert_eq!(text(&mut wide).await, "kept");
    for retained in [Retained::IfFirst, Retained::Include, Retained::Only] {
        let mut narrow = agent.subscribe("r/+").retained(retained).await.unwrap();
        let message = within(LIMIT, "the retained message", narrow.recv()).await.unwrap().unwrap();
        assert!(message.is_retained() && message.text().unwrap() == "kept");
        narrow.unsubscribe().await.unwrap();
    }
    let mut ignores = agent.subscribe("r/+").retained(Retained::Ignore).await.unwrap();
    agent.publish("r/2", "new").await.unwrap();
    assert_eq!(text(&mut ignores).await, "new");
    assert_eq!(text(&mut wide).await, "new");
});

broker_test!(a_call_by_a_covered_reply_filter_has_its_reply, |broker| async move {
    let device = echo(&broker.url(), "dev/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    for _ in 0..3 {
        let wide = agent.subscribe("dev/#").await.unwrap();
        for n in ["covered", "alone"] {
            let reply = agent.request("dev/rpc", n).reply_to("dev/res").await.unwrap();
            assert_eq!(reply.text().unwrap(), n);
        }
        drop(wide);
        let reply = agent.request("dev/rpc", "alone").reply_to("dev/res").await.unwrap();
        assert_eq!(reply.text().unwrap(), "alone");
    }
    device.stop().await.unwrap();
});

broker_test!(what_filters_that_only_overlap_match_comes_as_often_as_the_broker_sends_it, |broker| async move {
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut one = agent.subscribe(["a/+", "+/b", "end"]).await.unwrap();
    agent.publish("a/b", "x").await.unwrap();
    // MQTT 5 tells what each copy is for.
    let copies = if broker.kind() == BrokerKind::Embedded && !is_v5() { 2 } else { 1 };
    assert_eq!(until_end(&agent, &mut one, "end").await, vec!["x"; copies]);
});

#[tokio::test]
async fn a_covered_filter_is_given_up_at_the_broker_and_asked_for_again_before_the_other_leaves() {
    if is_v5() {
        // There each filter stands by itself, and the copies are told apart.
        return;
    }
    let (_scripted, agent, mut peer) = pair().await;
    let wide = granted(&mut peer, agent.subscribe("a/#").into_future()).await.unwrap();
    let mut narrow = granted(&mut peer, agent.subscribe("a/b").into_future()).await.unwrap();
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a/b"]);
    peer.unsuback(unsubscribe.pkid).await;
    let ignores = agent.subscribe("a/c").retained(Retained::Ignore).await.unwrap();
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(ignores.granted()[0].1, QoS::AtLeastOnce);

    let end = tokio::spawn(wide.unsubscribe());
    let subscribe = peer.expect_subscribe().await;
    let filters: BTreeSet<_> = asked(&subscribe).into_iter().collect();
    assert_eq!(filters, [("a/b", 1), ("a/c", 1)].into());
    nothing_sent(&agent, &mut peer).await;
    assert!(!end.is_finished());
    peer.publish(message("a/b", "1")).await;
    peer.suback(subscribe.pkid, &[GRANTED, GRANTED]).await;
    let unsubscribe = peer.expect_unsubscribe().await;
    assert_eq!(unsubscribe.topics, ["a/#"]);
    peer.unsuback(unsubscribe.pkid).await;
    end.await.unwrap().unwrap();
    // What is retained was not asked for.
    peer.publish(retained("a/b", "old")).await;
    peer.publish(message("a/b", "2")).await;
    assert_eq!(text(&mut narrow).await, "1");
    assert_eq!(text(&mut narrow).await, "2");
    drop((narrow, ignores));
}
