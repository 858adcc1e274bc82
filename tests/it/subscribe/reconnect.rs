//! Subscriptions across lost connections.

use super::*;
use crate::common::kept;

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
    let options = kept(&scripted);
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
        let options = kept(&scripted);
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
    let options = kept(&scripted);
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
