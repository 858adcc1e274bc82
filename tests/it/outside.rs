//! Calls that are awaited outside of any runtime, by an executor that has no timers, while the agent lives on its own.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;

use futures::executor::block_on;
use futures::future::join_all;
use futures::poll;
use mqtt_agent::testing::{Device, MemoryBroker, Packet, Response};
use mqtt_agent::{Agent, Error, ErrorKind, Lost, Options, State};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::{millis, secs, LIMIT, VERSION};

/// An agent, a device that echoes at `rpc` and is silent at `silent`, and the runtime of both.
struct Lab {
    agent: Agent,
    _device: Device,
    broker: MemoryBroker,
    runtime: Runtime,
}

fn options(broker: &MemoryBroker) -> Options {
    broker.options().version(VERSION).reconnect(|_: &Lost| Some(millis(10)))
}

fn lab() -> Lab {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let broker = MemoryBroker::new();
    let (agent, device) = runtime.block_on(async {
        let mut device = Device::connect(options(&broker)).await.unwrap();
        device.respond_to("rpc", |call| ("res", call.payload().clone())).await.unwrap();
        device.respond_to("silent", |_| Response::silence()).await.unwrap();
        (options(&broker).connect().await.unwrap(), device)
    });
    Lab { agent, _device: device, broker, runtime }
}

/// Awaits it here, where there is no runtime.
fn outside<F: IntoFuture>(call: F) -> F::Output {
    assert!(Handle::try_current().is_err());
    block_on(call.into_future())
}

/// Says yes to each further attempt, and counts them.
fn count(asked: &Arc<AtomicUsize>) -> impl Fn(&Error) -> bool + Send + Sync + 'static {
    let asked = asked.clone();
    move |_| {
        asked.fetch_add(1, Relaxed);
        true
    }
}

#[test]
fn a_publish_is_acknowledged_or_times_out() {
    let Lab { agent, broker, .. } = &lab();
    outside(agent.publish("a", "x")).unwrap();
    broker.drop_next(Packet::PubAck);
    assert!(outside(agent.publish("a", "x").timeout(millis(20))).unwrap_err().is_timeout());
}

#[test]
fn a_request_is_answered_or_times_out() {
    let Lab { agent, .. } = &lab();
    assert_eq!(outside(agent.request("rpc", "ping").reply_to("res")).unwrap().text(), Ok("ping"));
    let silent = agent.request("silent", "ping").reply_to("never").timeout(millis(20));
    assert!(outside(silent).unwrap_err().is_timeout());
}

#[test]
fn the_replies_of_a_request_come_until_there_is_a_gap() {
    let Lab { agent, .. } = &lab();
    let mut replies = agent.request("rpc", "ping").reply_to("res").stream().gap(millis(20));
    assert_eq!(outside(replies.recv()).unwrap().unwrap().text(), Ok("ping"));
    assert!(outside(replies.recv()).is_none());
}

#[test]
fn a_subscription_is_made_read_and_ended() {
    let Lab { agent, broker, .. } = &lab();
    let mut stream = outside(agent.subscribe("a")).unwrap();
    outside(agent.publish("a", "x")).unwrap();
    assert_eq!(outside(stream.recv()).unwrap().unwrap().text(), Ok("x"));
    outside(stream.unsubscribe()).unwrap();
    let stream = outside(agent.subscribe("a").timeout(millis(20))).unwrap();
    broker.drop_next(Packet::UnsubAck);
    assert!(outside(stream.unsubscribe()).unwrap_err().is_timeout());
}

#[test]
fn messages_are_collected_or_run_out_of_time() {
    let Lab { agent, .. } = &lab();
    outside(agent.publish("a", "kept").retain(true)).unwrap();
    assert_eq!(outside(agent.collect("a", 1, LIMIT)).unwrap().len(), 1);
    let short = outside(agent.collect("a/#", 2, millis(50))).unwrap_err();
    assert_eq!((short.is_timeout(), short.messages().len()), (true, 1));
}

#[test]
fn many_requests_are_made_and_made_again() {
    let Lab { agent, .. } = &lab();
    let calls = || (0..3).map(|n| (n, agent.request("rpc", "ping").reply_to("res")));
    let (replies, failures) = outside(agent.request_each(calls()).partition());
    assert_eq!((replies.len(), failures.len()), (3, 0));
    let silent = agent.request("silent", "ping").reply_to("never").timeout(millis(5));
    let asked = Arc::new(AtomicUsize::new(0));
    let each = agent.request_each([((), silent)]).attempts(3).backoff(millis(1), millis(2)).retry_if(count(&asked));
    assert!(outside(each.partition()).1[0].1.is_timeout());
    assert_eq!(asked.load(Relaxed), 2);
}

#[test]
fn requests_are_served_and_the_service_is_stopped() {
    let Lab { agent, .. } = &lab();
    let service = outside(agent.serve("dev/{id}/rpc", |_| async { "pong" }).reply_to("dev/{id}/res")).unwrap();
    let call = agent.request("dev/1/rpc", "ping").reply_to("dev/1/res");
    assert_eq!(outside(call).unwrap().text(), Ok("pong"));
    assert_eq!(outside(service.stop(LIMIT)), 0);
}

#[test]
fn a_state_is_waited_for_and_an_agent_drained_and_closed() {
    let Lab { agent, broker, .. } = &lab();
    let mut state = agent.state();
    broker.cut();
    outside(state.wait_for(|state| !state.is_connected())).unwrap();
    outside(state.wait_for(State::is_connected)).unwrap();
    assert!(outside(agent.drain(LIMIT)).unwrap().is_empty());
    outside(state.wait_for(|state| matches!(state, State::Closed { .. }))).unwrap();
    outside(agent.close());
    assert!(outside(agent.publish("a", "x")).unwrap_err().is_closed());
}

/// The lane holds 16,384 calls, and the agent takes none while nobody drives its runtime.
#[test]
fn calls_that_find_the_lane_full_wait_for_room() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let broker = MemoryBroker::new();
    let agent = runtime.block_on(options(&broker).connect()).unwrap();
    let publishes: Vec<_> = (0..17_000).map(|_| agent.publish("a", "x").timeout(secs(60)).into_future()).collect();
    let mut publishes = join_all(publishes);
    assert!(block_on(async { poll!(&mut publishes).is_pending() }));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driver = thread::spawn(move || runtime.block_on(stopped));
    for published in outside(publishes) {
        published.unwrap();
    }
    stop.send(()).unwrap();
    driver.join().unwrap().unwrap();
}

#[test]
fn the_end_of_the_agents_runtime_ends_what_waits_without_a_panic() {
    let Lab { agent, _device, broker: _broker, runtime } = lab();
    let closed = |error: Error| assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let stream = outside(agent.subscribe("a")).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let silent = agent.request("silent", "ping").reply_to("never").timeout(millis(5));
    let again = agent.request_each([((), silent)]).attempts(2).backoff(secs(60), secs(60)).retry_if(count(&asked));
    let mut resting = Box::pin(again.partition());
    let mut collecting = agent.collect("a", 1, secs(60)).into_future();
    block_on(async {
        // Until its first attempt is over, and it rests.
        while asked.load(Relaxed) == 0 {
            assert!(poll!(&mut resting).is_pending() && poll!(&mut collecting).is_pending());
            thread::sleep(millis(1));
        }
    });
    runtime.shutdown_timeout(LIMIT);
    closed(outside(collecting).unwrap_err());
    let (_, mut failures) = outside(resting);
    closed(failures.remove(0).1);
    closed(outside(stream.unsubscribe()).unwrap_err());
    closed(outside(agent.collect("a", 1, LIMIT)).unwrap_err());
}
