//! The agent on every kind of runtime, in every kind of task, and after the end of its runtime.

use std::cell::Cell;
use std::future::{Future, IntoFuture};
use std::rc::Rc;
use std::thread;

use mqtt_agent::testing::Device;
use mqtt_agent::{Agent, Delivery, Error, Options, QoS, State};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;
use rumqttc::mqttbytes::QoS as WireQoS;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

use crate::common::options;
use crate::support::{millis, secs, within, EmbeddedBroker, Scripted, LIMIT};

fn runtimes() -> [Runtime; 3] {
    [Builder::new_current_thread(), Builder::new_multi_thread(), Builder::new_multi_thread()]
        .into_iter()
        .zip([1, 1, 4])
        .map(|(mut builder, threads)| builder.worker_threads(threads).enable_all().build().unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

/// Each verb once, against a device that echoes.
async fn use_every_verb(url: &str) {
    let mut device = Device::connect(url).await.unwrap();
    device.respond_to("rpc", |call| ("res", call.payload().clone())).await.unwrap();
    let agent = options(url).connect().await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    assert_eq!(agent.publish("a", "x").qos(QoS::ExactlyOnce).await.unwrap(), Delivery::Completed);
    assert_eq!(stream.recv().await.unwrap().unwrap().text().unwrap(), "x");
    assert_eq!(agent.request("rpc", "ping").reply_to("res").await.unwrap().text().unwrap(), "ping");
    agent.publish("b", "kept").retain(true).await.unwrap();
    assert_eq!(agent.collect("b", 1, LIMIT).await.unwrap()[0].text().unwrap(), "kept");
    assert!(agent.drain(LIMIT).await.unwrap().is_empty());
    assert!(stream.recv().await.is_none());
}

#[test]
fn every_verb_works_on_every_kind_of_runtime() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let broker = EmbeddedBroker::start().await;
            let url = broker.url();
            within(LIMIT, "the answers", use_every_verb(&url)).await;
            let spawned = tokio::spawn(async move { use_every_verb(&url).await });
            within(LIMIT, "the answers in a task", spawned).await.unwrap();
        });
    }
}

#[test]
fn tasks_that_stay_on_their_thread_may_use_it() {
    for runtime in runtimes() {
        runtime.block_on(async {
            let broker = EmbeddedBroker::start().await;
            let agent = Agent::connect(broker.url()).await.unwrap();
            let sent = Rc::new(Cell::new(0));
            let tasks = LocalSet::new();
            for _ in 0..10 {
                let (agent, sent) = (agent.clone(), sent.clone());
                tasks.spawn_local(async move {
                    agent.publish("a", "x").await.unwrap();
                    sent.set(sent.get() + 1);
                });
            }
            within(LIMIT, "all tasks", tasks).await;
            assert_eq!(sent.get(), 10);
        });
    }
}

#[tokio::test]
async fn a_select_that_prefers_another_branch_loses_no_message() {
    const COUNT: usize = 500;
    let broker = EmbeddedBroker::start().await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut stream = agent.subscribe("a").await.unwrap();
    let publishing = tokio::spawn(async move {
        for n in 0..COUNT {
            agent.publish("a", n.to_string()).qos(QoS::AtMostOnce).await.unwrap();
        }
        agent
    });
    let (mut taken, mut others) = (0, 0);
    while taken < COUNT {
        tokio::select! {
            biased;
            // Ready at each second look: the other branch is dropped after it was polled, over and over.
            () = async { tokio::task::yield_now().await }, if others <= taken => others += 1,
            message = stream.recv() => {
                assert_eq!(message.unwrap().unwrap().text().unwrap(), taken.to_string());
                taken += 1;
            }
        }
    }
    assert!(others > 0);
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_select_with_a_limit_takes_back_what_was_not_sent() {
    let server = Scripted::listen().await;
    let agent = options(&server.url()).connect_lazy().unwrap();
    tokio::select! {
        _ = agent.publish("a", "given up") => panic!("there is no connection"),
        () = tokio::time::sleep(millis(20)) => {}
    }
    let (mut peer, _) = server.accept_session(false).await;
    agent.try_publish("a", "kept").unwrap();
    assert_eq!(peer.expect_publish().await.payload, "kept");
}

/// Awaits each call in a task of the caller's runtime; whether all were told of the end.
fn closed<T: Send + 'static>(
    calls: impl IntoIterator<Item = impl Future<Output = Result<T, Error>> + Send + 'static>,
) -> impl Future<Output = bool> {
    let calls: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    async {
        for call in calls {
            if !call.await.unwrap().is_err_and(|error| error.is_closed()) {
                return false;
            }
        }
        true
    }
}

#[tokio::test]
async fn when_the_runtime_of_an_agent_ends_everyone_who_waits_elsewhere_is_told() {
    for runtime in runtimes() {
        let server = Scripted::listen().await;
        let options = options(&server.url()).timeout(secs(60));
        let connecting = runtime.spawn(options.connect());
        // A current-thread runtime does nothing by itself.
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = thread::spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        let (mut peer, _) = server.accept_session(false).await;
        let agent = connecting.await.unwrap().unwrap();
        let subscribing = tokio::spawn(agent.subscribe("s").into_future());
        let id = peer.expect_subscribe().await.pkid;
        peer.suback(id, &[SubscribeReasonCode::Success(WireQoS::AtLeastOnce)]).await;
        let mut stream = subscribing.await.unwrap().unwrap();

        let publishes = closed(QOS.map(|qos| agent.publish("a", "x").qos(qos).into_future()));
        let subscribes = closed([agent.subscribe("b").into_future()]);
        let requests = closed(["c", "c"].map(|to| agent.request("a", "x").reply_to(to).into_future()));
        let collects = closed([agent.collect("d", 1, secs(60)).into_future()]);
        let mut state = agent.state();
        crate::common::stats(&agent, "all calls", |stats| stats.in_flight == 2 && stats.filters == 4).await;
        drop(stop);
        let answers = async { tokio::join!(publishes, subscribes, requests, collects) };
        assert_eq!(within(LIMIT, "all answers", answers).await, (true, true, true, true));
        assert!(within(LIMIT, "the end of the stream", stream.recv()).await.is_none());
        within(LIMIT, "the end of the state", async { while state.changed().await.is_ok() {} }).await;
        running.join().unwrap();
        for state in [state, agent.state()] {
            assert!(matches!(*state.borrow(), State::Closed { reason: None, .. }), "{:?}", state.borrow());
        }
        assert!(!agent.is_connected());
        assert!(agent.publish("a", "x").await.unwrap_err().is_closed());
        assert!(agent.drain(LIMIT).await.unwrap_err().is_closed());
    }
}

#[test]
fn an_agent_made_on_one_runtime_is_used_from_another_and_from_its_threads_for_blocking_work() {
    let broker_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let broker = broker_runtime.block_on(EmbeddedBroker::start());
    let agent = broker_runtime.block_on(Options::from_url(&broker.url()).unwrap().connect()).unwrap();
    for runtime in runtimes() {
        runtime.block_on(async {
            within(LIMIT, "an answer", agent.publish("a", "x").into_future()).await.unwrap();
            let (handle, agent) = (tokio::runtime::Handle::current(), agent.clone());
            let blocking = tokio::task::spawn_blocking(move || handle.block_on(agent.publish("a", "x").into_future()));
            within(LIMIT, "an answer", blocking).await.unwrap().unwrap();
        });
    }
    drop(agent);
    broker_runtime.block_on(broker.stop());
}

const QOS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];
