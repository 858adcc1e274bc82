//! Subscriptions that acknowledge late, in sessions of their own.

use std::collections::BTreeSet;

use mqtt_agent::{Acks, Message, Options, Subscribe};
use rumqttc::mqttbytes::v4::Connect;

use super::*;
use crate::common::nothing_left;
use crate::support::{echo, secs, Broker, BrokerKind, Peer};

mod session;

/// Long enough for a packet that should not come.
const QUIET: std::time::Duration = millis(30);

/// An agent, and a subscription of it with the far end of its own connection.
async fn held(subscribe: Subscribe, scripted: &Scripted) -> (Subscription, Peer, Connect) {
    let call = tokio::spawn(subscribe.into_future());
    let (mut peer, connect) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    (call.await.unwrap().unwrap(), peer, connect)
}

async fn next(stream: &mut Subscription) -> Message {
    within(LIMIT, "a message", stream.recv()).await.expect("the agent is open").unwrap()
}

fn job(n: u16) -> Publish {
    numbered("jobs", &n.to_string(), WireQoS::AtLeastOnce, n)
}

#[tokio::test]
async fn a_message_is_acknowledged_as_it_is_taken_on_a_connection_beside_the_agents() {
    let (scripted, agent, mut main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::OnTake), &scripted).await;
    peer.publish(job(1)).await;
    peer.publish(numbered("jobs", "2", WireQoS::ExactlyOnce, 2)).await;
    peer.expect_nothing(QUIET).await;
    assert_eq!(text(&mut jobs).await, "1");
    assert_eq!(peer.expect_puback().await, 1);
    peer.expect_nothing(QUIET).await;
    let message = next(&mut jobs).await;
    assert_eq!(peer.expect_pubrec().await, 2);
    message.ack();
    peer.pubrel(2).await;
    assert_eq!(peer.expect_pubcomp().await, 2);
    nothing_sent(&agent, &mut main).await;
}

#[tokio::test]
async fn a_message_is_acknowledged_by_hand_once_and_in_the_order_of_arrival() {
    let (scripted, agent, _main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    for n in 1..=3 {
        peer.publish(job(n)).await;
    }
    let messages = [next(&mut jobs).await, next(&mut jobs).await, next(&mut jobs).await];
    messages[2].ack();
    messages[1].ack();
    peer.expect_nothing(QUIET).await;
    let clone = messages[0].clone();
    clone.ack();
    messages[0].ack();
    drop(messages);
    for n in 1..=3 {
        assert_eq!(peer.expect_puback().await, n);
    }
    peer.expect_nothing(QUIET).await;
}

#[tokio::test]
async fn an_ack_on_a_message_that_needs_none_does_nothing() {
    let (scripted, agent, mut main) = pair().await;
    let mut stream = granted(&mut main, agent.subscribe("jobs").into_future()).await.unwrap();
    main.publish(job(1)).await;
    assert_eq!(main.expect_puback().await, 1);
    next(&mut stream).await.ack();
    nothing_sent(&agent, &mut main).await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(message("jobs", "x")).await;
    next(&mut jobs).await.ack();
    peer.expect_nothing(QUIET).await;
}

#[tokio::test]
async fn an_ack_from_before_a_reconnect_is_never_one_of_another_message() {
    for session_present in [true, false] {
        let scripted = Scripted::listen().await;
        let options = options(&scripted.url()).client_id("worker").clean_session(false);
        let (agent, _main) = connect(&scripted, options).await;
        let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
        peer.publish(job(1)).await;
        let old = next(&mut jobs).await;
        peer.reset();
        let (mut peer, _) = scripted.accept_session(session_present).await;
        if !session_present {
            grant(&mut peer).await;
        }
        peer.publish(numbered("jobs", "another", WireQoS::AtLeastOnce, 1)).await;
        let new = next(&mut jobs).await;
        assert_eq!(new.text().unwrap(), "another");
        old.ack();
        drop(old);
        peer.expect_nothing(QUIET).await;
        new.ack();
        assert_eq!(peer.expect_puback().await, 1);
        peer.expect_nothing(QUIET).await;
    }
}

#[tokio::test]
async fn a_full_stream_is_not_read_into_whatever_the_qos() {
    let (scripted, agent, _main) = pair().await;
    let subscribe = agent.subscribe("jobs").acks(Acks::OnTake).capacity(10);
    let (mut jobs, mut peer, _) = held(subscribe, &scripted).await;
    for n in 0..1_000 {
        peer.publish(message("jobs", &n.to_string())).await;
    }
    received(&agent, 10).await;
    for n in 0..1_000 {
        assert!(agent.stats().received <= n + 10);
        assert_eq!(text(&mut jobs).await, n.to_string());
    }
    assert_eq!(agent.stats().lagged, 0);
}

async fn flood(agent: &Agent, topic: &str, count: usize) {
    const AT_ONCE: usize = 10_000;
    for first in (0..count).step_by(AT_ONCE) {
        let sent = (first..count.min(first + AT_ONCE)).map(|n| agent.publish(topic, n.to_string()).into_future());
        for sent in join_all(sent).await {
            sent.unwrap();
        }
    }
}

broker_test!(a_consumer_that_sleeps_costs_its_capacity_and_loses_nothing, |broker| async move {
    // The embedded broker takes a millisecond for each.
    let messages = if broker.kind() == BrokerKind::Mosquitto { 100_000 } else { 5_000 };
    const CAPACITY: usize = 100;
    let agent = Agent::builder(&broker.url()).unwrap().timeout(secs(60)).connect().await.unwrap();
    let mut jobs = agent.subscribe("jobs").acks(Acks::OnTake).capacity(CAPACITY).await.unwrap();
    flood(&agent, "jobs", messages).await;
    assert!(agent.stats().received <= CAPACITY as u64);
    for n in 0..messages {
        assert_eq!(text(&mut jobs).await, n.to_string());
    }
    assert_eq!(agent.stats().lagged, 0);
});

broker_test!(a_stuck_subscription_holds_up_nobody_else, |broker| async move {
    const MESSAGES: usize = 1_000;
    let device = echo(&broker.url(), "dev/rpc").await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let stuck = agent.subscribe("all/#").acks(Acks::Manual).capacity(1).await.unwrap();
    let mut other = agent.subscribe("all/+").await.unwrap();
    let mut slow = agent.subscribe("all/+").acks(Acks::OnTake).await.unwrap();
    for n in 0..MESSAGES {
        agent.publish("all/x", n.to_string()).await.unwrap();
        assert_eq!(text(&mut other).await, n.to_string());
        assert_eq!(text(&mut slow).await, n.to_string());
        if n % 100 == 0 {
            let reply = agent.request("dev/rpc", n.to_string()).reply_to("dev/res").await.unwrap();
            assert_eq!(reply.text().unwrap(), n.to_string());
        }
    }
    drop(stuck);
    device.stop().await.unwrap();
});

/// What is left of a process when it is killed: nothing says goodbye.
struct Process(Option<tokio::runtime::Runtime>);

impl Process {
    fn start() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(1).enable_all().build().unwrap()))
    }

    async fn run<T: Send + 'static>(&self, work: impl std::future::Future<Output = T> + Send + 'static) -> T {
        self.0.as_ref().unwrap().spawn(work).await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

fn worker(broker: &Broker) -> Options {
    options(&broker.url()).client_id("worker").clean_session(false)
}

broker_test!(
    what_a_killed_process_did_not_acknowledge_comes_to_the_next_with_the_same_subscription,
    |broker| async move {
        const MESSAGES: u32 = 200;
        let sender = Agent::connect(broker.url()).await.unwrap();
        for (acks, qos) in
            [(Acks::OnTake, QoS::AtLeastOnce), (Acks::Manual, QoS::AtLeastOnce), (Acks::Manual, QoS::ExactlyOnce)]
        {
            // A session of its own for each round.
            let filter = format!("jobs/{acks:?}/{qos:?}");
            let subscribe = |agent: &Agent| agent.subscribe(&filter).acks(acks).qos(qos).capacity(8);
            let process = Process::start();
            let agent = process.run(worker(&broker).connect()).await.unwrap();
            let mut jobs = process.run(subscribe(&agent).into_future()).await.unwrap();
            let publish = |n: u32| sender.publish(&*filter, n.to_string()).qos(qos).into_future();
            for sent in join_all((0..MESSAGES / 2).map(publish)).await {
                sent.unwrap();
            }
            let mut acknowledged = BTreeSet::new();
            // As many as the stream holds remain without an acknowledgement.
            for n in 0..18 {
                let message = next(&mut jobs).await;
                if acks == Acks::OnTake || n < 10 {
                    message.ack();
                    acknowledged.insert(message.text().unwrap().parse::<u32>().unwrap());
                }
            }
            drop(process);
            for sent in join_all((MESSAGES / 2..MESSAGES).map(publish)).await {
                sent.unwrap();
            }
            let agent = worker(&broker).connect().await.unwrap();
            let mut jobs = subscribe(&agent).await.unwrap();
            let mut missing: BTreeSet<_> = (0..MESSAGES).filter(|n| !acknowledged.contains(n)).collect();
            while !missing.is_empty() {
                let message = next(&mut jobs).await;
                missing.remove(&message.text().unwrap().parse().unwrap());
                message.ack();
            }
            jobs.unsubscribe().await.unwrap();
            nothing_left(&agent, "the end of the subscription").await;
            agent.close().await;
        }
    }
);
