//! Many filters.

use super::*;
use crate::support::secs;

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

broker_test!(a_hundred_thousand_filters_live_in_one_agent, |broker| async move {
    const FILTERS: usize = 100_000;
    let agent = Agent::builder(&broker.url()).unwrap().timeout(secs(120)).connect().await.unwrap();
    let names: Vec<_> = (0..FILTERS).map(|n| format!("devices/{n}/state")).collect();
    let mut all = agent.subscribe(&names).await.unwrap();
    assert_eq!((all.granted().len(), agent.stats().filters), (FILTERS, FILTERS as u64));
    for n in (0..FILTERS).step_by(FILTERS / 100) {
        agent.publish(&names[n], n.to_string()).await.unwrap();
        assert_eq!(text(&mut all).await, n.to_string());
    }
    all.unsubscribe().await.unwrap();
    assert_eq!(agent.stats().filters, 0);
});

#[tokio::test]
async fn subscribing_to_and_leaving_what_many_share_tells_the_broker_once() {
    const SUBSCRIBERS: usize = 10_000;
    let (_scripted, agent, mut peer) = pair().await;
    let first = granted(&mut peer, agent.subscribe("a").capacity(1).into_future()).await.unwrap();
    let others = join_all((0..SUBSCRIBERS).map(|_| agent.subscribe("a").capacity(1).into_future())).await;
    let mut others: Vec<_> = others.into_iter().map(Result::unwrap).collect();
    drop(first);
    // From the middle, so that those that take the places of others are found.
    while others.len() > 2 {
        drop(others.swap_remove(others.len() / 2));
    }
    nothing_sent(&agent, &mut peer).await;
    peer.publish(message("a", "1")).await;
    for stream in &mut others {
        assert_eq!(text(stream).await, "1");
    }
    drop(others);
    assert_eq!(peer.expect_unsubscribe().await.topics, ["a"]);
}
