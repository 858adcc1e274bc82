//! Filters that match the same messages.

use super::*;

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
