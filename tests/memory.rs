//! What a burst of work leaves behind: nothing. A process of its own, because it looks at the memory of the whole.

#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use cap::Cap;
use futures::future::join_all;
use mqtt_agent::{Lost, Options, QoS, Stats};
use support::{millis, mosquitto_or_skip, secs, within, MosquittoConfig, Proxy};
use tokio::time::sleep;

/// Counts the bytes that live on the heap.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// How many bytes more may live after the last burst than after the second: tables that were just then large enough.
const SLACK: usize = 512 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_tasks_after_many_bursts_of_work_are_what_they_were_after_the_first() {
    assert_a_thousand_small().await;
    // Outside of this process, so that its memory does not count.
    let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
    assert_small(&broker.url()).await;
    let line = Proxy::start(broker.addr()).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks_before = metrics.num_alive_tasks();
    let agent = Options::from_url(&line.url())
        .unwrap()
        .reply_linger(millis(1))
        .timeout(secs(60))
        .reconnect(|_: &Lost| Some(millis(20)))
        .connect()
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..8 {
        within(secs(60), "a burst", burst(&agent, &line)).await;
        held.push(HEAP.allocated());
    }
    println!("bytes after each burst: {held:?}");
    assert!(held[7] < held[1] + SLACK, "bytes after each burst: {held:?}");
    agent.close().await;
    within(secs(5), "the end of every task", async {
        while metrics.num_alive_tasks() > tasks_before + line.live() {
            sleep(millis(5)).await;
        }
    })
    .await;
}

/// Idle agents by the thousand, each on a connection of its own.
async fn assert_a_thousand_small() {
    const AGENTS: usize = 1000;
    rlimit::increase_nofile_limit(4 * AGENTS as u64).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    // It holds nothing but the sockets, in memory that is taken before the count begins.
    let mut sockets = Vec::with_capacity(AGENTS + 1);
    let broker = thread::spawn(move || {
        while sockets.len() <= AGENTS {
            let mut socket = listener.accept().unwrap().0;
            let mut connect = [0; 256];
            assert_ne!(socket.read(&mut connect).unwrap(), 0);
            socket.write_all(&CONNACK).unwrap();
            sockets.push(socket);
        }
        sockets
    });
    // The runtime's own tables grow at the first connection.
    Options::from_url(&url).unwrap().connect().await.unwrap().close().await;
    let mut agents = Vec::with_capacity(AGENTS);
    let before = HEAP.allocated();
    for _ in 0..AGENTS {
        agents.push(Options::from_url(&url).unwrap().connect().await.unwrap());
    }
    let each = (HEAP.allocated() - before) / AGENTS;
    println!("bytes of each of {AGENTS} idle agents: {each}");
    assert!(each < 64 * 1024, "{each}");
    let sockets = broker.join().unwrap();
    join_all(agents.iter().map(mqtt_agent::Agent::close)).await;
    drop(sockets);
}

/// Success, no session present.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

async fn assert_small(url: &str) {
    // The runtime's own tables grow at the first connection.
    Options::from_url(url).unwrap().connect().await.unwrap().close().await;
    let before = HEAP.allocated();
    // As large as what a stream holds: a message or an error.
    let channel = tokio::sync::broadcast::channel::<[usize; 2]>(1);
    let buffer = HEAP.allocated() - before;
    drop(channel);
    let agent = Options::from_url(url).unwrap().connect().await.unwrap();
    let idle = HEAP.allocated() - before;
    let subscribe = |n: usize| agent.subscribe(format!("device/{n}/state")).capacity(1).into_future();
    let streams = join_all((0..1000).map(subscribe)).await;
    let each = (HEAP.allocated() - before - idle) / streams.len();
    println!("bytes of an idle agent: {idle}, of a subscription: {each}, {buffer} of them its buffer");
    assert!(idle < 64 * 1024, "{idle}");
    assert!(each - buffer < 1024, "{each}");
    drop(streams);
    agent.close().await;
}

async fn burst(agent: &mqtt_agent::Agent, line: &Proxy) {
    let qos = |n: usize| [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][n % 3];
    let publishes = (0..20_000).map(|n| agent.publish(format!("burst/{n}"), vec![0; 100]).qos(qos(n)).into_future());
    // Those of QoS 0 that a cut catches are reported, which is all that can be asked of them.
    let publishes = join_all(publishes.collect::<Vec<_>>());
    // Each is answered by itself: it publishes to the topic on which it waits.
    let call = |n: usize| agent.request(format!("echo/{n}"), "x").reply_to(format!("echo/{n}")).into_future();
    let calls = join_all((0..2000).map(call).collect::<Vec<_>>());
    let streams = join_all((0..500).map(|n| agent.subscribe(format!("stream/{n}/+")).into_future()));
    let given_up = (0..2000).map(|n| agent.request("nobody", "x").reply_to(format!("never/{n}")).timeout(millis(50)));
    let given_up = join_all(given_up.map(IntoFuture::into_future));
    let cuts = async {
        for _ in 0..3 {
            sleep(millis(30)).await;
            line.cut().await;
        }
    };
    let (_, calls, streams, given_up, ()) = tokio::join!(publishes, calls, streams, given_up, cuts);
    assert!(calls.iter().all(Result::is_ok));
    assert!(streams.iter().all(Result::is_ok));
    assert!(given_up.iter().all(Result::is_err));
    drop(streams);
    let is_empty = |stats: Stats| {
        [stats.queued, stats.in_flight, stats.pending_requests, stats.filters, stats.subscribers] == [0; 5]
    };
    while !is_empty(agent.stats()) {
        sleep(millis(5)).await;
    }
}
