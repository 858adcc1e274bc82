//! One client in a process of its own: it does what it is told on standard input and says how long that took.
//!
//! A process of its own, so that its memory and processor time are its own too, and that the others stand still.

use std::io::{BufRead, Write};
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Builder;

use crate::clients::{agent, azure, bare, event_loop, mqtt5, socket, typed, Client, Device};
use crate::endpoint::Endpoint;
use crate::heap;
use crate::work::Work;

/// Serves one client until standard input ends.
pub(crate) fn serve(name: &str, broker: &Endpoint) -> ! {
    match name {
        "agent-311" => run::<agent::OnV311>(broker),
        "agent-5" => run::<agent::OnV5>(broker),
        "socket" => run::<socket::Socket>(broker),
        "bare" => run::<bare::Bare>(broker),
        "event-loop" => run::<event_loop::Loop>(broker),
        "azure" => run::<azure::Azure>(broker),
        "mqtt5" => run::<mqtt5::Mqtt5>(broker),
        "typed" => run::<typed::Typed>(broker),
        _ => panic!("there is no client {name}"),
    }
}

fn run<C: Client>(broker: &Endpoint) -> ! {
    // More workers than cores would measure how they take the core from each other.
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(2);
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().expect("a runtime");
    // On a worker, where a request handler runs: `block_on` alone would add one more thread to wake.
    let broker = broker.clone();
    let client = Arc::new(
        runtime.block_on(async { tokio::spawn(async move { C::connect(&broker).await }).await.expect("it connects") }),
    );
    say("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (Some(work), client) = (Work::parse(&line), client.clone()) else { break };
        let counted = heap::allocations();
        let done = runtime.block_on(async { tokio::spawn(perform(client, work)).await });
        match done {
            Ok(Some(Done { wall, p50, p99 })) => say(&format!(
                "done {} {} {} {}",
                wall.as_secs_f64(),
                p50.as_secs_f64(),
                p99.as_secs_f64(),
                heap::allocations() - counted
            )),
            Ok(None) => say("cannot"),
            Err(_) => say("failed"),
        }
    }
    // Some clients have threads that the runtime would wait for, and do not end.
    std::process::exit(0);
}

struct Done {
    wall: Duration,
    p50: Duration,
    p99: Duration,
}

async fn perform<C: Client>(client: Arc<C>, work: Work) -> Option<Done> {
    let start = Instant::now();
    let whole = |wall| Some(Done { wall, p50: Duration::ZERO, p99: Duration::ZERO });
    match work {
        Work::Call { count, size } => {
            let (device, payload) = (Device::new(0), payload(size));
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                client.call(&device, payload.clone()).await;
                times.push(start.elapsed());
            }
            let wall = start.elapsed();
            times.sort_unstable();
            Some(Done { wall, p50: times[count / 2], p99: times[count * 99 / 100] })
        }
        Work::CallEach { count } => {
            let devices: Vec<_> = (0..count).map(Device::new).collect();
            let start = Instant::now();
            client.call_each(&devices, payload(64)).await.then(|| start.elapsed()).and_then(whole)
        }
        Work::Publish { count, qos, size } => {
            if !client.publish(count, qos, payload(size)).await {
                return None;
            }
            if qos == 0 {
                // The answer comes when the broker has all that went before; clients mean different things by "sent".
                client.call(&Device::new(0), payload(64)).await;
            }
            whole(start.elapsed())
        }
        Work::Receive { count, size } => {
            let taken = client.receive(format!("flood/{count}/{size}"), count).await;
            (!taken.is_zero()).then_some(taken).and_then(whole)
        }
        Work::ReceiveEach { streams, count } => client.receive_each(streams, count).await.and_then(whole),
        Work::Hold { filters } => client.hold(filters).await.then(|| start.elapsed()).and_then(whole),
    }
}

fn payload(size: usize) -> Bytes {
    vec![b'x'; size].into()
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("someone listens");
}
