//! Every call may be dropped at any point: nothing leaks, nothing hangs.

use std::future::{Future, IntoFuture};
use std::time::Duration;

use mqtt_agent::testing::Response;
use mqtt_agent::{Agent, Message, Offline, QoS, Retained, State};

use crate::common::{nothing_left, options, state};
use crate::support::{
    broker_test, drop_after_polls, drop_when_woken_after_polls, millis, within, Broker, Device, Proxy, LIMIT,
};

/// More polls than any call needs.
const MOST: usize = 60;

/// Drops the call after each number of polls, in both ways, until it gets to its end.
async fn at_each_point<F: Future>(agent: &Agent, what: &str, call: impl Fn() -> F) {
    for woken in [false, true] {
        let mut ended = false;
        for polls in 0..MOST {
            let at = format!("{what} that was dropped after {polls} polls");
            let cancelled = async {
                match woken {
                    false => drop_after_polls(call(), polls).await.is_some(),
                    true => drop_when_woken_after_polls(call(), polls).await.is_some(),
                }
            };
            ended = within(LIMIT, &at, cancelled).await;
            nothing_left(agent, &at).await;
            if ended {
                break;
            }
        }
        assert!(ended, "{what} does not end");
    }
    // Whatever was left half done: the line still works.
    within(LIMIT, "a publish", agent.publish("cancel/after", "x").into_future()).await.unwrap();
}

async fn impatient(broker: &Broker) -> Agent {
    options(&broker.url()).reply_linger(Duration::ZERO).connect().await.unwrap()
}

/// A device that answers each call twice.
async fn device(broker: &Broker) -> Device {
    let mut device = Device::connect(broker.url()).await.unwrap();
    let answer = |call: &Message| Response::reply("dev/res", call.payload().clone()).times(2);
    device.respond_to("dev/rpc", answer).await.unwrap();
    device
}

broker_test!(a_publish_can_be_dropped_at_any_point, |broker| async move {
    let agent = impatient(&broker).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for offline in [Offline::Fail, Offline::Wait, Offline::Queue] {
            let call = || agent.publish("a", "x").qos(qos).offline(offline).into_future();
            at_each_point(&agent, &format!("a publish with {qos:?}, {offline:?}"), call).await;
        }
    }
});

broker_test!(a_subscribe_can_be_dropped_at_any_point, |broker| async move {
    let agent = impatient(&broker).await;
    let one = || agent.subscribe("a").into_future();
    at_each_point(&agent, "a subscribe", one).await;
    let several = || agent.subscribe(["a", "b/#", "c/+"]).retained(Retained::Include).into_future();
    at_each_point(&agent, "a subscribe to several", several).await;
});

broker_test!(a_subscribe_dropped_beside_another_leaves_that_alone, |broker| async move {
    let agent = impatient(&broker).await;
    let mut kept = agent.subscribe("a").await.unwrap();
    for polls in 0..MOST {
        let both = agent.subscribe(["a", "b"]).retained(Retained::Include).qos(QoS::ExactlyOnce).into_future();
        let ended = drop_when_woken_after_polls(both, polls).await.is_some();
        crate::common::stats(&agent, "the one that is kept", |s| s.filters == 1 && s.subscribers == 1).await;
        agent.publish("a", polls.to_string()).await.unwrap();
        let message = within(LIMIT, "the message", kept.recv()).await.unwrap().unwrap();
        assert_eq!(message.text().unwrap(), polls.to_string());
        if ended {
            break;
        }
    }
    drop(kept);
    nothing_left(&agent, "the last").await;
});

broker_test!(an_unsubscribe_can_be_dropped_at_any_point, |broker| async move {
    let agent = impatient(&broker).await;
    let call = || async { agent.subscribe(["a", "b"]).await.unwrap().unsubscribe().await.unwrap() };
    at_each_point(&agent, "an unsubscribe", call).await;
});

broker_test!(a_request_can_be_dropped_at_any_point, |broker| async move {
    let device = device(&broker).await;
    let agent = impatient(&broker).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let call = || agent.request("dev/rpc", "x").reply_to("dev/res").qos(qos).into_future();
        at_each_point(&agent, &format!("a request with {qos:?}"), call).await;
    }
    let many = || agent.request("dev/rpc", "x").reply_to("dev/res").replies(2).into_future();
    at_each_point(&agent, "a request for two replies", many).await;
    device.stop().await.unwrap();
});

broker_test!(a_request_dropped_gives_its_turn_to_the_next, |broker| async move {
    let device = device(&broker).await;
    let agent = impatient(&broker).await;
    let request = |n: usize| agent.request("dev/rpc", n.to_string()).reply_to("dev/res").into_future();
    for polls in 0..MOST {
        let next = tokio::spawn(request(polls));
        let ended = drop_after_polls(request(polls), polls).await.is_some();
        within(LIMIT, "the reply", next).await.unwrap().unwrap();
        nothing_left(&agent, "both requests").await;
        if ended {
            break;
        }
    }
    device.stop().await.unwrap();
});

broker_test!(a_collect_can_be_dropped_at_any_point, |broker| async move {
    let agent = impatient(&broker).await;
    for topic in ["kept/1", "kept/2"] {
        agent.publish(topic, "x").retain(true).await.unwrap();
    }
    let call = || agent.collect("kept/+", 2, LIMIT).into_future();
    at_each_point(&agent, "a collect", call).await;
    let late = || agent.collect("never", 1, millis(30)).into_future();
    at_each_point(&agent, "a collect that ends by its timeout", late).await;
});

broker_test!(a_connect_can_be_dropped_at_any_point, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    for woken in [false, true] {
        let mut ended = false;
        for polls in 0..MOST {
            let connect = Agent::connect(proxy.url());
            let agent = match woken {
                false => drop_after_polls(connect, polls).await,
                true => drop_when_woken_after_polls(connect, polls).await,
            };
            ended = agent.is_some();
            drop(agent);
            proxy.wait_for_live(0).await;
            if ended {
                break;
            }
        }
        assert!(ended, "a connect does not end");
    }
});

broker_test!(calls_dropped_while_the_line_is_down_leave_nothing, |broker| async move {
    let proxy = Proxy::start(broker.addr()).await;
    let agent = options(&proxy.url()).reply_linger(Duration::ZERO).connect().await.unwrap();
    proxy.refuse(true);
    proxy.cut().await;
    state(&agent, "the loss", |state| !state.is_connected()).await;
    for polls in 0..3 {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert!(drop_after_polls(agent.publish("a", "x").qos(qos).into_future(), polls.min(1)).await.is_none());
        }
        assert!(drop_after_polls(agent.subscribe(["a", "b"]).into_future(), polls.min(1)).await.is_none());
        let request = agent.request("a", "x").reply_to("b").into_future();
        assert!(drop_after_polls(request, polls.min(1)).await.is_none());
        assert!(drop_after_polls(agent.collect("a", 1, LIMIT).into_future(), polls.min(1)).await.is_none());
    }
    let published = agent.stats().published;
    proxy.refuse(false);
    state(&agent, "a connection", State::is_connected).await;
    agent.publish("a", "y").await.unwrap();
    nothing_left(&agent, "all of them").await;
    assert_eq!(agent.stats().published, published + 1);
});
