//! Subscribers that are slow.

use super::*;

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
