//! Many filters.

use super::*;

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
