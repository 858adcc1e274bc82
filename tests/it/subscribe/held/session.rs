//! The session of such a subscription: how it is made, and how it ends.

use mqtt_agent::{LastWill, Lost, Offline, State, Unfinished};
use rumqttc::mqttbytes::v4::ConnectReturnCode;

use super::*;
use crate::common::{give_up, refusing_address};
use crate::support::Proxy;

#[tokio::test]
async fn the_session_is_made_with_the_agents_options_but_without_its_last_will() {
    let scripted = Scripted::listen().await;
    let will = LastWill::new("gone", "x");
    let options =
        options(&scripted.url()).client_id("worker").clean_session(false).last_will(will).credentials("u", "p");
    let (agent, _main) = connect(&scripted, options).await;
    let (_jobs, _peer, first) = held(agent.subscribe(["b", "a"]).acks(Acks::OnTake), &scripted).await;
    assert!(first.client_id.starts_with("worker-"), "{first:?}");
    assert!(!first.clean_session && first.last_will.is_none() && first.login.is_some());
    let named = agent.subscribe(["b", "a"]).acks(Acks::OnTake).client_id("other");
    let (_other, _peer, second) = held(named, &scripted).await;
    assert_eq!(second.client_id, "other");
    let error = agent.subscribe(["a", "b"]).acks(Acks::Manual).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "the name is taken");
    let error = agent.subscribe("a").client_id("x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "it has no session of its own");
}

#[tokio::test]
async fn a_random_client_identifier_stays_random() {
    let (scripted, agent, _main) = pair().await;
    let (_one, _peer, first) = held(agent.subscribe("a").acks(Acks::OnTake), &scripted).await;
    let (_two, _peer, second) = held(agent.subscribe("a").acks(Acks::OnTake), &scripted).await;
    assert_ne!(first.client_id, second.client_id);
}

#[tokio::test]
async fn a_session_that_the_broker_refuses_is_an_error_at_once() {
    let (scripted, agent, _main) = pair().await;
    let call = tokio::spawn(agent.subscribe("jobs").acks(Acks::OnTake).timeout(secs(3600)).into_future());
    let mut peer = scripted.accept().await;
    peer.expect_connect().await;
    peer.connack(ConnectReturnCode::BadClientId, false).await;
    let error = within(LIMIT, "an answer", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(mqtt_agent::Refusal::IdentifierRejected));
    nothing_left(&agent, "a refusal").await;
}

#[tokio::test]
async fn a_filter_that_is_refused_ends_the_session() {
    let (scripted, agent, _main) = pair().await;
    let call = tokio::spawn(agent.subscribe("jobs").acks(Acks::OnTake).into_future());
    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::SubscribeRefused);
    peer.expect_disconnect().await;
    nothing_left(&agent, "a refusal").await;
}

#[tokio::test]
async fn without_a_connection_it_waits_until_its_deadline_or_fails_as_told() {
    let (_socket, addr) = refusing_address();
    let agent = options(&format!("mqtt://{addr}")).connect_lazy().unwrap();
    let subscribe = || agent.subscribe("jobs").acks(Acks::OnTake);
    assert!(subscribe().timeout(millis(50)).await.unwrap_err().is_timeout());
    assert_eq!(subscribe().offline(Offline::Fail).await.unwrap_err().kind(), ErrorKind::Offline);
    nothing_left(&agent, "failures").await;

    let scripted = Scripted::listen().await;
    let (agent, _main) = connect(&scripted, options(&scripted.url())).await;
    let call = tokio::spawn(agent.subscribe("jobs").acks(Acks::OnTake).into_future());
    scripted.accept().await.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    drop(call.await.unwrap().unwrap());
    let call = tokio::spawn(agent.subscribe("jobs").acks(Acks::OnTake).offline(Offline::Fail).into_future());
    scripted.accept().await.reset();
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Connection);
}

#[tokio::test]
async fn a_subscription_that_is_dropped_is_unsubscribed_and_its_session_ends_in_or_outside_of_a_runtime() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).client_id("worker").clean_session(false);
    let (agent, mut main) = connect(&scripted, options).await;
    let (jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    let mut clone = jobs.clone();
    drop(jobs);
    peer.publish(job(1)).await;
    let message = next(&mut clone).await;
    std::thread::spawn(move || drop(clone)).join().unwrap();
    assert_eq!(peer.expect_unsubscribe().await.topics, ["jobs"]);
    // What is being worked on may still be acknowledged.
    message.ack();
    assert_eq!(peer.expect_puback().await, 1);
    peer.expect_disconnect().await;
    nothing_left(&agent, "the end of the subscription").await;
    // The name is free again.
    let (jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    let end = tokio::spawn(jobs.unsubscribe());
    let unsubscribe = peer.expect_unsubscribe().await;
    peer.expect_nothing(QUIET).await;
    peer.unsuback(unsubscribe.pkid).await;
    end.await.unwrap().unwrap();
    peer.expect_disconnect().await;
    nothing_sent(&agent, &mut main).await;
}

#[tokio::test]
async fn it_can_be_subscribed_from_a_thread_that_is_not_the_runtimes() {
    let (scripted, agent, _main) = pair().await;
    let subscribe = agent.subscribe("jobs").acks(Acks::OnTake);
    let call = std::thread::spawn(move || futures::executor::block_on(subscribe.into_future()));
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    drop(tokio::task::spawn_blocking(|| call.join().unwrap()).await.unwrap().unwrap());
    peer.expect_unsubscribe().await;
}

#[tokio::test]
async fn it_ends_with_the_last_handle_of_its_agent_and_its_filter_stays_at_the_broker() {
    let (scripted, agent, mut main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::OnTake), &scripted).await;
    peer.publish(job(1)).await;
    received(&agent, 1).await;
    drop(agent);
    main.expect_disconnect().await;
    // What came before is still taken.
    assert_eq!(text(&mut jobs).await, "1");
    assert_eq!(peer.expect_puback().await, 1);
    peer.expect_disconnect().await;
    assert!(within(LIMIT, "the end of the stream", jobs.recv()).await.is_none());
    std::thread::spawn(move || drop(jobs)).join().unwrap();
}

#[tokio::test]
async fn a_closed_agent_closes_it_at_once() {
    let (scripted, agent, mut main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(job(1)).await;
    let message = next(&mut jobs).await;
    within(LIMIT, "the end", agent.close()).await;
    main.expect_disconnect().await;
    peer.expect_disconnect().await;
    message.ack();
    assert!(within(LIMIT, "the end of the stream", jobs.recv()).await.is_none());
    assert!(agent.subscribe("jobs").acks(Acks::OnTake).await.unwrap_err().is_closed());
}

#[tokio::test]
async fn a_drain_waits_for_those_who_work_and_counts_what_they_did_not_finish() {
    let (scripted, agent, _main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(job(1)).await;
    peer.publish(job(2)).await;
    let (first, second) = (next(&mut jobs).await, next(&mut jobs).await);
    let mut drain = pin!(agent.drain(secs(3600)));
    assert!(is_pending(&mut drain).await);
    first.ack();
    assert_eq!(peer.expect_puback().await, 1);
    assert!(is_pending(&mut drain).await);
    drop(second);
    peer.expect_disconnect().await;
    assert!(within(LIMIT, "the end", drain).await.unwrap().is_empty());

    let (scripted, agent, _main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(job(1)).await;
    let _message = next(&mut jobs).await;
    let unfinished = agent.drain(millis(50)).await.unwrap();
    assert_eq!(unfinished.unacknowledged, 1);
    assert_ne!(unfinished, Unfinished::default());
}

broker_test!(a_call_for_one_that_is_dropped_at_any_point_leaves_nothing, |broker| async move {
    let line = Proxy::start(broker.addr()).await;
    let agent = options(&line.url()).client_id("worker").clean_session(false).connect().await.unwrap();
    let subscribe = || agent.subscribe("jobs").acks(Acks::OnTake).into_future();
    let mut polls = 0;
    loop {
        let first = drop_after_polls(subscribe(), polls).await;
        let second = drop_when_woken_after_polls(subscribe(), polls).await;
        let is_done = first.is_some() && second.is_some();
        drop((first, second));
        nothing_left(&agent, "calls that were dropped").await;
        if is_done {
            break;
        }
        polls += 1;
    }
    line.wait_for_live(1).await;
    // A session that was left with the filter would have queued this.
    agent.publish("jobs", "lost").await.unwrap();
    let mut jobs = subscribe().await.unwrap();
    agent.publish("jobs", "kept").await.unwrap();
    assert_eq!(text(&mut jobs).await, "kept");
});

#[tokio::test]
async fn a_session_that_is_given_up_ends_its_stream_with_the_reason_and_the_agent_goes_on() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).reconnect(|lost: &Lost| (lost.attempt < 2).then_some(millis(10)));
    let (agent, mut main) = connect(&scripted, options).await;
    let subscribe = agent.subscribe("jobs").acks(Acks::Manual).capacity(3);
    let (mut jobs, mut peer, _) = held(subscribe, &scripted).await;
    let mut clone = jobs.clone();
    peer.publish(job(1)).await;
    peer.publish(job(2)).await;
    received(&agent, 2).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    let id = peer.expect_subscribe().await.pkid;
    peer.suback(id, &[SubscribeReasonCode::Failure]).await;
    peer.publish(job(3)).await;
    received(&agent, 3).await;
    peer.reset();
    // Nothing is read while it is full, the end neither.
    next(&mut jobs).await.ack();
    assert_refused_and_ended(&mut jobs).await;
    assert_eq!(text(&mut clone).await, "1");
    assert_refused_and_ended(&mut clone).await;
    nothing_sent(&agent, &mut main).await;
    drop((jobs, clone));
    let (_jobs, ..) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
}

async fn assert_refused_and_ended(stream: &mut Subscription) {
    assert_eq!(text(stream).await, "2");
    assert_eq!(failure(stream).await.kind(), ErrorKind::SubscribeRefused);
    assert_eq!(text(stream).await, "3");
    assert_eq!(failure(stream).await.kind(), ErrorKind::Connection);
    assert!(within(LIMIT, "the end", stream.recv()).await.is_none());
}

#[tokio::test]
async fn a_session_that_is_given_up_before_its_filters_are_confirmed_says_why() {
    let scripted = Scripted::listen().await;
    let (agent, mut main) = connect(&scripted, options(&scripted.url()).reconnect(give_up)).await;
    let call = tokio::spawn(agent.subscribe("jobs").acks(Acks::OnTake).into_future());
    let (mut peer, _) = scripted.accept_session(false).await;
    peer.expect_subscribe().await;
    peer.reset();
    let error = within(LIMIT, "an answer", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    nothing_sent(&agent, &mut main).await;
}

#[tokio::test]
async fn sessions_beside_an_agent_that_its_policy_ends_end_with_it() {
    let scripted = Scripted::listen().await;
    let (agent, main) = connect(&scripted, options(&scripted.url()).reconnect(give_up)).await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(job(1)).await;
    received(&agent, 1).await;
    main.reset();
    peer.expect_disconnect().await;
    assert_eq!(text(&mut jobs).await, "1");
    assert!(within(LIMIT, "the end", jobs.recv()).await.is_none());
    assert!(agent.subscribe("more").acks(Acks::Manual).await.unwrap_err().is_closed());
}

#[tokio::test]
async fn sessions_beside_an_agent_that_is_drained_have_the_time_of_the_drain() {
    let (scripted, agent, mut main) = pair().await;
    let (mut jobs, mut peer, _) = held(agent.subscribe("jobs").acks(Acks::Manual), &scripted).await;
    peer.publish(job(1)).await;
    let message = next(&mut jobs).await;
    let mut drain = pin!(agent.drain(secs(3600)));
    assert!(is_pending(&mut drain).await);
    main.expect_disconnect().await;
    let mut state = agent.state();
    within(LIMIT, "the end of the agent", state.wait_for(State::is_closed)).await.unwrap();
    assert!(is_pending(&mut drain).await);
    peer.expect_nothing(QUIET).await;
    message.ack();
    assert_eq!(peer.expect_puback().await, 1);
    assert!(within(LIMIT, "the end", drain).await.unwrap().is_empty());
}
