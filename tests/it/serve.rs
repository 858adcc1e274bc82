//! Services: every request has its answer.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, FutureExt};
use mqtt_agent::rpc::Correlation;
use mqtt_agent::testing::{self, MemoryBroker};
use mqtt_agent::{Agent, Error, ErrorKind, Message, RemoteError, ReplyBody, Request, Service, ServiceStats, Version};
use rumqttc::mqttbytes::v4::Packet;
use tokio::sync::{mpsc, Semaphore};
use tokio::time::Instant;

use crate::common::{mqtt5, nothing_left, stats};
use crate::script::*;
use crate::support::{broker_test, drop_after_polls, millis, secs, within, Peer, LIMIT, VERSION};

/// Waits until `reached` is true of what the service shows.
async fn served(service: &Service, what: &str, reached: impl Fn(ServiceStats) -> bool) {
    within(LIMIT, what, async {
        while !reached(service.stats()) {
            tokio::time::sleep(millis(1)).await;
        }
    })
    .await;
}

fn ask(agent: &Agent, id: &str, payload: &str) -> Request {
    agent.request(format!("dev/{id}/rpc"), payload.to_owned()).reply_to(format!("dev/{id}/res"))
}

fn remote(answer: Result<Message, Error>) -> RemoteError {
    let error = answer.unwrap_err();
    assert_eq!((error.kind(), error.messages().len()), (ErrorKind::Remote, 1), "{error:?}");
    error.remote().unwrap().clone()
}

broker_test!(a_handler_answers_with_what_it_returns_and_sees_the_levels_of_the_topic, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let service = device
        .serve("dev/{id}/rpc", |request| async move {
            format!("{} to {}", request.text().unwrap(), request.param("id").unwrap())
        })
        .reply_to("dev/{id}/res")
        .await
        .unwrap();
    let agent = Agent::connect(broker.url()).await.unwrap();
    for id in ["1", "2"] {
        assert_eq!(ask(&agent, id, "hello").await.unwrap().text().unwrap(), format!("hello to {id}"));
    }
    assert_eq!(service.stats().answered, 2);
    assert_eq!(service.stop(LIMIT).await, 0);
    drop(device);
});

broker_test!(on_mqtt_5_nothing_has_to_be_said_about_the_way_of_the_reply, |broker| async move {
    let device = mqtt5(&broker).await;
    let _service = device.serve("echo", |request| async move { request.payload().clone() }).await.unwrap();
    let agent = mqtt5(&broker).await;
    let calls = (0..100).map(|n| agent.request("echo", n.to_string()).into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().text().unwrap(), n.to_string());
    }
    assert_eq!((agent.stats().filters, agent.stats().late_replies), (1, 0));
});

broker_test!(an_error_of_the_handler_is_the_error_of_the_call, |broker| async move {
    let device = mqtt5(&broker).await;
    let service = device
        .serve("dev/{what}", |request| async move {
            match request.param("what") {
                Some("unfit") => Ok(ReplyBody::new("").content_type("x".repeat(70_000))),
                Some("code") => Err(RemoteError::new("no such switch").with_code(-105)),
                Some("panic") => panic!("in the handler"),
                _ => Ok(ReplyBody::new("fine").content_type("text/plain")),
            }
        })
        .await
        .unwrap();
    let agent = mqtt5(&broker).await;
    assert_eq!(remote(agent.request("dev/code", "").await), RemoteError::new("no such switch").with_code(-105));
    assert_eq!(remote(agent.request("dev/panic", "").await).message, "the handler panicked");
    let unfit = remote(agent.request("dev/unfit", "").await).message;
    assert!(unfit.starts_with("the answer cannot be sent: "), "{unfit}");
    assert_eq!((service.stats().answered, service.stats().unsent), (1, 1));
    let reply = agent.request("dev/fine", "").await.unwrap();
    assert_eq!((reply.text().unwrap(), reply.properties().content_type.as_deref()), ("fine", Some("text/plain")));
});

#[tokio::test]
async fn the_text_of_an_error_is_the_payload_or_what_the_convention_makes_of_it() {
    let (_scripted, agent, mut peer) = pair().await;
    let serve = agent.serve("dev/{id}/rpc", |_| async { Err::<(), _>("broken") }).reply_to("dev/{id}/res");
    let serve = serve.error_payload(|request, error| format!("{} {}", request.text().unwrap(), error.message));
    let _service = granted(&mut peer, serve.into_future()).await.unwrap();
    peer.publish(message("dev/7/rpc", "17")).await;
    let reply = peer.expect_publish().await;
    assert_eq!((reply.topic.as_str(), &reply.payload[..]), ("dev/7/res", &b"17 broken"[..]));
}

#[tokio::test]
async fn a_closure_that_panics_ends_neither_the_service_nor_the_process() {
    let (_scripted, agent, mut peer) = pair().await;
    let serve = agent
        .serve("rpc", |request| async move {
            if request.payload() == "fail" {
                Err("no")
            } else {
                Ok("yes")
            }
        })
        .reply_by(|request| {
            assert_ne!(request.payload(), "nowhere");
            Some("res".to_owned())
        })
        .same_by(|request| -> Option<String> { panic!("{:?}", request.text()) })
        .error_payload(|_, _| -> String { panic!("while it panics") });
    let _service = granted(&mut peer, serve.into_future()).await.unwrap();
    for (payload, answer) in [("x", "yes"), ("fail", "no")] {
        peer.publish(message("rpc", "nowhere")).await;
        peer.publish(message("rpc", payload)).await;
        let reply = peer.expect_publish().await;
        assert_eq!((reply.topic.as_str(), &reply.payload[..]), ("res", answer.as_bytes()));
        peer.puback(reply.pkid).await;
    }
}

#[tokio::test]
async fn no_more_handlers_run_than_may_and_what_waits_beyond_the_capacity_is_lost_and_counted() {
    let (_scripted, agent, mut peer) = pair().await;
    let gate = Arc::new(Semaphore::new(0));
    let (started, mut starts) = mpsc::unbounded_channel();
    let handler = {
        let gate = gate.clone();
        move |request: mqtt_agent::IncomingRequest| {
            let (gate, started) = (gate.clone(), started.clone());
            async move {
                started.send(request.text().unwrap().to_owned()).unwrap();
                gate.acquire().await.unwrap().forget();
                request.payload().clone()
            }
        }
    };
    let serve = agent.serve("rpc", handler).reply_to("res").concurrency(2).capacity(4);
    let service = granted(&mut peer, serve.into_future()).await.unwrap();
    for n in 0..7 {
        peer.publish(message("rpc", &n.to_string())).await;
        // One by one, so that the stream itself loses nothing.
        received(&agent, n + 1).await;
        served(&service, "it taken", |stats| stats.running + stats.waiting + stats.lost == n + 1).await;
    }
    assert_eq!((service.stats().running, service.stats().waiting, service.stats().lost), (2, 4, 1));
    gate.add_permits(6);
    for _ in 0..6 {
        let reply = peer.expect_publish().await;
        peer.puback(reply.pkid).await;
    }
    served(&service, "all answered", |stats| stats.answered == 6 && stats.running == 0).await;
    let mut order = Vec::new();
    while let Ok(started) = starts.try_recv() {
        order.push(started);
    }
    assert_eq!(order, ["0", "1", "3", "4", "5", "6"], "the oldest that waits is lost");
}

#[tokio::test]
async fn nothing_waits_or_is_lost_while_a_handler_is_free() {
    let (_scripted, agent, mut peer) = pair().await;
    let serve = agent.serve("rpc", |request| async move { request.payload().clone() }).reply_to("res");
    // The stream holds eight.
    let service = granted(&mut peer, serve.capacity(5).into_future()).await.unwrap();
    peer.send_together((0..8).map(|n| Packet::Publish(message("rpc", &n.to_string())))).await;
    served(&service, "all of them", |stats| stats.answered + stats.lost == 8).await;
    assert_eq!(service.stats().lost, 0);
}

broker_test!(a_request_that_comes_twice_is_handled_once_and_answered_twice, |broker| async move {
    let device = mqtt5(&broker).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let service = device
        .serve("rpc", move |_| {
            let (run, gate) = (counted.fetch_add(1, Relaxed), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                run.to_string()
            }
        })
        .await
        .unwrap();
    let agent = mqtt5(&broker).await;
    let mut replies = agent.subscribe("res").await.unwrap();
    let topic = || mqtt_agent::Topic::new("res").unwrap();
    let publish = || agent.publish("rpc", "x").response_topic(topic()).correlation_data("17").into_future();
    // The second while the first is handled, the third after that.
    publish().await.unwrap();
    publish().await.unwrap();
    served(&service, "the second", |stats| stats.duplicates == 1).await;
    opened.add_permits(1);
    let reply = within(LIMIT, "the answer", replies.recv()).await.unwrap().unwrap();
    assert_eq!(reply.text().unwrap(), "0");
    served(&service, "an end", |stats| stats.running == 0).await;
    publish().await.unwrap();
    let again = within(LIMIT, "the answer again", replies.recv()).await.unwrap().unwrap();
    assert_eq!(again.text().unwrap(), "0");
    assert_eq!(again.properties().correlation_data.as_deref(), Some(&b"17"[..]));
    assert_eq!((runs.load(Relaxed), service.stats().duplicates), (1, 2));
});

/// A service that handles one request at a time and knows by their payload those that come twice.
async fn forgetful(agent: &Agent, peer: &mut Peer) -> Service {
    let echo = |request: mqtt_agent::IncomingRequest| async move { request.payload().clone() };
    let serve = agent.serve("rpc", echo).reply_to("res").concurrency(1).capacity(4);
    granted(peer, serve.same_by(|request| Some(request.payload().clone())).into_future()).await.unwrap()
}

#[tokio::test]
async fn requests_that_come_again_and_again_are_held_to_the_bounds_of_the_others() {
    let (_scripted, agent, mut peer) = pair().await;
    let service = forgetful(&agent, &mut peer).await;
    let mut payloads = Vec::new();
    peer.publish(message("rpc", "old")).await;
    let first = peer.expect_publish().await;
    peer.puback(first.pkid).await;
    served(&service, "an answer", |stats| stats.answered == 1 && stats.running == 0).await;
    for n in 1..=20 {
        peer.publish(message("rpc", "old")).await;
        served(&service, "it taken", |stats| stats.duplicates == n && stats.running == 1).await;
        assert!(service.stats().waiting <= 4);
    }
    peer.publish(message("rpc", "new")).await;
    served(&service, "one more lost", |stats| stats.lost == 16).await;
    assert_eq!((service.stats().running, service.stats().waiting), (1, 4));
    for _ in 0..5 {
        let reply = peer.expect_publish().await;
        peer.puback(reply.pkid).await;
        payloads.push(reply.payload);
    }
    assert_eq!(payloads, ["old", "old", "old", "old", "new"]);
    served(&service, "an end", |stats| stats.answered == 2 && stats.running == 0).await;
}

#[tokio::test]
async fn a_request_that_came_twice_has_its_answer_also_at_the_end() {
    let (_scripted, agent, mut peer) = pair().await;
    let service = forgetful(&agent, &mut peer).await;
    peer.publish(message("rpc", "old")).await;
    let first = peer.expect_publish().await;
    peer.puback(first.pkid).await;
    served(&service, "an answer", |stats| stats.answered == 1 && stats.running == 0).await;
    for n in 1..=2 {
        peer.publish(message("rpc", "old")).await;
        served(&service, "it taken", |stats| stats.duplicates == n && stats.running == 1).await;
    }
    let again = peer.expect_publish().await;
    // Of the two, one is being sent and one waits.
    let stop = tokio::spawn(service.stop(Duration::ZERO));
    assert_eq!(peer.expect_unsubscribe().await.topics, ["rpc"]);
    let waited = peer.expect_publish().await;
    assert_eq!((again.payload, waited.payload), ("old".into(), "old".into()));
    assert_eq!(within(LIMIT, "the end", stop).await.unwrap(), 1);
}

broker_test!(a_service_that_stops_finishes_what_runs_and_refuses_what_waits, |broker| async move {
    let device = mqtt5(&broker).await;
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let handler = move |_| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            "done"
        }
    };
    let service = device.serve("rpc", handler.clone()).concurrency(1).await.unwrap();
    let caller = mqtt5(&broker).await;
    let first = tokio::spawn(caller.request("rpc", "1").into_future());
    served(&service, "a handler", |stats| stats.running == 1).await;
    let second = tokio::spawn(caller.request("rpc", "2").into_future());
    served(&service, "one that waits", |stats| stats.waiting == 1).await;
    let stopping = tokio::spawn(service.stop(secs(60)));
    assert_eq!(remote(second.await.unwrap()).message, "the request was dropped unanswered");
    opened.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().text().unwrap(), "done");
    assert_eq!(within(LIMIT, "the end", stopping).await.unwrap(), 0);
    nothing_left(&device, "the service").await;

    // One that does not finish in time is aborted, and answers so.
    let service = device.serve("rpc", handler).await.unwrap();
    let call = tokio::spawn(caller.request("rpc", "3").into_future());
    served(&service, "a handler", |stats| stats.running == 1).await;
    assert_eq!(service.stop(Duration::ZERO).await, 1);
    assert_eq!(remote(call.await.unwrap()).message, "the request was dropped unanswered");
});

broker_test!(a_service_that_is_dropped_answers_what_it_was_asked, |broker| async move {
    let device = mqtt5(&broker).await;
    let service = device.serve("rpc", |_| std::future::pending::<()>()).await.unwrap();
    let caller = mqtt5(&broker).await;
    let call = tokio::spawn(caller.request("rpc", "1").into_future());
    served(&service, "a handler", |stats| stats.running == 1).await;
    drop(service);
    assert_eq!(remote(call.await.unwrap()).message, "the request was dropped unanswered");
    nothing_left(&device, "the service").await;
});

broker_test!(a_call_to_serve_dropped_at_any_point_leaves_no_service_behind, |broker| async move {
    let device = mqtt5(&broker).await;
    for polls in 0.. {
        let served = drop_after_polls(device.serve("rpc", |_| async {}).into_future(), polls).await;
        let is_over = served.is_some();
        drop(served);
        nothing_left(&device, "the service").await;
        if is_over {
            break;
        }
    }
});

#[tokio::test(start_paused = true)]
async fn an_expired_request_is_not_handled() {
    let broker = MemoryBroker::new();
    let device = broker.options().version(Version::V5).connect().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let service = device
        .serve("rpc", move |request| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                request.payload().clone()
            }
        })
        .concurrency(1)
        .await
        .unwrap();
    let caller = broker.options().version(Version::V5).connect().await.unwrap();
    let first = tokio::spawn(caller.request("rpc", "1").into_future());
    served(&service, "a handler", |stats| stats.running == 1).await;
    // The message dies with its call.
    let late = caller.request("rpc", "2").timeout(secs(1)).await;
    assert!(late.unwrap_err().is_timeout());
    opened.add_permits(2);
    first.await.unwrap().unwrap();
    served(&service, "an expired one", |stats| stats.expired == 1 && stats.running == 0).await;
    assert_eq!(service.stats().answered, 1);
}

broker_test!(services_of_a_group_share_the_requests, |broker| async move {
    let devices = join_all((0..3).map(|_| mqtt5(&broker))).await;
    let serve = |device: &Agent| {
        device.serve("$share/group/dev/{id}/rpc", |request| async move { request.param("id").unwrap().to_owned() })
    };
    let services: Vec<_> = join_all(devices.iter().map(|device| serve(device).into_future())).await;
    let services: Vec<_> = services.into_iter().map(Result::unwrap).collect();
    let caller = mqtt5(&broker).await;
    let calls = (0..60).map(|n| caller.request(format!("dev/{n}/rpc"), "").into_future());
    for (n, reply) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap().text().unwrap(), n.to_string());
    }
    let answered: Vec<_> = services.iter().map(|service| service.stats().answered).collect();
    assert_eq!(answered.iter().sum::<u64>(), 60);
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
});

#[tokio::test]
async fn what_cannot_be_served_is_refused() {
    let (_scripted, agent, mut peer) = pair().await;
    let error = agent.serve("dev/{id", |_| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidFilter);
    for reply_to in ["dev/{x}", "dev/x{id}", "dev/+/res", ""] {
        let error = agent.serve("dev/{id}", |_| async {}).reply_to(reply_to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTopic, "{reply_to}");
    }
    let serve = || agent.serve("dev", |_| async {});
    for serve in [serve().capacity(0), serve().reply_by(|_| None).reply_to("res")] {
        assert_eq!(serve.await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    nothing_sent(&agent, &mut peer).await;
}

#[cfg(feature = "trace-context")]
broker_test!(a_trace_goes_with_a_request_and_its_answer, |broker| async move {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let options = || Agent::builder(&broker.url()).unwrap();
    let device = options().connect().await.unwrap();
    let serve = device.serve("rpc", |request| async move { request.traceparent().unwrap_or("none").to_owned() });
    let _service = serve.reply_to("res").await.unwrap();
    let caller = options().trace_context(|| Some(TRACE.to_owned())).connect().await.unwrap();
    let reply = caller.request("rpc", "").reply_to("res").await.unwrap();
    // Before MQTT 5 there is no place for it, and that is no error.
    let expected = if crate::support::is_v5() { TRACE } else { "none" };
    assert_eq!(reply.text().unwrap(), expected);
});

#[tokio::test(start_paused = true)]
async fn a_service_that_is_stopped_waits_for_the_broker_to_let_it_go_as_long_as_it_may() {
    let broker = MemoryBroker::new();
    let agent = broker.options().version(VERSION).connect().await.unwrap();
    let serve = |pattern| agent.serve(pattern, |_| async { "pong" }).into_future();
    let started = Instant::now();
    assert_eq!(serve("a").await.unwrap().stop(secs(5)).await, 0);
    assert_eq!((agent.stats().filters, started.elapsed()), (0, secs(0)));

    let service = serve("b").await.unwrap();
    broker.drop_next(testing::Packet::UnsubAck);
    assert_eq!(service.stop(secs(5)).await, 0);
    assert_eq!(started.elapsed(), secs(5));

    let service = serve("c").await.unwrap();
    broker.refuse(true);
    broker.cut();
    agent.state().wait_for(|state| !state.is_connected()).await.unwrap();
    assert_eq!(service.stop(secs(5)).await, 0);
    assert_eq!(started.elapsed(), secs(5), "nobody could confirm it");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_came_before_the_stop_and_was_not_looked_at_is_answered_too() {
    let broker = MemoryBroker::new();
    let device = broker.options().version(VERSION).connect().await.unwrap();
    let agent = broker.options().version(VERSION).connect().await.unwrap();
    let service = device.serve("dev/{id}/rpc", |_| async { "pong" }).reply_to("dev/{id}/res").await.unwrap();
    let service = Mutex::new(Some(service));
    // Runs where the agent takes messages in: when the task of the service is woken, both the request and the stop are
    // there.
    let stop = Correlation::by_key("key", move |_: &Message| -> Option<String> {
        let service = service.lock().unwrap().take()?;
        service.stop(secs(5)).now_or_never().map(|_| panic!("it stops in its own task"))
    });
    let _watched = agent.subscribe("watch").await.unwrap();
    let watch = device.request("watch", "").reply_to("dev/1/rpc").correlation(stop).timeout(secs(60));
    tokio::spawn(watch.into_future());
    stats(&device, "the watch", |stats| stats.pending_requests == 1).await;
    // A handler was free.
    assert_eq!(ask(&agent, "1", "ping").timeout(secs(5)).await.unwrap().text(), Ok("pong"));
}
