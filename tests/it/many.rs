//! Everything at once on one agent.

use std::future::IntoFuture;
use std::sync::Arc;

use futures::future::join_all;
use futures::StreamExt;
use mqtt_agent::{Agent, Delivery, ErrorKind, Offline, QoS, Retained};
use tokio::sync::Barrier;

use crate::script::*;
use crate::support::{broker_test, echo, millis, secs, within, Broker, Scripted, LIMIT};

const TASKS: usize = 50;
const ROUNDS: usize = 10;
/// Two cores of a busy machine do it in a few seconds.
const PATIENCE: std::time::Duration = secs(20);

/// Publishes with each QoS and gets it back.
async fn publish_and_subscribe(agent: &Agent, task: usize) {
    let mut stream = agent.subscribe(format!("own/{task}/+")).qos(QoS::ExactlyOnce).await.unwrap();
    for round in 0..ROUNDS {
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][round % 3];
        let payload = format!("{task}/{round}");
        agent.publish(format!("own/{task}/{round}"), payload.clone()).qos(qos).await.unwrap();
        let message = within(PATIENCE, "its own message", stream.next()).await.unwrap().unwrap();
        assert_eq!(message.text().unwrap(), payload);
    }
    stream.unsubscribe().await.unwrap();
}

/// Calls a device of its own, and one that it shares with the others.
async fn request(agent: &Agent, task: usize) {
    for round in 0..ROUNDS {
        let payload = format!("{task}/{round}");
        let id = if round % 2 == 0 { format!("{task}") } else { "shared".to_owned() };
        let call = agent.request(format!("dev/{id}/rpc"), payload.clone()).reply_to(format!("dev/{id}/res"));
        assert_eq!(call.timeout(PATIENCE).await.unwrap().text().unwrap(), payload);
    }
}

/// Takes what the broker retains while another holds the same filter, and gives up on what never comes.
async fn collect(agent: &Agent, task: usize) {
    let filter = format!("kept/{task}/+");
    let mut held = agent.subscribe(&filter).await.unwrap();
    assert_eq!(within(PATIENCE, "what is retained", held.by_ref().take(3).count()).await, 3);
    for _ in 0..ROUNDS {
        let messages = agent.collect(&filter, 3, PATIENCE).retained(Retained::Include).await.unwrap();
        assert_eq!(messages.len(), 3);
        let error = agent.collect("never", 1, millis(5)).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
    }
}

/// Starts things and walks away.
async fn give_up(agent: &Agent, task: usize) {
    for round in 0..ROUNDS {
        let subscribing = agent.subscribe(format!("left/{}", round % 3)).into_future();
        let _ = tokio::time::timeout(millis(round as u64 % 3), subscribing).await;
        let call = agent.request(format!("silent/{task}"), "x").reply_to(format!("silent/{task}/res")).into_future();
        // It may hear before that, where the broker says so, that nobody is there.
        assert!(!matches!(tokio::time::timeout(millis(5), call).await, Ok(Ok(_))));
    }
}

async fn all_at_once(broker: &Broker) {
    let device = echo(&broker.url(), "dev/+/rpc").await;
    for n in 0..3 * TASKS {
        device.agent().publish(format!("kept/{}/{n}", n % TASKS), "kept").retain(true).await.unwrap();
    }

    let agent = options(&broker.url()).reply_linger(millis(200)).connect().await.unwrap();
    let start = Arc::new(Barrier::new(TASKS));
    let tasks = (0..TASKS).map(|task| {
        let (agent, start) = (agent.clone(), Arc::clone(&start));
        tokio::spawn(async move {
            start.wait().await;
            match task % 5 {
                0 | 1 => publish_and_subscribe(&agent, task).await,
                2 => request(&agent, task).await,
                3 => collect(&agent, task).await,
                _ => give_up(&agent, task).await,
            }
        })
    });
    for ended in within(PATIENCE * 2, "the end of all tasks", join_all(tasks)).await {
        ended.unwrap();
    }
    settled(&agent, "an agent that holds nothing", |stats| {
        let held = [stats.filters, stats.subscribers, stats.pending_requests, stats.queued, stats.in_flight];
        held == [0; 5]
    })
    .await;
    let stats = agent.stats();
    assert_eq!((stats.lagged, stats.oversized, stats.reconnects), (0, 0, 0));
    assert!(agent.drain(LIMIT).await.unwrap().is_empty());
    device.stop().await.unwrap();
}

broker_test!(
    fifty_tasks_share_an_agent_and_leave_nothing_behind,
    flavor = "multi_thread",
    worker_threads = 4,
    |broker| async move { all_at_once(&broker).await }
);

broker_test!(fifty_tasks_share_an_agent_on_one_thread, |broker| async move { all_at_once(&broker).await });

#[tokio::test]
async fn calls_taken_back_when_the_connection_is_lost_are_counted_once() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).max_in_flight(1)).await;
    let publish = |offline| agent.publish("p", "x").offline(offline).into_future();
    let sent = tokio::spawn(publish(Offline::Wait));
    peer.expect_publish().await;
    let unwilling = tokio::spawn(join_all((0..10).map(|_| publish(Offline::Fail))));
    let patient = tokio::spawn(join_all((0..5).map(|_| publish(Offline::Wait))));
    settled(&agent, "a queue", |stats| stats.queued == 15).await;
    peer.reset();
    for answer in unwilling.await.unwrap() {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Offline);
    }
    let (mut peer, _) = scripted.accept_session(false).await;
    for queued in (0..6).rev() {
        let publish = peer.expect_publish().await;
        settled(&agent, "one less in the queue", |stats| stats.queued == queued).await;
        peer.puback(publish.pkid).await;
    }
    sent.await.unwrap().unwrap();
    for answer in patient.await.unwrap() {
        answer.unwrap();
    }
}

#[tokio::test]
async fn a_call_whose_caller_left_before_the_connection_was_lost_is_counted_once() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).max_in_flight(1)).await;
    let publish = |offline| tokio::spawn(agent.publish("p", "x").offline(offline).into_future());
    let sent = publish(Offline::Wait);
    peer.expect_publish().await;
    let left = [Offline::Queue, Offline::Wait].map(publish);
    let queued = publish(Offline::Queue);
    settled(&agent, "a queue", |stats| stats.queued == 3).await;
    for call in left {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    peer.reset();
    assert_eq!(queued.await.unwrap().unwrap(), Delivery::Queued);
    let (mut peer, _) = scripted.accept_session(false).await;
    for _ in 0..2 {
        let publish = peer.expect_publish().await;
        peer.puback(publish.pkid).await;
    }
    sent.await.unwrap().unwrap();
    nothing_sent(&agent, &mut peer).await;
    settled(&agent, "an empty queue", |stats| stats.queued == 0 && stats.in_flight == 0).await;
}

#[tokio::test]
async fn a_message_that_left_once_is_not_reported_as_unsent_when_the_connection_is_lost_again() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    // More than the buffers of the system take from one who writes to a peer that does not read.
    let payload = bytes::Bytes::from(vec![0; 1 << 20]);
    let publish = || agent.publish("p", payload.clone()).offline(Offline::Fail).timeout(PATIENCE).into_future();
    let calls = tokio::spawn(join_all((0..32).map(|_| publish())));
    for _ in 0..32 {
        peer.expect_publish().await;
    }
    peer.reset();
    let (peer, _) = scripted.accept_session(false).await;
    settled(&agent, "messages in the queue again", |stats| stats.reconnects == 1 && stats.queued > 0).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    for _ in 0..32 {
        let publish = peer.expect_publish().await;
        peer.puback(publish.pkid).await;
    }
    for answer in calls.await.unwrap() {
        assert_eq!(answer.unwrap(), Delivery::Acknowledged);
    }
}
