//! The end of a subscription, and of a call that makes one.

use super::*;

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
