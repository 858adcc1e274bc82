//! What is a reply, and what is none.

use super::*;

#[tokio::test]
async fn a_reply_is_taken_before_the_request_is_acknowledged() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    assert_eq!(request.qos, WireQoS::AtLeastOnce);
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    settled(&agent, "the unacknowledged request", |stats| stats.in_flight == 1 && stats.pending_requests == 0).await;
    peer.puback(request.pkid).await;
    settled(&agent, "the acknowledgement", |stats| stats.in_flight == 0 && stats.acked == 1).await;
}

#[tokio::test]
async fn several_replies_come_in_their_order() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "all").reply_to("res/+").replies(3).into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    for n in ["1", "2", "3", "4"] {
        peer.publish(message("res/x", n)).await;
    }
    let replies = call.await.unwrap().unwrap();
    let replies: Vec<_> = replies.iter().map(|reply| reply.text().unwrap()).collect();
    assert_eq!(replies, ["1", "2", "3"]);
    settled(&agent, "one reply too many", |stats| stats.late_replies == 1).await;
}

#[tokio::test]
async fn a_timeout_carries_the_replies_that_came_and_says_that_the_request_left() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = agent.request("dev", "all").reply_to("res").timeout(secs(1)).replies(3);
    let call = tokio::spawn(call.into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(message("res", "1")).await;
    peer.publish(message("res", "2")).await;
    let error = call.await.unwrap().unwrap_err();
    assert!(error.is_timeout());
    assert_eq!(error.outcome(), Outcome::Unknown);
    let replies: Vec<_> = error.messages().iter().map(|reply| reply.text().unwrap()).collect();
    assert_eq!(replies, ["1", "2"]);
    assert_eq!(agent.stats().pending_requests, 0);
}

#[tokio::test]
async fn a_retained_message_is_no_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(retained("res", "old")).await;
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
}

broker_test!(what_the_broker_retains_on_the_reply_topic_is_no_reply, |broker| async move {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    agent.publish("dev/1/res", "old").retain(true).await.unwrap();
    for n in ["1", "2"] {
        let reply = agent.request("dev/1/rpc", n).reply_to("dev/1/res").await.unwrap();
        assert_eq!(reply.text().unwrap(), n);
    }
    device.stop().await.unwrap();
});

#[tokio::test]
async fn a_message_before_the_request_was_sent_is_not_its_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    let subscribe = peer.expect_subscribe().await;
    peer.publish(message("res", "too early")).await;
    received(&agent, 1).await;
    peer.suback(subscribe.pkid, &[GRANTED]).await;
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    assert_eq!(agent.stats().late_replies, 1);
}

#[tokio::test]
async fn a_message_in_one_segment_with_the_suback_is_not_the_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(call(&agent, "ping"));
    let subscribe = peer.expect_subscribe().await;
    let granted = SubAck::new(subscribe.pkid, vec![GRANTED]);
    peer.send_together([Packet::SubAck(granted), Packet::Publish(message("res", "too early"))]).await;
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    assert_eq!(agent.stats().late_replies, 1);
}

#[tokio::test]
async fn a_late_reply_is_counted_and_given_to_nobody() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "1").reply_to("res").timeout(secs(1)).into_future());
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    assert!(call.await.unwrap().unwrap_err().is_timeout());
    peer.puback(request.pkid).await;
    peer.publish(message("res", "1")).await;
    settled(&agent, "a late reply", |stats| stats.late_replies == 1).await;
    let ((), reply) = join(answer(&mut peer, "2", "2"), text(super::call(&agent, "2"))).await;
    assert_eq!(reply, "2");
}

/// Nothing in a plain reply says which call it answers: one that is late enough to meet the next call is its reply.
/// Whoever needs more gives each call a reply topic of its own.
#[tokio::test]
async fn a_late_reply_that_meets_the_next_call_cannot_be_told_from_its_reply() {
    let (_scripted, agent, mut peer) = pair().await;
    let first = tokio::spawn(agent.request("dev", "1").reply_to("res").timeout(secs(1)).into_future());
    grant(&mut peer).await;
    peer.expect_publish().await;
    assert!(first.await.unwrap().unwrap_err().is_timeout());
    let second = tokio::spawn(call(&agent, "2"));
    peer.expect_publish().await;
    peer.publish(message("res", "1")).await;
    assert_eq!(second.await.unwrap().unwrap().text().unwrap(), "1");
    peer.publish(message("res", "2")).await;
    settled(&agent, "a late reply", |stats| stats.late_replies == 1).await;
}
