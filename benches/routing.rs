//! What a received message costs with few and with many filters, and what a filter and a subscription hold.
//!
//! `cargo bench --bench routing`. The messages are spread over as many topics as there are filters, in an order that no
//! cache can guess. Beside it stands what the same messages cost a subscription to `#` alone: what remains is the way
//! through the filters.

#[path = "throughput/cores.rs"]
mod cores;
// This uses a part of it.
#[allow(dead_code)]
#[path = "throughput/null_broker.rs"]
mod null_broker;

use std::alloc::System;
use std::future::IntoFuture;
use std::time::{Duration, Instant};

use cap::Cap;
use futures::future::join_all;
use mqtt_agent::{Agent, QoS, Subscription};
use null_broker::NullBroker;
use tokio::runtime::Builder;

/// Counts the bytes that live on the heap.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const FILTERS: [usize; 4] = [1, 10, 1_000, 100_000];
const MESSAGES: usize = 500_000;
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    // Without `--bench` it is `cargo test` that runs this, to see that it does.
    let (rounds, messages) =
        if std::env::args().any(|argument| argument == "--bench") { (9, MESSAGES) } else { (1, 1_000) };
    let core = cores::reserve_last();
    let broker = NullBroker::start(core);
    let workers = core.unwrap_or(2).min(2);
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime");

    println!("medians of {rounds} rounds of {messages} messages; workers: {workers}");
    println!(
        "{:>10}{:>14}{:>10}{:>12}{:>18}{:>20}",
        "filters", "ns/message", "with #", "subscribe", "bytes/filter", "bytes/subscription"
    );
    for filters in FILTERS {
        let (times, subscribed, per_filter) = runtime.block_on(one_subscription(&broker, filters, rounds, messages));
        let per_subscription = runtime.block_on(many_subscriptions(&broker, filters));
        println!(
            "{filters:>10}{:>14.0}{:>10.0}{:>12}{per_filter:>18}{per_subscription:>20}",
            median(&times[0]) * 1e9 / messages as f64,
            median(&times[1]) * 1e9 / messages as f64,
            format!("{:.1} ms", subscribed.as_secs_f64() * 1e3),
        );
    }
}

async fn connect(broker: &NullBroker) -> Agent {
    let url = format!("mqtt://{}", broker.address());
    let options = Agent::builder(&url).expect("a valid URL").keep_alive(PATIENCE).timeout(PATIENCE);
    options.connect().await.expect("the broker accepts")
}

/// The seconds of each round, with these filters and with `#`, how long it took to subscribe to them, and the bytes that
/// each of them holds.
async fn one_subscription(
    broker: &NullBroker,
    filters: usize,
    rounds: usize,
    messages: usize,
) -> ([Vec<f64>; 2], Duration, usize) {
    let agent = connect(broker).await;
    let names: Vec<_> = (0..filters).map(|n| format!("spread/{n}/data")).collect();
    let empty = agent.subscribe("else").capacity(messages).await.expect("it is granted");
    let (before, start) = (HEAP.allocated(), Instant::now());
    let subscription = agent.subscribe(&names).capacity(1).await.expect("it is granted");
    let (bytes, subscribed) = (HEAP.allocated().saturating_sub(before), start.elapsed());
    drop((subscription.unsubscribe().await, empty));

    let subscription = agent.subscribe(&names).capacity(messages).await.expect("it is granted");
    let times = receive(&agent, subscription, filters, rounds, messages).await;
    let subscription = agent.subscribe("#").capacity(messages).await.expect("it is granted");
    let times_of_one = receive(&agent, subscription, filters, rounds, messages).await;
    agent.close().await;
    ([times, times_of_one], subscribed, bytes / filters)
}

/// The seconds that each round took.
async fn receive(
    agent: &Agent,
    mut subscription: Subscription,
    topics: usize,
    rounds: usize,
    messages: usize,
) -> Vec<f64> {
    let topic = format!("spread/{topics}/{messages}");
    let mut times = Vec::new();
    for _ in 0..rounds {
        let agent = agent.clone();
        let topic = topic.clone();
        let receiving = async move {
            agent.publish(topic, "").qos(QoS::AtMostOnce).await.expect("it is sent");
            // The broker is done preparing when the first has come.
            let mut start = None;
            for _ in 0..messages {
                // A message lost is a message not received: the bench fails rather than count it.
                subscription.recv().await.expect("the agent runs").expect("it lost nothing");
                start.get_or_insert_with(Instant::now);
            }
            (start.map_or(0.0, |start| start.elapsed().as_secs_f64()), subscription)
        };
        let (time, returned) = tokio::spawn(receiving).await.expect("no bench panics");
        subscription = returned;
        times.push(time);
    }
    times
}

/// The bytes that each of so many subscriptions to a filter of its own holds, with room for one message.
async fn many_subscriptions(broker: &NullBroker, count: usize) -> usize {
    let agent = connect(broker).await;
    let before = HEAP.allocated();
    let subscribe = |n| agent.subscribe(format!("spread/{n}/data")).capacity(1).into_future();
    let subscriptions = join_all((0..count).map(subscribe)).await;
    assert!(subscriptions.iter().all(Result::is_ok), "all are granted");
    let bytes = HEAP.allocated().saturating_sub(before);
    drop(subscriptions);
    agent.close().await;
    bytes / count
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
