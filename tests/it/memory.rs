//! The broker in memory, and what can be tested with it while time stands still.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mqtt_agent::testing::{Device, Direction, MemoryBroker, Packet, Response};
use mqtt_agent::{
    Agent, Delivery, ErrorKind, LastWill, Lost, Offline, Options, Outcome, QoS, ReasonCode, Refusal, Retained, State,
    Subscription, Version,
};
use tokio::time::Instant;

use crate::common::state;
use crate::support::{is_v5, millis, secs, within, LIMIT, VERSION};

const HOUR: Duration = secs(3600);

/// Options for an agent of the version under test.
fn options(broker: &MemoryBroker) -> Options {
    broker.options().version(VERSION).reconnect(|_: &Lost| Some(secs(1)))
}

async fn agent(broker: &MemoryBroker) -> Agent {
    options(broker).connect().await.unwrap()
}

fn kept(broker: &MemoryBroker) -> Options {
    options(broker).client_id("kept").clean_session(false)
}

async fn next(stream: &mut Subscription) -> String {
    let message = within(LIMIT, "a message", stream.recv()).await.unwrap().unwrap();
    message.text().unwrap().to_owned()
}

async fn disconnected(agent: &Agent) {
    state(agent, "the loss", |state| !state.is_connected()).await;
}

async fn connected(agent: &Agent) {
    state(agent, "a connection", State::is_connected).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_at_its_deadline_and_no_sooner() {
    let broker = MemoryBroker::new();
    let agent = agent(&broker).await;
    let mut device = Device::connect(options(&broker)).await.unwrap();
    device.respond_to("rpc", |_| Response::silence()).await.unwrap();
    let started = Instant::now();
    let answer = agent.request("rpc", "ping").reply_to("res").timeout(secs(30)).await;
    assert!(answer.unwrap_err().is_timeout());
    assert_eq!(started.elapsed(), secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_takes_an_hour_is_waited_for() {
    let broker = MemoryBroker::new();
    let agent = agent(&broker).await;
    let mut device = Device::connect(options(&broker)).await.unwrap();
    let respond = |call: &mqtt_agent::Message| Response::reply("res", call.payload().clone()).after(HOUR);
    device.respond_to("rpc", respond).await.unwrap();
    let started = Instant::now();
    let reply = agent.request("rpc", "ping").reply_to("res").timeout(2 * HOUR).await.unwrap();
    assert_eq!((reply.text(), started.elapsed()), (Ok("ping"), HOUR));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_falls_silent_is_given_up_within_one_and_a_half_keep_alives() {
    let broker = MemoryBroker::new();
    let agent = options(&broker).keep_alive(secs(60)).connect().await.unwrap();
    // As long as it answers nothing happens.
    tokio::time::sleep(HOUR).await;
    assert_eq!((agent.is_connected(), broker.connections()), (true, 1));
    broker.black_hole(Direction::Down, true);
    let started = Instant::now();
    disconnected(&agent).await;
    assert!(started.elapsed() <= secs(90), "{:?}", started.elapsed());
    broker.black_hole(Direction::Down, false);
    connected(&agent).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_to_reconnect_come_when_the_policy_says() {
    let broker = MemoryBroker::new();
    let delays = Arc::new(Mutex::new(Vec::new()));
    let asked = delays.clone();
    let policy = move |lost: &Lost| {
        let delay = secs(u64::from(lost.attempt) * 10);
        asked.lock().unwrap().push(delay);
        Some(delay)
    };
    let agent = options(&broker).reconnect(policy).connect().await.unwrap();
    broker.refuse(true);
    broker.cut();
    let mut attempts = vec![Instant::now()];
    for attempt in 2..=4 {
        broker.wait_for_connections(attempt).await;
        attempts.push(Instant::now());
    }
    broker.refuse(false);
    connected(&agent).await;
    attempts.push(Instant::now());
    let waited: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let delays = delays.lock().unwrap();
    assert_eq!(delays[..], [10, 20, 30, 40].map(secs));
    for (waited, delay) in waited.iter().zip(delays.iter()) {
        // The clock of the timers has milliseconds.
        assert!((*delay..=*delay + millis(2)).contains(waited), "{waited:?} for {delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_never_answered_ends_at_the_connect_timeout() {
    let broker = MemoryBroker::new();
    for direction in [Direction::Up, Direction::Down] {
        broker.black_hole(direction, true);
        let started = Instant::now();
        let error = options(&broker).connect_timeout(secs(7)).connect().await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (ErrorKind::Timeout, secs(7)));
        broker.black_hole(direction, false);
    }
    agent(&broker).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_handshake_says_why_and_the_next_may_succeed() {
    let broker = MemoryBroker::new();
    for version in [Version::V31, Version::V311, Version::V5] {
        broker.refuse_next_connack(ReasonCode::NOT_AUTHORIZED);
        let error = broker.options().version(version).client_id("me").connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused(Refusal::NotAuthorized));
        broker.options().version(version).client_id("me").connect().await.unwrap();
    }
    broker.refuse(true);
    assert_eq!(options(&broker).connect().await.unwrap_err().kind(), ErrorKind::Connection);
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_qos_reach_those_whose_filters_match_once() {
    let broker = MemoryBroker::new();
    let (one, two) = (agent(&broker).await, agent(&broker).await);
    let mut exact = one.subscribe("a/b").qos(QoS::ExactlyOnce).await.unwrap();
    let mut all = two.subscribe(["a/+", "a/#", "+/b"]).qos(QoS::ExactlyOnce).await.unwrap();
    let mut none = two.subscribe("c").await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let text = format!("{qos:?}");
        let delivery = one.publish("a/b", text.clone()).qos(qos).await.unwrap();
        assert_ne!(delivery, Delivery::NoSubscribers);
        for stream in [&mut exact, &mut all] {
            let message = stream.recv().await.unwrap().unwrap();
            assert_eq!((message.text(), message.qos(), message.is_retained()), (Ok(&*text), qos, false));
        }
    }
    one.publish("c", "last").await.unwrap();
    assert_eq!(next(&mut none).await, "last");
    // Behind it on the same line: nothing came twice.
    one.publish("a/b", "end").await.unwrap();
    assert_eq!((next(&mut exact).await, next(&mut all).await), ("end".to_owned(), "end".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn one_filter_in_a_subscription_identifies_its_copies() {
    let broker = MemoryBroker::new();
    let agent = agent(&broker).await;
    let (mut left, mut right) = (agent.subscribe("a/+").await.unwrap(), agent.subscribe("+/b").await.unwrap());
    for n in ["1", "2"] {
        agent.publish("a/b", n).await.unwrap();
        assert_eq!((next(&mut left).await, next(&mut right).await), (n.to_owned(), n.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn retained_messages_are_kept_replaced_and_forgotten() {
    let broker = MemoryBroker::new();
    let (writer, reader) = (agent(&broker).await, agent(&broker).await);
    for (topic, payload) in [("r/1", "old"), ("r/2", "two"), ("r/1", "one"), ("r/3", "three"), ("r/3", "")] {
        writer.publish(topic, payload).retain(true).await.unwrap();
    }
    let kept = reader.collect("r/+", 2, secs(1)).retained(Retained::Only).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|message| (message.text().unwrap(), message.is_retained())).collect();
    assert_eq!(kept, [("one", true), ("two", true)]);
    assert!(reader.collect("r/3", 1, secs(1)).await.unwrap_err().is_timeout());
}

#[tokio::test(start_paused = true)]
async fn the_members_of_a_group_take_turns_as_far_as_they_are_there() {
    let broker = MemoryBroker::new();
    let sender = agent(&broker).await;
    let (one, two) = (agent(&broker).await, agent(&broker).await);
    let mut first = one.subscribe("$share/g/jobs").await.unwrap();
    let mut second = two.subscribe("$share/g/jobs").await.unwrap();
    for n in 0..4 {
        sender.publish("jobs", n.to_string()).await.unwrap();
    }
    let mut got = [next(&mut first).await, next(&mut first).await, next(&mut second).await, next(&mut second).await];
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"]);
    one.close().await;
    for n in ["4", "5"] {
        sender.publish("jobs", n).await.unwrap();
        assert_eq!(next(&mut second).await, n);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_kept_has_what_came_meanwhile_and_another_has_not() {
    let broker = MemoryBroker::new();
    let sender = agent(&broker).await;
    let reader = kept(&broker).connect().await.unwrap();
    let forgetful = agent(&broker).await;
    let mut stream = reader.subscribe("a").await.unwrap();
    let mut other = forgetful.subscribe("a").await.unwrap();
    broker.cut();
    connected(&sender).await;
    broker.refuse(true);
    disconnected(&reader).await;
    disconnected(&forgetful).await;
    broker.refuse(false);
    connected(&sender).await;
    for n in ["1", "2"] {
        sender.publish("a", n).qos(QoS::ExactlyOnce).await.unwrap();
    }
    connected(&reader).await;
    connected(&forgetful).await;
    sender.publish("a", "3").await.unwrap();
    for n in ["1", "2", "3"] {
        assert_eq!(next(&mut stream).await, n);
    }
    assert_eq!(other.recv().await.unwrap().unwrap().text().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_last_will_comes_after_a_cut_and_not_after_a_goodbye() {
    let broker = MemoryBroker::new();
    let watcher = agent(&broker).await;
    let mut wills = watcher.subscribe("will").await.unwrap();
    for is_polite in [true, false] {
        let will = LastWill::new("will", if is_polite { "polite" } else { "cut" });
        let mortal = options(&broker).client_id("mortal").last_will(will).connect().await.unwrap();
        if is_polite {
            mortal.close().await;
        } else {
            // Somebody else takes its name.
            let _heir = options(&broker).client_id("mortal").connect().await.unwrap();
            disconnected(&mortal).await;
        }
    }
    assert_eq!(next(&mut wills).await, "cut");
}

#[tokio::test(start_paused = true)]
async fn a_puback_that_is_dropped_leaves_its_publish_unknown_and_a_cut_repeats_it() {
    let broker = MemoryBroker::new();
    let agent = kept(&broker).connect().await.unwrap();
    let mut exact = agent.subscribe("exact").qos(QoS::ExactlyOnce).await.unwrap();
    let cases = [(Packet::PubAck, QoS::AtLeastOnce, "often"), (Packet::PubRec, QoS::ExactlyOnce, "exact")];
    for (packet, qos, topic) in cases {
        broker.drop_next(packet);
        let lost = agent.publish(topic, "lost").qos(qos).timeout(secs(5)).await.unwrap_err();
        assert_eq!((lost.kind(), lost.outcome()), (ErrorKind::Timeout, Outcome::Unknown));

        broker.drop_next(packet);
        let mut publish = agent.publish(topic, "repeated").qos(qos).timeout(HOUR).into_future();
        assert!(tokio::time::timeout(secs(60), &mut publish).await.is_err());
        broker.cut();
        publish.await.unwrap();
    }
    agent.publish("exact", "end").await.unwrap();
    assert_eq!([next(&mut exact).await, next(&mut exact).await, next(&mut exact).await], ["lost", "repeated", "end"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_refused_once() {
    let broker = MemoryBroker::new();
    let agent = agent(&broker).await;
    broker.refuse_next_suback();
    assert_eq!(agent.subscribe(["a", "b"]).await.unwrap_err().kind(), ErrorKind::SubscribeRefused);
    let mut stream = agent.subscribe(["a", "b"]).await.unwrap();
    agent.publish("b", "x").await.unwrap();
    assert_eq!(next(&mut stream).await, "x");
    broker.drop_next(Packet::SubAck);
    let started = Instant::now();
    assert!(agent.subscribe("c").timeout(secs(4)).await.unwrap_err().is_timeout());
    assert_eq!(started.elapsed(), secs(4));
}

#[tokio::test(start_paused = true)]
async fn what_is_swallowed_on_its_way_is_known_by_nobody() {
    let broker = MemoryBroker::new();
    let (one, two) = (agent(&broker).await, agent(&broker).await);
    let mut stream = two.subscribe("a").await.unwrap();
    broker.black_hole(Direction::Up, true);
    assert!(one.publish("a", "swallowed").timeout(secs(1)).await.unwrap_err().is_timeout());
    broker.black_hole(Direction::Up, false);
    one.publish("a", "heard").await.unwrap();
    assert_eq!(next(&mut stream).await, "heard");
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_and_all_end_with_the_broker() {
    let broker = MemoryBroker::new();
    let agents = [agent(&broker).await, agent(&broker).await];
    assert_eq!((broker.connections(), broker.live()), (2, 2));
    broker.close();
    assert_eq!((broker.connections(), broker.live()), (2, 0));
    broker.wait_for_live(2).await;
    assert_eq!(broker.connections(), 4);
    agents[0].close().await;
    assert_eq!(broker.live(), 1);
    let late = options(&broker);
    drop(broker);
    disconnected(&agents[1]).await;
    assert_eq!(late.connect().await.unwrap_err().kind(), ErrorKind::Connection);
    let offline = agents[1].publish("a", "x").offline(Offline::Fail).await.unwrap_err();
    assert_eq!(offline.kind(), ErrorKind::Offline);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_name_is_given_one() {
    let broker = MemoryBroker::new();
    let nameless = || options(&broker).client_id("").connect();
    let (one, two) = (nameless().await.unwrap(), nameless().await.unwrap());
    let mut stream = one.subscribe("a").await.unwrap();
    two.publish("a", "x").await.unwrap();
    assert_eq!(next(&mut stream).await, "x");
    let name = |agent: &Agent| match &*agent.state().borrow() {
        State::Connected { terms, .. } => terms.client_id.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(!name(&one).is_empty() && name(&one) != name(&two), is_v5());
}

#[tokio::test(start_paused = true)]
async fn a_large_message_and_many_small_ones_pass_in_order() {
    let broker = MemoryBroker::new();
    let (one, two) = (agent(&broker).await, agent(&broker).await);
    let mut stream = two.subscribe("a").capacity(5000).await.unwrap();
    let large = vec![b'x'; 1 << 20];
    one.publish("a", large.clone()).await.unwrap();
    let many = (0..4000).map(|n| one.publish("a", n.to_string()).into_future());
    let (published, ()) = tokio::join!(futures::future::try_join_all(many), async {
        assert_eq!(stream.recv().await.unwrap().unwrap().payload().len(), large.len());
        for n in 0..4000 {
            assert_eq!(next(&mut stream).await, n.to_string());
        }
    });
    assert_eq!((published.unwrap().len(), broker.lost()), (4000, 0));
}

/// Its users need not know on which thread they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_on_many_threads_share_one_broker() {
    let broker = Arc::new(MemoryBroker::new());
    let mut device = Device::connect(options(&broker)).await.unwrap();
    device.respond_to("dev/+/rpc", |call| (call.topic().as_str().replace("rpc", "res"), "pong")).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let agent = agent(&broker).await;
                for _ in 0..20 {
                    let call = agent.request(format!("dev/{n}/rpc"), "ping").reply_to(format!("dev/{n}/res"));
                    within(LIMIT, "a reply", call.into_future()).await.unwrap();
                    broker.drop_next(Packet::PingResp);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    device.stop().await.unwrap();
}
