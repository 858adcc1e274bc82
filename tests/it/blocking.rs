//! The agent without async: in threads, in many of them, and in the middle of async code.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use mqtt_agent::blocking::Agent;
use mqtt_agent::{Delivery, ErrorKind, Lost, Options, Outcome, QoS, Retained, State};
use tokio::runtime::{Builder, Runtime};

use crate::common::refusing_address;
use crate::support::{echo, millis, Device, EmbeddedBroker, LIMIT};

/// A broker on a runtime of its own, with devices that answer at `{device}/res` what they are asked at `{device}/rpc`.
struct Lab {
    url: String,
    _device: Device,
    _broker: EmbeddedBroker,
    _runtime: Runtime,
}

impl Lab {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let broker = runtime.block_on(EmbeddedBroker::start());
        let url = broker.url();
        let device = runtime.block_on(echo(&url, "+/rpc"));
        Self { url, _device: device, _broker: broker, _runtime: runtime }
    }

    fn agent(&self) -> Agent {
        Agent::connect(&self.url).unwrap()
    }
}

fn ask(agent: &Agent, device: &str, what: &str) -> String {
    let reply = agent.request(format!("{device}/rpc"), what.to_owned()).reply_to(format!("{device}/res")).wait();
    reply.unwrap().text().unwrap().to_owned()
}

#[test]
fn every_verb_works_in_a_plain_thread() {
    let lab = Lab::start();
    let agent = lab.agent();
    let mut stream = agent.subscribe(["a/+", "b"]).qos(QoS::ExactlyOnce).wait().unwrap();
    assert_eq!(stream.granted().len(), 2);
    let deliveries = [
        (QoS::AtMostOnce, Delivery::Sent),
        (QoS::AtLeastOnce, Delivery::Acknowledged),
        (QoS::ExactlyOnce, Delivery::Completed),
    ];
    for (qos, delivery) in deliveries {
        assert_eq!(agent.publish("a/1", "x").qos(qos).retain(true).timeout(LIMIT).wait().unwrap(), delivery);
        assert_eq!(stream.next().unwrap().unwrap().text().unwrap(), "x");
    }
    agent.try_publish("b", "handed over").unwrap();
    assert_eq!(stream.next().unwrap().unwrap().text().unwrap(), "handed over");
    agent.publish("b", "and acknowledged").try_send().unwrap();
    assert_eq!(stream.next().unwrap().unwrap().text().unwrap(), "and acknowledged");

    let retained = agent.collect("a/+", 1, LIMIT).retained(Retained::Only).wait().unwrap();
    assert_eq!(retained[0].text().unwrap(), "x");
    assert_eq!(ask(&agent, "dev", "ping"), "ping");
    let replies = agent.request("other/rpc", "ping").reply_to("other/+").timeout(LIMIT).replies(2).wait().unwrap();
    assert_eq!(replies.len(), 2, "the call itself and its reply");
    assert!(agent.drain(LIMIT).unwrap().is_empty());
}

#[test]
fn many_threads_share_one_agent() {
    let lab = Lab::start();
    let agent = lab.agent();
    thread::scope(|scope| {
        for thread in 0..16 {
            let agent = &agent;
            scope.spawn(move || {
                for n in 0..20 {
                    let what = format!("{thread}/{n}");
                    assert_eq!(ask(agent, &format!("dev{thread}"), &what), what);
                }
            });
        }
    });
}

#[test]
fn calls_in_the_middle_of_async_code_are_answered() {
    let lab = Lab::start();
    let runtimes = [Builder::new_current_thread(), Builder::new_multi_thread()];
    for mut runtime in runtimes {
        let runtime = runtime.enable_all().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let task = tokio::spawn({
                let url = lab.url.clone();
                async move {
                    let agent = Agent::connect(url).unwrap();
                    let mut stream = agent.subscribe("a").wait().unwrap();
                    // More than the budget of a task, which is not renewed before its next poll.
                    for n in 0..300 {
                        agent.publish("a", n.to_string()).wait().unwrap();
                        assert_eq!(stream.next().unwrap().unwrap().text().unwrap(), n.to_string());
                    }
                    assert_eq!(ask(&agent, "dev", "ping"), "ping");
                    // Its time passes though the caller's runtime stands still.
                    assert!(stream.recv_timeout(millis(20)).unwrap().unwrap_err().is_timeout());
                }
            });
            task.await.unwrap();
        });
    }
}

#[test]
fn a_stream_is_waited_for_as_long_as_one_likes() {
    let lab = Lab::start();
    let agent = lab.agent();
    let mut stream = agent.subscribe("a").wait().unwrap();
    let mut clone = stream.clone();
    for timeout in [Duration::ZERO, millis(20)] {
        assert!(stream.recv_timeout(timeout).unwrap().unwrap_err().is_timeout());
    }
    agent.publish("a", "x").wait().unwrap();
    for stream in [&mut stream, &mut clone] {
        assert_eq!(stream.recv_timeout(LIMIT).unwrap().unwrap().text().unwrap(), "x");
    }
    drop(clone);
    stream.unsubscribe().unwrap();
    assert_eq!(agent.stats().subscribers, 0);
}

#[test]
fn iterators_end_with_the_agent_after_what_came_before() {
    let lab = Lab::start();
    let agent = lab.agent();
    let mut stream = agent.subscribe("a").wait().unwrap();
    let following = {
        let stream = stream.clone();
        thread::spawn(move || stream.map(|item| item.unwrap().text().unwrap().to_owned()).collect::<Vec<_>>())
    };
    let mut first = stream.clone();
    agent.publish("a", "x").wait().unwrap();
    first.next().unwrap().unwrap();
    agent.drain(LIMIT).unwrap();
    assert_eq!(following.join().unwrap(), ["x"]);
    // The handle is gone before its stream: what that holds can still be taken.
    drop(agent);
    assert_eq!(stream.recv_timeout(LIMIT).unwrap().unwrap().text().unwrap(), "x");
    assert!(stream.recv_timeout(LIMIT).is_none());
    assert!(stream.next().is_none());
}

#[test]
fn after_the_end_every_call_says_so() {
    let lab = Lab::start();
    let agent = lab.agent();
    agent.close().unwrap();
    agent.close().unwrap();
    assert!(matches!(agent.state(), State::Closed { reason: None, .. }));
    assert!(agent.publish("a", "x").wait().unwrap_err().is_closed());
    assert!(agent.try_publish("a", "x").unwrap_err().is_closed());
    assert!(agent.subscribe("a").wait().unwrap_err().is_closed());
    assert!(agent.collect("a", 1, LIMIT).wait().unwrap_err().is_closed());
    assert!(agent.request("a", "x").reply_to("b").wait().unwrap_err().is_closed());
    assert!(agent.drain(LIMIT).unwrap_err().is_closed());
    assert!(agent.wait_for_state(LIMIT, State::is_connected).unwrap_err().is_closed());
}

#[test]
fn what_was_accepted_is_sent_after_the_last_handle_is_dropped() {
    const COUNT: usize = 500;
    let lab = Lab::start();
    let mut stream = lab.agent().subscribe("a").capacity(COUNT).wait().unwrap();
    let listener = lab.agent();
    let mut kept = listener.subscribe("a").capacity(COUNT).wait().unwrap();
    // Dropped in async code too.
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let agent = lab.agent();
        for n in 0..COUNT {
            agent.publish("a", n.to_string()).try_send().unwrap();
        }
    });
    for n in 0..COUNT {
        assert_eq!(kept.recv_timeout(LIMIT).unwrap().unwrap().text().unwrap(), n.to_string());
    }
    assert!(stream.next().is_none(), "a subscription is no handle");
}

#[test]
fn a_refusal_to_connect_is_told_and_a_lazy_agent_tries_again() {
    let (_port, addr) = refusing_address();
    let url = crate::support::url(addr);
    assert_eq!(Agent::connect(&url).unwrap_err().kind(), ErrorKind::Connection);
    assert_eq!(Agent::connect("mqtt://").unwrap_err().kind(), ErrorKind::InvalidOptions);
    let agent = Agent::connect_lazy(url).unwrap();
    let error = agent.publish("a", "x").timeout(millis(50)).wait().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    assert!(agent.wait_for_state(millis(50), State::is_connected).unwrap_err().is_timeout());
    assert!(!agent.is_connected());
}

#[test]
fn a_call_on_the_agents_own_thread_is_refused_instead_of_waiting_for_itself() {
    let (_port, addr) = refusing_address();
    let agent = Arc::new(OnceLock::<Agent>::new());
    let (told, tells) = std::sync::mpsc::channel();
    let policy = {
        let agent = agent.clone();
        move |_: &Lost| {
            let error = agent.get().map(|agent| agent.publish("a", "x").wait().unwrap_err());
            told.send(error.map(|error| error.kind())).unwrap();
            Some(millis(10))
        }
    };
    let options = Options::from_url(&crate::support::url(addr)).unwrap().reconnect(policy);
    agent.set(Agent::connect_lazy(options).unwrap()).unwrap();
    let kind = std::iter::from_fn(|| tells.recv_timeout(LIMIT).ok()).flatten().next();
    assert_eq!(kind, Some(ErrorKind::OwnThread));
    // The policy holds the agent, which holds the policy.
    agent.get().unwrap().close().unwrap();
}
