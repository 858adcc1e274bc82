//! One filter, many subscribers.

use super::*;

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
