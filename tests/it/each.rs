//! Many calls at once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mqtt_agent::rpc::Correlation;
use mqtt_agent::{Agent, ErrorKind, Offline, Outcome, Request, RequestEach, Service};

use crate::common::nothing_left;
use crate::script::*;
use crate::support::{broker_test, millis, secs, within, Broker, Scripted, LIMIT};

/// Devices `dev/{id}/rpc` that answer what they are asked at `dev/{id}/res`.
async fn fleet(broker: &Broker) -> Service {
    let device = Agent::connect(broker.url()).await.unwrap();
    let serve = device.serve("dev/{id}/rpc", |request| async move { request.payload().clone() });
    serve.reply_to("dev/{id}/res").capacity(16_384).concurrency(1000).await.unwrap()
}

/// A call that shares its subscription with those to all other devices.
fn ping(agent: &Agent, id: usize) -> (usize, Request) {
    let call = agent.request(format!("dev/{id}/rpc"), id.to_string()).reply_to("dev/+/res");
    (id, call.correlation(Correlation::topic(id.to_string())))
}

/// A large fleet on one subscription, a bounded part of it at a time.
async fn call_fleet(broker: &Broker, devices: usize) {
    const AT_ONCE: usize = 500;
    let _service = fleet(broker).await;
    let agent = Agent::connect(broker.url()).await.unwrap();
    let most = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let (looking, held) = (agent.clone(), most.clone());
    let started = Instant::now();
    let calls = (0..devices).map(|id| {
        let (id, call) = ping(&agent, id);
        (id, call.timeout(secs(60)))
    });
    let each = agent.request_each(calls).concurrency(AT_ONCE).on_progress(move |_| {
        let stats = looking.stats();
        let now = [stats.pending_requests, stats.in_flight, stats.filters];
        for (most, now) in held.iter().zip(now) {
            most.fetch_max(now as usize, Relaxed);
        }
    });
    let (replies, failures) = each.partition().await;
    let elapsed = started.elapsed();
    assert_eq!((replies.len(), failures.len()), (devices, 0));
    assert!(replies.iter().all(|(id, reply)| reply.text().unwrap() == id.to_string()));
    let [pending, in_flight, filters] = [0, 1, 2].map(|at| most[at].load(Relaxed));
    println!("{devices} devices in {elapsed:?}; at most {pending} calls, {in_flight} packets, {filters} filters");
    // A call that is over may be counted a moment longer.
    assert!(pending <= 2 * AT_ONCE && in_flight <= 4 * AT_ONCE && filters == 1);
    settled(&agent, "no calls", |stats| stats.pending_requests == 0 && stats.late_replies == 0).await;
}

broker_test!(a_thousand_devices_share_one_subscription_and_a_part_of_them_is_called_at_a_time, |broker| async move {
    call_fleet(&broker, 1000).await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_devices_are_called_in_one_call() {
    let broker = Broker::start(crate::support::BrokerKind::Embedded).await.unwrap();
    call_fleet(&broker, 10_000).await;
}

#[tokio::test]
async fn requests_are_taken_as_there_is_room_and_answers_come_as_they_do() {
    let (_scripted, agent, mut peer) = pair().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let calls = (1..=4).map(|id| {
        counted.fetch_add(1, Relaxed);
        ping(&agent, id)
    });
    let progress = Arc::new(Mutex::new(Vec::new()));
    let seen = progress.clone();
    let mut each = agent
        .request_each(calls)
        .concurrency(2)
        .on_progress(move |now| seen.lock().unwrap().push((now.done, now.failed, now.total)));
    assert_eq!(taken.load(Relaxed), 0, "nothing before the first poll");
    let peer_side = async {
        grant(&mut peer).await;
        for _ in 0..2 {
            peer.expect_publish().await;
        }
        peer.publish(message("dev/2/res", "2")).await;
    };
    let (first, ()) = tokio::join!(each.recv(), peer_side);
    assert_eq!((first.unwrap().0, taken.load(Relaxed)), (2, 2));
    let peer_side = async {
        assert_eq!(peer.expect_publish().await.topic, "dev/3/rpc");
        peer.publish(message("dev/3/res", "3")).await;
    };
    let (second, ()) = tokio::join!(each.recv(), peer_side);
    assert_eq!((second.unwrap().0, taken.load(Relaxed)), (3, 3));
    assert_eq!(*progress.lock().unwrap(), [(1, 0, Some(4)), (2, 0, Some(4))]);
    // Dropped, it leaves nothing behind; what was not begun is not made.
    drop(each);
    settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
    assert_eq!(taken.load(Relaxed), 3);
}

#[tokio::test]
async fn failures_are_given_with_their_keys_and_the_rest_goes_on() {
    let (_scripted, agent, mut peer) = pair().await;
    let bad = agent.request("dev/+/rpc", "").reply_to("dev/+/res");
    let calls = [("bad", bad), ("good", ping(&agent, 1).1)];
    let each = agent.request_each(calls);
    let peer_side = async {
        grant(&mut peer).await;
        peer.expect_publish().await;
        peer.publish(message("dev/1/res", "1")).await;
    };
    let ((replies, failures), ()) = tokio::join!(each.partition(), peer_side);
    assert_eq!((replies.len(), replies[0].0, failures.len(), failures[0].0), (1, "good", 1, "bad"));
    assert_eq!(failures[0].1.kind(), ErrorKind::InvalidTopic);
}

/// Calls that fail at once, because there is no connection.
fn offline(agent: &Agent, count: usize) -> RequestEach<usize, impl Iterator<Item = (usize, Request)> + '_> {
    let calls = (0..count).map(|id| {
        let (id, call) = ping(agent, id);
        (id, call.offline(Offline::Fail))
    });
    agent.request_each(calls).backoff(millis(1), millis(2))
}

#[tokio::test]
async fn only_failures_worth_it_are_tried_again_and_no_more_often_than_asked() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).connect_lazy().unwrap();
    for (attempts, worth_it) in [(1, true), (3, true), (3, false)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let each = offline(&agent, 5).attempts(attempts).retry_if(move |error| {
            assert_eq!(error.kind(), ErrorKind::Offline);
            counted.fetch_add(1, Relaxed);
            worth_it
        });
        let (_, failures) = within(LIMIT, "all failures", each.partition()).await;
        assert_eq!(failures.len(), 5);
        let expected = if worth_it { 5 * (attempts - 1) } else { 5 };
        assert_eq!(asked.load(Relaxed), expected, "{attempts} attempts");
    }
}

#[tokio::test]
async fn a_further_attempt_succeeds_where_nothing_was_sent_before() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).connect_lazy().unwrap();
    let each = tokio::spawn({
        let agent = agent.clone();
        async move { offline(&agent, 1).attempts(1000).backoff(millis(5), millis(5)).partition().await }
    });
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(message("dev/0/res", "0")).await;
    let (replies, failures) = within(LIMIT, "the reply", each).await.unwrap();
    assert_eq!((replies.len(), failures.len()), (1, 0));
}

#[tokio::test]
async fn a_call_that_may_have_been_carried_out_is_not_made_again_unasked() {
    let (_scripted, agent, mut peer) = pair().await;
    let (id, call) = ping(&agent, 1);
    let each = agent.request_each([(id, call.timeout(millis(300)))]).attempts(5).backoff(millis(1), millis(1));
    let peer_side = async {
        grant(&mut peer).await;
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
    };
    let ((_, failures), ()) = tokio::join!(each.partition(), peer_side);
    assert_eq!((failures[0].1.kind(), failures[0].1.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn one_deadline_ends_them_all_and_those_not_begun_were_not_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    let calls = (0..4).map(|id| ping(&agent, id));
    let each = agent.request_each(calls).concurrency(2).timeout(millis(300)).attempts(10);
    let peer_side = async {
        grant(&mut peer).await;
        for _ in 0..2 {
            let request = peer.expect_publish().await;
            peer.puback(request.pkid).await;
        }
    };
    let ((_, failures), ()) = tokio::join!(each.partition(), peer_side);
    let mut outcomes: Vec<_> = failures.iter().map(|(id, error)| (*id, error.kind(), error.outcome())).collect();
    outcomes.sort_by_key(|(id, ..)| *id);
    let timeout = |id, outcome| (id, ErrorKind::Timeout, outcome);
    let (sent, unsent) = (Outcome::Unknown, Outcome::NotSent);
    assert_eq!(outcomes, [timeout(0, sent), timeout(1, sent), timeout(2, unsent), timeout(3, unsent)]);
    nothing_sent(&agent, &mut peer).await;
}

broker_test!(a_stream_of_calls_dropped_at_any_point_leaves_nothing_behind, |broker| async move {
    let _service = fleet(&broker).await;
    let agent = options(&broker.url()).reply_linger(millis(1)).connect().await.unwrap();
    for polls in 0.. {
        let each = agent.request_each((0..3).map(|id| ping(&agent, id)));
        let over = crate::support::drop_after_polls(each.partition(), polls).await;
        nothing_left(&agent, "the calls").await;
        if over.is_some() {
            break;
        }
    }
});
