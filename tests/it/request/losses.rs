//! Calls without a connection, and what becomes of them when it is lost.

use super::*;

#[tokio::test]
async fn a_call_survives_the_loss_of_the_connection_and_of_the_session() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    // The reply filter before the request that is sent again.
    assert_eq!(asked(&grant(&mut peer).await), [("res", 1)]);
    answer(&mut peer, "ping", "pong").await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn a_call_survives_the_loss_of_the_connection_within_its_session() {
    let scripted = Scripted::listen().await;
    let options = kept(&scripted);
    let (agent, mut peer) = connect(&scripted, options).await;
    let call = tokio::spawn(call(&agent, "ping"));
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(true).await;
    let repeated = peer.expect_publish().await;
    assert_eq!(repeated, Publish { dup: true, ..request });
    peer.puback(repeated.pkid).await;
    peer.publish(message("res", "pong")).await;
    assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    nothing_sent(&agent, &mut peer).await;
}

#[tokio::test]
async fn an_acknowledged_request_is_not_sent_again_and_still_gets_its_reply() {
    for session_present in [false, true] {
        let scripted = Scripted::listen().await;
        let options = kept(&scripted);
        let (agent, mut peer) = connect(&scripted, options).await;
        let call = tokio::spawn(call(&agent, "ping"));
        grant(&mut peer).await;
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
        settled(&agent, "the acknowledgement", |stats| stats.acked == 1).await;
        peer.reset();
        let (mut peer, _) = scripted.accept_session(session_present).await;
        if !session_present {
            grant(&mut peer).await;
        }
        nothing_sent(&agent, &mut peer).await;
        peer.publish(message("res", "pong")).await;
        assert_eq!(call.await.unwrap().unwrap().text().unwrap(), "pong");
    }
}

#[tokio::test]
async fn a_reply_filter_refused_after_a_reconnect_ends_the_call_with_its_outcome_unknown() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = tokio::spawn(agent.request("dev", "ping").reply_to("res").timeout(Duration::MAX).into_future());
    grant(&mut peer).await;
    let request = peer.expect_publish().await;
    peer.puback(request.pkid).await;
    settled(&agent, "the acknowledgement", |stats| stats.acked == 1).await;
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    let subscribe = peer.expect_subscribe().await;
    peer.suback(subscribe.pkid, &[SubscribeReasonCode::Failure]).await;
    let error = within(LIMIT, "the refusal", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SubscribeRefused);
    assert_eq!(error.outcome(), Outcome::Unknown);
    nothing_sent(&agent, &mut peer).await;
    assert_eq!(agent.stats().filters, 0);
}

broker_test!(a_call_survives_a_cut_line, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let mut calls = device.subscribe("dev/+/rpc").await.unwrap();
    for kept in [false, true] {
        let proxy = Proxy::start(broker.addr()).await;
        let options = options(&proxy.url()).client_id("cut").clean_session(!kept);
        let agent = options.connect().await.unwrap();
        for round in 0..3_u64 {
            let payload = format!("{kept}/{round}");
            let call = agent.request("dev/1/rpc", payload.clone()).reply_to("dev/1/res").into_future();
            let call = tokio::spawn(call);
            // A request whose acknowledgement was lost may come twice.
            while within(LIMIT, "the request", calls.recv()).await.unwrap().unwrap().payload() != &payload {}
            proxy.cut().await;
            settled(&agent, "a new connection", |stats| stats.reconnects == round + 1).await;
            // Acknowledged after the SUBSCRIBE before it was handled.
            agent.publish("fence", "").await.unwrap();
            device.publish("dev/1/res", payload.clone()).await.unwrap();
            let reply = within(LIMIT, "the reply", call).await.unwrap().unwrap();
            assert_eq!(reply.text().unwrap(), payload);
        }
        agent.close().await;
    }
});

#[tokio::test]
async fn without_a_connection_a_call_fails_or_waits_as_told() {
    let scripted = Scripted::listen().await;
    let agent = options(&scripted.url()).connect_lazy().unwrap();
    let request = || agent.request("dev", "ping").reply_to("res");
    let error = request().offline(Offline::Fail).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
    for offline in [Offline::Wait, Offline::Queue] {
        let error = request().offline(offline).timeout(millis(50)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotSent));
    }
    let calls = [Offline::Wait, Offline::Queue].map(|offline| request().offline(offline).into_future());
    let calls = tokio::spawn(join_all(calls));
    let (mut peer, _) = scripted.accept_session(false).await;
    grant(&mut peer).await;
    for _ in 0..2 {
        answer(&mut peer, "ping", "pong").await;
    }
    for reply in calls.await.unwrap() {
        assert_eq!(reply.unwrap().text().unwrap(), "pong");
    }
}

#[tokio::test]
async fn a_call_that_will_not_wait_fails_when_the_connection_is_lost_before_it_was_sent() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    let call = agent.request("dev", "ping").reply_to("res").offline(Offline::Fail).timeout(Duration::MAX);
    let call = tokio::spawn(call.into_future());
    peer.expect_subscribe().await;
    peer.reset();
    let error = within(LIMIT, "the failure", call).await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Offline, Outcome::NotSent));
}

#[tokio::test]
async fn calls_given_up_without_a_connection_leave_nothing_behind() {
    let scripted = Scripted::listen().await;
    let options = options(&scripted.url()).reply_linger(millis(20));
    let agent = options.connect_lazy().unwrap();
    let calls = (0..100).map(|n| {
        let call = agent.request("dev", "ping").reply_to(format!("res/{n}")).timeout(millis(20));
        call.into_future()
    });
    for answer in join_all(calls).await {
        assert!(answer.unwrap_err().is_timeout());
    }
    settled(&agent, "no filter", |stats| stats.filters == 0 && stats.subscribers == 0).await;
}

#[tokio::test]
async fn calls_that_end_while_their_requests_wait_to_be_sent_again_do_no_harm() {
    const CALLS: usize = 64;
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url())).await;
    // More than the buffers of the system take from one who writes to a peer that does not read.
    let payload = bytes::Bytes::from(vec![0; 1 << 20]);
    let calls: Vec<_> = (0..CALLS)
        .map(|n| tokio::spawn(agent.request("dev", payload.clone()).reply_to(format!("res/{n}")).into_future()))
        .collect();
    let mut filters = 0;
    while filters < CALLS {
        filters += grant(&mut peer).await.filters.len();
    }
    for _ in 0..CALLS {
        peer.expect_publish().await;
    }
    peer.reset();
    let (mut peer, _) = scripted.accept_session(false).await;
    settled(&agent, "the new connection", |stats| stats.reconnects == 1).await;
    calls.iter().for_each(JoinHandle::abort);
    settled(&agent, "no calls", |stats| stats.pending_requests == 0 && stats.queued == 0).await;
    grant(&mut peer).await;
    // What was on its way already arrives, and nothing else.
    for _ in 0..agent.stats().in_flight {
        let request = peer.expect_publish().await;
        peer.puback(request.pkid).await;
    }
    nothing_sent(&agent, &mut peer).await;
}
