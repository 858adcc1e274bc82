//! What a burst of work leaves behind: nothing. A process of its own, because it looks at the memory of the whole.

#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::thread;

use cap::Cap;
use futures::future::join_all;
use mqtt_agent::{Acks, Lost, Options, QoS, Stats};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;
use rumqttc::mqttbytes::QoS as WireQoS;
use support::{millis, mosquitto_or_skip, secs, within, MosquittoConfig, Proxy, Scripted};
use tokio::runtime::{Builder, Handle};
use tokio::time::sleep;

/// Counts the bytes that live on the heap.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// So many that what each leaves adds up to something that shows.
const BURSTS: usize = 12;
/// How many bytes more may live after bursts of work than before the first: buffers, and small tables that stay.
const SLACK: usize = 1024 * 1024;

#[test]
fn memory_and_tasks_after_many_bursts_of_work_are_what_they_were_before() {
    alone(Builder::new_multi_thread(), async {
        // Outside of this process, so that its memory does not count.
        let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
        let line = Proxy::start(broker.addr()).await;
        let tasks_before = tasks();
        let agent = Options::from_url(&line.url())
            .unwrap()
            .reply_linger(millis(1))
            .timeout(secs(60))
            .reconnect(|_: &Lost| Some(millis(20)))
            .connect()
            .await
            .unwrap();
        let tasks_of_one = tasks();
        let before = HEAP.allocated();
        let mut held = Vec::new();
        for _ in 0..BURSTS {
            within(secs(60), "a burst", burst(&agent, &line)).await;
            // The sessions of the late ones still say goodbye.
            tasks_end(|| tasks_of_one).await;
            held.push(HEAP.allocated().saturating_sub(before));
        }
        println!("bytes that each burst left: {held:?}");
        assert!(held.iter().all(|held| *held < SLACK), "{held:?}");
        agent.close().await;
        tasks_end(|| tasks_before + line.live()).await;
    });
}

#[test]
fn an_idle_agent_and_a_subscription_are_small() {
    alone(Builder::new_current_thread(), async {
        let Some(broker) = mosquitto_or_skip(MosquittoConfig::default()).await else { return };
        let (url, tasks_before) = (broker.url(), tasks());
        // The runtime's own tables grow at the first connection.
        Options::from_url(&url).unwrap().connect().await.unwrap().close().await;
        tasks_end(|| tasks_before).await;
        let before = HEAP.allocated();
        // As large as what a stream holds: a message or an error.
        let channel = tokio::sync::broadcast::channel::<[usize; 2]>(1);
        let buffer = HEAP.allocated() - before;
        drop(channel);
        let agent = Options::from_url(&url).unwrap().connect().await.unwrap();
        let idle = HEAP.allocated() - before;
        let subscribe = |n: usize| agent.subscribe(format!("device/{n}/state")).capacity(1).into_future();
        let streams = join_all((0..1000).map(subscribe)).await;
        let each = (HEAP.allocated() - before - idle) / streams.len();
        println!("bytes of an idle agent: {idle}, of a subscription: {each}, {buffer} of them its buffer");
        assert!(idle < 64 * 1024, "{idle}");
        assert!(each - buffer < 1024, "{each}");
        drop(streams);
        agent.close().await;
    });
}

#[test]
fn a_thousand_idle_agents_are_small() {
    alone(Builder::new_current_thread(), async {
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
    });
}

/// Success, no session present.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// Of a hostile peer: what it announces is not allocated, what is not wanted is not kept.
#[test]
fn memory_stays_bounded_whatever_a_peer_sends() {
    alone(Builder::new_multi_thread(), async {
        let server = Scripted::listen().await;
        let agent = Options::from_url(&server.url()).unwrap().connect_lazy().unwrap();
        let (mut peer, _) = server.accept_session(false).await;
        let received = |count: u64| {
            let agent = agent.clone();
            async move {
                while agent.stats().received + agent.stats().oversized < count {
                    sleep(millis(1)).await;
                }
            }
        };
        peer.send_raw(b"\x30\x04\0\x01ax").await;
        within(secs(5), "the first message", received(1)).await;
        // A packet of 256 MiB, dripped.
        let bound = Bound::of(4 << 20);
        peer.send_raw(b"\x30\xff\xff\xff\x7f\0\x01a").await;
        let block = vec![b'x'; 1 << 20];
        for _ in 0..255 {
            peer.send_raw(&block).await;
        }
        peer.send_raw(&block[..(1 << 20) - 4]).await;
        within(secs(5), "a message too large", received(2)).await;

        // Messages that nobody wants, and identifiers that never come to rest.
        let block = b"\x30\x08\0\x05floodx".repeat(10_000);
        for _ in 0..100 {
            peer.send_raw(&block).await;
        }
        within(secs(30), "a million messages", received(1_000_002)).await;
        let (mut reader, mut writer) = peer.split();
        // Until the acknowledgement of the only message of QoS 1, behind all others.
        let reading = tokio::spawn(async move {
            while reader.recv_raw(4).await[0] != 0x40 {}
            reader
        });
        for _ in 0..3 {
            for id in 1..=u16::MAX {
                writer.send_raw(&[&[0x34, 5, 0, 1, b'a'][..], &id.to_be_bytes()].concat()).await;
            }
        }
        writer.send_raw(b"\x32\x05\0\x01a\0\x01").await;
        let _reader = within(secs(30), "the last acknowledgement", reading).await.unwrap();
        drop(bound);
        let of_qos_2 = agent.stats().received + agent.stats().oversized - 1_000_003;
        assert_eq!(of_qos_2, u64::from(u16::MAX), "each identifier counts once");
        agent.close().await;
    });
}

/// With room for a packet of 256 MiB, room is made as it comes, not as it is announced.
#[test]
fn a_packet_that_is_only_announced_takes_no_memory() {
    alone(Builder::new_current_thread(), async {
        let server = Scripted::listen().await;
        let options = Options::from_url(&server.url()).unwrap().max_packet_size(1 << 28);
        let (agent, (mut peer, _)) = tokio::join!(options.connect(), server.accept_session(false));
        let agent = agent.unwrap();
        let bound = Bound::of(1 << 20);
        peer.send_raw(b"\x30\xff\xff\xff\x7f\0\x01a").await;
        peer.send_raw(&[b'x'; 100_000]).await;
        // The end is read after all that came before it.
        peer.finish().await;
        let mut state = agent.state();
        within(secs(5), "the loss", state.wait_for(|state| !state.is_connected())).await.unwrap();
        drop(bound);
        agent.close().await;
    });
}

/// With a count that says "all that come in time", room is made for a burst of them.
#[test]
fn a_collect_without_a_bound_takes_little_memory() {
    alone(Builder::new_current_thread(), async {
        let server = Scripted::listen().await;
        let (agent, (mut peer, _)) =
            tokio::join!(Options::from_url(&server.url()).unwrap().connect(), server.accept_session(false));
        let agent = agent.unwrap();
        let bound = Bound::of(8 << 20);
        let collecting = agent.collect("a", usize::MAX, millis(500)).into_future();
        let answering = async {
            let id = peer.expect_subscribe().await.pkid;
            peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
            peer.send_raw(b"\x30\x04\0\x01ax").await;
        };
        let (collected, ()) = tokio::join!(collecting, answering);
        assert_eq!(collected.unwrap_err().into_messages().len(), 1);
        drop(bound);
        agent.close().await;
    });
}

/// A message that is kept keeps what it was read into: at most 64 KiB, or its own size.
#[test]
fn a_small_message_that_is_kept_does_not_keep_the_memory_of_large_ones_around_it() {
    alone(Builder::new_current_thread(), async {
        const LARGE: usize = 10_000_000;
        let packet = |payload: &[u8]| {
            // The remaining length, in as many bytes as it may take.
            let remaining = 3 + payload.len();
            let digits = [0, 7, 14, 21].map(|bits| (remaining >> bits & 0x7f) as u8 | if bits < 21 { 0x80 } else { 0 });
            [&[0x30][..], &digits, &[0, 1, b'a'], payload].concat()
        };
        let (small, large) = (packet(b"twenty bytes of state"), packet(&vec![b'x'; LARGE]));
        let together = [&small[..], &large, &small, &small].concat();
        let server = Scripted::listen().await;
        let options = Options::from_url(&server.url()).unwrap().max_packet_size(2 * LARGE);
        let agent = options.connect_lazy().unwrap();
        let (mut peer, _) = server.accept_session(false).await;
        let subscribing = tokio::spawn(agent.subscribe("a").into_future());
        let id = peer.expect_subscribe().await.pkid;
        peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
        let mut stream = subscribing.await.unwrap().unwrap();
        let before = HEAP.allocated();
        let held = || HEAP.allocated().saturating_sub(before);
        let mut kept = Vec::new();
        for bytes in [&together, &small, &large, &small, &together] {
            let receiving = async {
                let mut came = 0;
                while came < bytes.len() {
                    let message = stream.recv().await.unwrap().unwrap();
                    let payload = message.payload().len();
                    came += 8 + payload;
                    match payload {
                        LARGE => assert!(held() < LARGE + SLACK, "{} bytes with a large message", held()),
                        _ => kept.push(message),
                    }
                }
            };
            within(secs(30), "the messages", async { tokio::join!(peer.send_raw(bytes), receiving) }).await;
        }
        assert_eq!(kept.len(), 8);
        assert!(held() < SLACK, "{} bytes are held by {} small messages", held(), kept.len());
        agent.close().await;
    });
}

/// As long as this lives the heap grows by so many bytes at most; an allocation beyond ends the process.
struct Bound;

impl Bound {
    fn of(bytes: usize) -> Self {
        HEAP.set_limit(HEAP.allocated() + bytes).unwrap();
        Self
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        HEAP.set_limit(usize::MAX).unwrap();
    }
}

/// The heap is that of all tests: each is alone until its runtime, and all that it holds, is gone.
fn alone(mut runtime: Builder, test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until there are no more tasks than that.
async fn tasks_end(left: impl Fn() -> usize) {
    within(secs(5), "the end of every other task", async {
        while tasks() > left() {
            sleep(millis(5)).await;
        }
    })
    .await;
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
    // Each with a connection and a task of its own.
    let late = join_all((0..20).map(|n| agent.subscribe(format!("late/{n}")).acks(Acks::OnTake).into_future()));
    let given_up = (0..2000).map(|n| agent.request("nobody", "x").reply_to(format!("never/{n}")).timeout(millis(50)));
    let given_up = join_all(given_up.map(IntoFuture::into_future));
    let cuts = async {
        for _ in 0..3 {
            sleep(millis(30)).await;
            line.cut().await;
        }
    };
    let (publishes, calls, streams, late, given_up, ()) = tokio::join!(publishes, calls, streams, late, given_up, cuts);
    let of_qos_0 = |n: usize| qos(n) == QoS::AtMostOnce;
    assert!(publishes.iter().enumerate().all(|(n, published)| published.is_ok() || of_qos_0(n)));
    assert!(calls.iter().all(Result::is_ok));
    assert!(streams.iter().chain(&late).all(Result::is_ok));
    assert!(given_up.iter().all(Result::is_err));
    drop((streams, late));
    let is_empty = |stats: Stats| {
        [stats.queued, stats.in_flight, stats.pending_requests, stats.filters, stats.subscribers] == [0; 5]
    };
    while !is_empty(agent.stats()) {
        sleep(millis(5)).await;
    }
}
