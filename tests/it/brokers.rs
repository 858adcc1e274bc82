//! Several brokers by name: connected when asked for, with one state, one stream and one end.

use std::collections::HashSet;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;

use futures::poll;
use futures::stream::{FusedStream, StreamExt};
use mqtt_agent::{Agent, Brokers, BrokersState, BrokersSubscription, ErrorKind, QoS, State};
use rumqttc::mqttbytes::v4::ConnectReturnCode;

use crate::common::{options, refusing_address, state, watched};
use crate::script::{grant, message};
use crate::support::{millis, secs, url, within, EmbeddedBroker, Scripted, LIMIT};

/// Two brokers that allow everything, registered as "eu" and "us".
async fn pair() -> (Brokers, [EmbeddedBroker; 2]) {
    let brokers = Brokers::new();
    let running = [EmbeddedBroker::start().await, EmbeddedBroker::start().await];
    for (name, broker) in ["eu", "us"].into_iter().zip(&running) {
        brokers.add(name, options(&broker.url())).unwrap();
    }
    (brokers, running)
}

async fn next(stream: &mut BrokersSubscription) -> (String, String) {
    let (broker, item) = within(LIMIT, "an item", stream.next()).await.unwrap();
    (broker.to_string(), item.unwrap().text().unwrap().to_owned())
}

/// Waits for the error that ends a broker's part.
async fn last(stream: &mut BrokersSubscription) -> (String, ErrorKind) {
    let (broker, item) = within(LIMIT, "an item", stream.next()).await.unwrap();
    (broker.to_string(), item.unwrap_err().kind())
}

/// Whether there was a change.
async fn is_told(state: &mut BrokersState) -> bool {
    poll!(pin!(state.changed())).is_ready()
}

#[tokio::test]
async fn a_broker_is_connected_when_it_is_first_asked_for_and_once() {
    let server = Scripted::listen().await;
    let brokers = Brokers::new();
    brokers.add("eu", options(&server.url())).unwrap();
    server.expect_no_connection(millis(20)).await;
    assert!(brokers.state().current()["eu"].is_none());
    let first = brokers.get("eu").unwrap();
    let (_peer, _) = server.accept_session(false).await;
    state(&first, "a connection", State::is_connected).await;
    assert!(brokers.get("eu").unwrap().is_connected(), "the same agent");
    server.expect_no_connection(millis(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_ask_first_at_the_same_time_share_one_agent() {
    let server = Scripted::listen().await;
    let brokers = Brokers::new();
    brokers.add("eu", options(&server.url())).unwrap();
    let asking = (0..16).map(|_| {
        let brokers = brokers.clone();
        tokio::spawn(async move { brokers.get("eu").unwrap() })
    });
    let agents = futures::future::join_all(asking).await;
    let (_peer, _) = server.accept_session(false).await;
    for agent in agents {
        state(&agent.unwrap(), "a connection", State::is_connected).await;
    }
    server.expect_no_connection(millis(20)).await;
}

#[tokio::test]
async fn publish_and_request_by_name_reach_that_broker() {
    let (brokers, running) = pair().await;
    for (name, broker) in ["eu", "us"].into_iter().zip(&running) {
        let device = Agent::connect(broker.url()).await.unwrap();
        let mut calls = device.subscribe("rpc").await.unwrap();
        tokio::spawn(async move {
            while let Some(Ok(_)) = calls.recv().await {
                device.try_publish("res", name).unwrap();
            }
        });
    }
    for name in ["eu", "us"] {
        let reply = brokers.get(name).unwrap().request("rpc", "who?").reply_to("res").await.unwrap();
        assert_eq!(reply.text().unwrap(), name);
    }
}

#[tokio::test]
async fn what_cannot_be_registered_or_found_is_an_error() {
    let (brokers, _running) = pair().await;
    assert_eq!(brokers.add("eu", "mqtt://localhost").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(brokers.add("asia", "mqtt://localhost:0").unwrap_err().kind(), ErrorKind::InvalidOptions);
    let unknown = brokers.get("asia").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownBroker);
    assert!(unknown.to_string().contains("\"asia\""));
    assert_eq!(brokers.names(), [Arc::from("eu"), Arc::from("us")]);
    assert!(brokers.remove("us").is_none(), "it was never asked for");
    assert!(brokers.remove("us").is_none());
    assert_eq!(brokers.names(), [Arc::from("eu")]);
}

#[test]
fn the_first_call_needs_a_runtime() {
    let brokers = Brokers::new();
    brokers.add("eu", "mqtt://localhost").unwrap();
    assert_eq!(brokers.get("eu").unwrap_err().kind(), ErrorKind::NoRuntime);
}

#[tokio::test]
async fn one_state_tells_of_every_broker() {
    let (brokers, [eu, us]) = pair().await;
    let mut watch = brokers.state();
    let _both = (brokers.get("eu").unwrap(), brokers.get("us").unwrap());
    let connected = |state: &Option<State>| state.as_ref().is_some_and(State::is_connected);
    let all = watch.wait_for(|brokers| brokers.values().all(connected));
    within(LIMIT, "both connections", all).await.unwrap();
    us.stop().await;
    let lost = watch.wait_for(|brokers| connected(&brokers["eu"]) && !connected(&brokers["us"]));
    within(LIMIT, "the loss of one", lost).await.unwrap();
    brokers.add("asia", "mqtt://localhost").unwrap();
    brokers.remove("us").unwrap();
    let names = ["asia", "eu"].map(Arc::from);
    let changed = watch.wait_for(|brokers| brokers.keys().eq(&names));
    assert!(within(LIMIT, "the change", changed).await.unwrap()["asia"].is_none());

    drop(brokers);
    within(LIMIT, "the end", async { while watch.changed().await.is_ok() {} }).await;
    assert!(watch.changed().await.unwrap_err().is_closed());
    assert!(watch.wait_for(|_| false).await.unwrap_err().is_closed());
    assert!(watch.current().is_empty());
    eu.stop().await;
}

#[tokio::test]
async fn a_state_tells_of_changes_since_it_was_made_and_of_each_end_once() {
    let (brokers, _running) = pair().await;
    let agents = ["eu", "us"].map(|name| brokers.get(name).unwrap());
    for agent in &agents {
        state(agent, "a connection", State::is_connected).await;
    }
    let mut early = brokers.state();
    agents[0].close().await;
    let mut late = brokers.state();
    assert!(is_told(&mut early).await, "the end of one");
    assert!(!is_told(&mut late).await, "nothing has changed since");
    brokers.add("asia", "mqtt://localhost").unwrap();
    for watch in [&mut early, &mut late] {
        assert!(is_told(watch).await, "a broker more");
        assert!(!is_told(watch).await, "the agent that had ended has not changed");
    }
    agents[1].close().await;
    for watch in [&mut early, &mut late] {
        assert!(is_told(watch).await, "the end of the other");
        assert!(!is_told(watch).await);
    }
}

#[tokio::test]
async fn one_stream_brings_the_messages_of_every_broker_with_its_name() {
    let (brokers, _running) = pair().await;
    let mut stream = brokers.subscribe(|agent| agent.subscribe("a/#").qos(QoS::ExactlyOnce));
    within(LIMIT, "both subscriptions", stream.joined()).await;
    for name in ["eu", "us", "eu"] {
        brokers.get(name).unwrap().publish("a/1", name).await.unwrap();
        assert_eq!(next(&mut stream).await, (name.to_owned(), name.to_owned()));
    }
    drop(stream);
    for name in ["eu", "us"] {
        crate::common::nothing_left(&brokers.get(name).unwrap(), "the stream").await;
    }
}

#[tokio::test]
async fn brokers_added_later_join_the_stream_and_removed_ones_leave_it() {
    let (brokers, _running) = pair().await;
    let mut stream = brokers.subscribe(|agent| agent.subscribe("a"));
    within(LIMIT, "both subscriptions", stream.joined()).await;
    let later = EmbeddedBroker::start().await;
    brokers.add("asia", options(&later.url())).unwrap();
    within(LIMIT, "the third subscription", stream.joined()).await;
    brokers.get("asia").unwrap().publish("a", "later").await.unwrap();
    assert_eq!(next(&mut stream).await, ("asia".into(), "later".into()));

    let removed = brokers.remove("asia").unwrap();
    within(LIMIT, "nothing", stream.joined()).await;
    crate::common::nothing_left(&removed, "its removal").await;
    // Under the same name another broker is another one.
    brokers.add("asia", options(&later.url())).unwrap();
    within(LIMIT, "the fourth subscription", stream.joined()).await;
    removed.publish("a", "again").await.unwrap();
    assert_eq!(next(&mut stream).await, ("asia".into(), "again".into()));
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_joins_when_it_can_and_holds_nobody_up() {
    let (brokers, _running) = pair().await;
    let server = Scripted::listen().await;
    brokers.add("slow", options(&server.url()).timeout(millis(1))).unwrap();
    let mut stream = brokers.subscribe(|agent| agent.subscribe("a"));
    assert!(tokio::time::timeout(millis(200), stream.joined()).await.is_err());
    brokers.get("eu").unwrap().publish("a", "x").await.unwrap();
    assert_eq!(next(&mut stream).await, ("eu".into(), "x".into()));

    let mut peer = server.accept().await;
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::Success, false).await;
    tokio::join!(within(LIMIT, "the slow one", stream.joined()), grant(&mut peer));
    peer.publish(message("a", "at last")).await;
    assert_eq!(next(&mut stream).await, ("slow".into(), "at last".into()));
}

#[tokio::test]
async fn a_broker_that_refuses_says_so_once_and_the_others_go_on() {
    let (brokers, _running) = pair().await;
    let strict = EmbeddedBroker::start_with(EmbeddedBroker::builder().refuse("a")).await;
    brokers.add("strict", options(&strict.url())).unwrap();
    let mut stream = brokers.subscribe(|agent| agent.subscribe("a"));
    within(LIMIT, "two subscriptions and a refusal", stream.joined()).await;
    assert_eq!(last(&mut stream).await, ("strict".into(), ErrorKind::SubscribeRefused));
    brokers.get("us").unwrap().publish("a", "x").await.unwrap();
    assert_eq!(next(&mut stream).await, ("us".into(), "x".into()));
}

#[tokio::test]
async fn drain_ends_all_within_one_deadline_and_reports_each() {
    let (brokers, _running) = pair().await;
    let server = Scripted::listen().await;
    brokers.add("deaf", options(&server.url())).unwrap();
    brokers.add("idle", "mqtt://localhost").unwrap();
    for name in ["eu", "us", "deaf"] {
        brokers.get(name).unwrap().publish("a", "x").try_send().unwrap();
    }
    let (mut peer, _) = server.accept_session(false).await;
    peer.expect_publish().await;
    let left = within(LIMIT, "the end", brokers.drain(millis(200))).await;
    let left: Vec<_> = left.iter().map(|(name, left)| (&**name, left.as_ref().unwrap().publishes)).collect();
    assert_eq!(left, [("deaf", 1), ("eu", 0), ("idle", 0), ("us", 0)]);

    for name in ["eu", "idle"] {
        assert!(brokers.get(name).unwrap_err().is_closed());
    }
    assert!(brokers.add("late", "mqtt://localhost").unwrap_err().is_closed());
    assert!(brokers.state().current().into_values().flatten().all(|state| state.is_closed()));
    let again = brokers.drain(LIMIT).await;
    assert!(again["eu"].as_ref().unwrap_err().is_closed());
}

#[tokio::test]
async fn a_stream_ends_with_the_registry_after_a_last_word_of_each_broker() {
    for drained in [true, false] {
        let (brokers, _running) = pair().await;
        let mut stream = brokers.subscribe(|agent| agent.subscribe("a"));
        within(LIMIT, "both subscriptions", stream.joined()).await;
        let mut states = ["eu", "us"].map(|name| brokers.get(name).unwrap().state());
        if drained {
            brokers.drain(LIMIT).await;
        }
        drop(brokers);
        let mut ended = HashSet::new();
        ended.extend([last(&mut stream).await, last(&mut stream).await]);
        assert_eq!(ended, HashSet::from(["eu", "us"].map(|name| (name.to_owned(), ErrorKind::Closed))));
        assert!(within(LIMIT, "the end", stream.next()).await.is_none());
        for state in &mut states {
            watched(state, "the end of an agent", State::is_closed).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_a_broker_ends_with_the_registry_and_lets_the_agent_go() {
    let (_port, addr) = refusing_address();
    let brokers = Brokers::new();
    brokers.add("away", options(&url(addr))).unwrap();
    let mut stream = brokers.subscribe(|agent| agent.subscribe("a"));
    assert!(poll!(pin!(stream.recv())).is_pending() && !stream.is_terminated());
    let mut agent = brokers.get("away").unwrap().state();
    drop(brokers);
    assert_eq!(last(&mut stream).await, ("away".into(), ErrorKind::Closed));
    assert!(within(LIMIT, "the end", stream.recv()).await.is_none());
    assert!(stream.is_terminated());
    watched(&mut agent, "the end of the agent", State::is_closed).await;
}

#[tokio::test]
async fn a_broker_whose_agent_has_ended_is_closed_until_it_is_added_again() {
    let (brokers, running) = pair().await;
    brokers.get("eu").unwrap().close().await;
    assert!(brokers.get("eu").unwrap().publish("a", "x").await.unwrap_err().is_closed());
    brokers.remove("eu").unwrap();
    brokers.add("eu", options(&running[0].url())).unwrap();
    let call = brokers.get("eu").unwrap().publish("a", "x").timeout(secs(5)).into_future();
    within(LIMIT, "the publish", call).await.unwrap();
}
