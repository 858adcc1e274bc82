//! What the crate offers for the tests of others.

use std::future::IntoFuture;

use mqtt_agent::testing::{Broker, Device, MemoryBroker, Packet, Proxy, Response};
use mqtt_agent::{Agent, ErrorKind, Outcome, State};

use crate::common::{options, state, stats};
use crate::support::{millis, secs, url, within, LIMIT};

/// A broker, a faulty line to it, and an agent at the line's end.
async fn lab() -> (Broker, Proxy, Agent) {
    let broker = Broker::start().await.unwrap();
    let line = Proxy::start(broker.addr()).await.unwrap();
    let agent = options(&url(line.addr())).connect().await.unwrap();
    (broker, line, agent)
}

async fn ask(agent: &Agent) -> Result<String, ErrorKind> {
    let call = agent.request("rpc", "ping").reply_to("res").timeout(millis(300)).into_future();
    within(LIMIT, "an answer", call).await.map(|reply| reply.text().unwrap().to_owned()).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_device_answers_as_it_is_told_call_by_call() {
    let (broker, _line, agent) = lab().await;
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    let mut calls = 0;
    let respond = move |call: &mqtt_agent::Message| {
        calls += 1;
        match calls {
            1 => Response::reply("res", call.payload().clone()),
            2 => Response::reply("res", "wrong"),
            3 => Response::reply("elsewhere", "pong"),
            4 => Response::silence(),
            _ => Response::reply("res", "late").after(millis(50)),
        }
    };
    device.respond_to("rpc", respond).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(ask(&agent).await);
    }
    let [pong, wrong, late] = ["ping", "wrong", "late"].map(|text| Ok(text.to_owned()));
    assert_eq!(answers, [pong, wrong, Err(ErrorKind::Timeout), Err(ErrorKind::Timeout), late]);
    device.stop().await.unwrap();
}

#[tokio::test]
async fn a_device_answers_several_times_and_in_parts() {
    let (broker, _line, agent) = lab().await;
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    let parts = || Response::reply("res", "a").times(2).and(Response::reply("res", "b").after(millis(20)));
    device.respond_to(["rpc", "other"], move |_| parts()).await.unwrap();
    let call = agent.request("rpc", "ping").reply_to("res").replies(3).into_future();
    let replies = within(LIMIT, "three replies", call).await.unwrap();
    let replies: Vec<_> = replies.iter().map(|reply| reply.text().unwrap()).collect();
    assert_eq!(replies, ["a", "a", "b"]);
}

#[tokio::test]
async fn a_device_takes_calls_of_many_at_once_whatever_their_delays() {
    let (broker, _line, agent) = lab().await;
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    let respond = |call: &mqtt_agent::Message| {
        let name = call.topic().as_str().to_owned();
        let delay = if name == "slow/rpc" { secs(60) } else { millis(1) };
        Response::from((name.replace("rpc", "res"), name)).after(delay)
    };
    device.respond_to("+/rpc", respond).await.unwrap();
    let call = |name: &str| agent.request(format!("{name}/rpc"), "").reply_to(format!("{name}/res")).into_future();
    let slow = tokio::spawn(call("slow"));
    for name in ["1", "2", "3"] {
        within(LIMIT, "an answer", call(name)).await.unwrap();
    }
    assert!(!slow.is_finished());
    device.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_device_cannot_send_is_told_at_its_end() {
    let (broker, _line, agent) = lab().await;
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    device.respond_to("rpc", |_| ("no/+/topic", "pong")).await.unwrap();
    assert_eq!(ask(&agent).await, Err(ErrorKind::Timeout));
    assert_eq!(device.stop().await.unwrap_err().kind(), ErrorKind::InvalidTopic);
}

#[tokio::test]
async fn a_retained_message_is_no_call() {
    let (broker, _line, agent) = lab().await;
    agent.publish("rpc", "old").retain(true).await.unwrap();
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    device.respond_to("rpc", |call| ("res", call.payload().clone())).await.unwrap();
    assert_eq!(ask(&agent).await.unwrap(), "ping");
    assert_eq!(device.agent().stats().published, 1);
}

#[tokio::test]
async fn a_puback_that_is_dropped_leaves_its_publish_unknown_until_it_is_sent_again() {
    let (_broker, line, agent) = lab().await;
    line.drop_next(Packet::PubAck);
    let lost = agent.publish("a", "1").timeout(millis(100)).await.unwrap_err();
    assert_eq!((lost.kind(), lost.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    within(LIMIT, "the next", agent.publish("a", "2").into_future()).await.unwrap();

    line.drop_next(Packet::PubAck);
    let repeated = tokio::spawn(agent.publish("a", "3").timeout(secs(60)).into_future());
    stats(&agent, "it in flight beside the first", |stats| stats.in_flight == 2).await;
    // Behind it on the same line: its acknowledgement was dropped before this one came.
    within(LIMIT, "the one behind", agent.publish("a", "4").into_future()).await.unwrap();
    assert!(!repeated.is_finished());
    line.cut().await;
    within(LIMIT, "the repetition", repeated).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_suback_is_refused_on_the_way_once() {
    let (_broker, line, agent) = lab().await;
    line.refuse_next_suback();
    let subscribe = || within(LIMIT, "an answer", agent.subscribe(["a", "b"]).into_future());
    assert_eq!(subscribe().await.unwrap_err().kind(), ErrorKind::SubscribeRefused);
    drop(subscribe().await.unwrap());
}

#[tokio::test]
async fn a_broker_stops_and_starts_on_the_same_port() {
    let (broker, _line, agent) = lab().await;
    let addr = broker.addr();
    broker.stop().await.unwrap();
    state(&agent, "the loss", |state| !state.is_connected()).await;
    let _broker = Broker::builder().port(addr.port()).start().await.unwrap();
    state(&agent, "a connection", State::is_connected).await;
    let taken = Broker::builder().port(addr.port()).start().await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Connection);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tools_are_used_and_dropped_on_any_thread() {
    fn anywhere<T: Send + Sync>(_: &T) {}
    let (broker, line, agent) = lab().await;
    let mut device = Device::connect(url(broker.addr())).await.unwrap();
    device.respond_to("rpc", |_| ("res", "pong")).await.unwrap();
    let memory = MemoryBroker::new();
    anywhere(&(&broker, &line, &device, &memory, &Response::silence()));
    let asked = tokio::spawn(async move { ask(&agent).await });
    assert_eq!(asked.await.unwrap().unwrap(), "pong");
    let cutting = tokio::spawn(async move {
        line.cut().await;
        device.stop().await
    });
    cutting.await.unwrap().unwrap();
    std::thread::spawn(move || drop((broker, memory))).join().unwrap();
}
