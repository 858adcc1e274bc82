//! Calls with one reply filter: turns, and how long the filter stays.

use super::*;

#[tokio::test]
async fn the_second_call_costs_one_round_trip() {
    let (_scripted, agent, mut peer) = pair().await;
    first_call(&agent, &mut peer).await;
    for n in ["2", "3"] {
        // The very next packet is the request, and nothing follows.
        let ((), reply) = join(answer(&mut peer, n, n), text(call(&agent, n))).await;
        assert_eq!(reply, n);
    }
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 1);
}

#[tokio::test]
async fn the_reply_filter_goes_when_its_linger_is_over() {
    for linger in [Duration::ZERO, millis(50)] {
        let scripted = Scripted::listen().await;
        let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(linger)).await;
        first_call(&agent, &mut peer).await;
        let unsubscribe = peer.expect_unsubscribe().await;
        assert_eq!(unsubscribe.topics, ["res"]);
        peer.unsuback(unsubscribe.pkid).await;
        settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
        // And comes back when it is wanted.
        first_call(&agent, &mut peer).await;
    }
}

#[tokio::test]
async fn a_call_during_the_linger_keeps_the_filter() {
    const LINGER: Duration = millis(700);
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(LINGER)).await;
    first_call(&agent, &mut peer).await;
    let second = tokio::spawn(call(&agent, "2"));
    let request = peer.expect_publish().await;
    peer.expect_nothing(LINGER * 2).await;
    let ended = Instant::now();
    peer.puback(request.pkid).await;
    peer.publish(message("res", "2")).await;
    second.await.unwrap().unwrap();
    peer.expect_unsubscribe().await;
    assert!(ended.elapsed() >= LINGER, "the linger counts from the last call");
}

#[tokio::test]
async fn a_reply_filter_may_linger_for_ever() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).reply_linger(Duration::MAX)).await;
    first_call(&agent, &mut peer).await;
    let ((), reply) = join(answer(&mut peer, "2", "2"), text(call(&agent, "2"))).await;
    assert_eq!(reply, "2");
}

#[tokio::test]
async fn calls_with_one_reply_filter_take_turns() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = tokio::spawn(join_all(["1", "2", "3"].map(|n| call(&agent, n))));
    grant(&mut peer).await;
    for n in ["1", "2", "3"] {
        let request = peer.expect_publish().await;
        assert_eq!(request.payload, n);
        // The next waits for the reply, not for the acknowledgement.
        peer.puback(request.pkid).await;
        nothing_sent(&agent, &mut peer).await;
        peer.publish(message("res", n)).await;
    }
    let replies: Vec<_> =
        calls.await.unwrap().into_iter().map(|reply| reply.unwrap().text().unwrap().to_owned()).collect();
    assert_eq!(replies, ["1", "2", "3"]);
}

#[tokio::test]
async fn calls_with_different_reply_filters_run_at_the_same_time() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(agent.request("dev", "1").reply_to("res/1").into_future());
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "1");
    let second = tokio::spawn(agent.request("dev", "2").reply_to("res/2").into_future());
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "2");
    peer.publish(message("res/2", "2")).await;
    assert_eq!(second.await.unwrap().unwrap().text().unwrap(), "2");
    peer.publish(message("res/1", "1")).await;
    assert_eq!(first.await.unwrap().unwrap().text().unwrap(), "1");
}

broker_test!(calls_at_once_to_one_device_do_not_swap_replies, |broker| async move {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let calls = (0..50).map(|n| agent.request("dev/1/rpc", n.to_string()).reply_to("dev/1/res").into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().text().unwrap(), n.to_string());
    }
    device.stop().await.unwrap();
});

broker_test!(a_hundred_devices_called_at_once_answer_each_its_own_call, |broker| async move {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    for round in 0..3 {
        let calls = (0..100).map(|n| {
            let payload = format!("{round}/{n}");
            agent.request(format!("dev/{n}/rpc"), payload).reply_to(format!("dev/{n}/res")).into_future()
        });
        for (n, reply) in join_all(calls).await.into_iter().enumerate() {
            let reply = reply.unwrap();
            assert_eq!(reply.text().unwrap(), format!("{round}/{n}"));
            assert_eq!(reply.topic(), format!("dev/{n}/res").as_str());
        }
    }
    let stats = agent.stats();
    assert_eq!((stats.pending_requests, stats.late_replies, stats.filters), (0, 0, 100));
    device.stop().await.unwrap();
});

#[tokio::test]
async fn a_timeout_while_it_waits_for_its_turn_says_that_nothing_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut first = pin!(call(&agent, "1"));
    assert!(is_pending(&mut first).await);
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    let error = agent.request("dev", "2").reply_to("res").timeout(millis(100)).await.unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::NotSent);
    peer.puback(request.pkid).await;
    peer.publish(message("res", "1")).await;
    assert_eq!(text(first).await, "1");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn dropping_a_call_gives_its_turn_to_the_next_at_once() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(call(&agent, "1"));
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "1");
    let second = tokio::spawn(call(&agent, "2"));
    let third = tokio::spawn(call(&agent, "3"));
    settled(&agent, "three calls", |stats| stats.pending_requests == 3).await;
    // One that waits for its turn goes without a trace.
    second.abort();
    settled(&agent, "two calls", |stats| stats.pending_requests == 2).await;
    first.abort();
    answer(&mut peer, "3", "3").await;
    assert_eq!(third.await.unwrap().unwrap().text().unwrap(), "3");
    settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
}
