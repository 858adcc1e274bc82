//! What one operation takes from the heap. Counted rather than timed, so that it says the same on any machine; the bounds
//! leave room for what is good to have, and none for a copy of each message.

#![allow(clippy::unwrap_used)]

#[path = "../benches/throughput/cores.rs"]
#[allow(dead_code)]
mod cores;
#[path = "../benches/throughput/null_broker.rs"]
#[allow(dead_code)]
mod null_broker;

use std::future::{Future, IntoFuture};

use allocation_counter::measure;
use futures::future::join_all;
use mqtt_agent::{Agent, Options, QoS, Version};
use null_broker::NullBroker;
use tokio::runtime::{Builder, Runtime};

const OPERATIONS: usize = 1_000;

/// An agent on this thread, whose allocations are the ones that are counted; the broker has its own.
struct Bench {
    runtime: Runtime,
    agent: Agent,
    _broker: NullBroker,
}

impl Bench {
    fn new(version: Version) -> Self {
        let broker = NullBroker::start(None);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let options = Options::from_url(&format!("mqtt://{}", broker.address())).unwrap().version(version);
        let agent = runtime.block_on(options.connect()).unwrap();
        Self { runtime, agent, _broker: broker }
    }

    /// Allocations for each of [`OPERATIONS`]; once before that, for what is kept from then on.
    fn count<F: Future>(&self, work: impl Fn() -> F) -> f64 {
        self.runtime.block_on(work());
        let counted = measure(|| drop(self.runtime.block_on(work())));
        counted.count_total as f64 / OPERATIONS as f64
    }
}

fn each_version(bound: f64, what: &str, count: impl Fn(&Bench) -> f64) {
    for version in [Version::V311, Version::V5] {
        let counted = count(&Bench::new(version));
        println!("{what}, {version:?}: {counted:.2} allocations");
        assert!(counted <= bound, "{what}, {version:?}: {counted:.2} allocations for each, at most {bound} are good");
    }
}

async fn publish(agent: &Agent, qos: QoS) {
    let publish = |_| agent.publish("bench/data", "payload").qos(qos).into_future();
    assert!(join_all((0..OPERATIONS).map(publish)).await.iter().all(Result::is_ok));
}

// The topic, the answer's channel, and the place of the future in `join_all`.
#[test]
fn a_publish_at_qos_0_takes_three_allocations() {
    each_version(4.0, "QoS 0", |bench| bench.count(|| publish(&bench.agent, QoS::AtMostOnce)));
}

#[test]
fn a_publish_at_qos_1_takes_no_more_than_one_at_qos_0() {
    each_version(4.0, "QoS 1", |bench| bench.count(|| publish(&bench.agent, QoS::AtLeastOnce)));
}

#[test]
fn a_received_message_takes_one_allocation() {
    each_version(1.5, "receive", |bench| {
        let subscribing = bench.agent.subscribe("flood/data").capacity(OPERATIONS).into_future();
        let subscription = tokio::sync::Mutex::new(bench.runtime.block_on(subscribing).unwrap());
        bench.count(|| async {
            let mut subscription = subscription.lock().await;
            bench.agent.publish(format!("flood/{OPERATIONS}"), "").await.unwrap();
            for _ in 0..OPERATIONS {
                subscription.recv().await.unwrap().unwrap();
            }
        })
    });
}

// The topics, two; the filter; the answer's channel, the list of replies, the reply.
#[test]
fn a_call_takes_few_allocations() {
    each_version(8.0, "call", |bench| {
        bench.count(|| async {
            for _ in 0..OPERATIONS {
                bench.agent.request("dev/0/rpc", "payload").reply_to("dev/0/rpc/res").await.unwrap();
            }
        })
    });
}

#[test]
fn what_is_passed_by_in_a_json_payload_takes_none() {
    let bench = Bench::new(Version::V311);
    let counted = [1, OPERATIONS].map(|members| {
        let before: String = (0..members).map(|n| format!(r#""a-{n}":["text",{n}],"#)).collect();
        let call = bench.agent.request("dev/0/rpc", format!(r#"{{{before}"id":17}}"#)).reply_to("dev/0/rpc/res");
        let reply = bench.runtime.block_on(call.into_future()).unwrap();
        let counted = measure(|| assert_eq!(reply.json_at::<u32>("/id").unwrap(), 17));
        counted.count_total
    });
    assert_eq!(counted[0], counted[1]);
}
