//! Several replies to one request.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::join;
use mqtt_agent::{ErrorKind, Outcome};

use crate::script::*;
use crate::support::{millis, within, Scripted, LIMIT};

#[tokio::test]
async fn replies_until_the_deadline_are_those_that_came() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = |most| agent.request("all", "").reply_to("res/+").timeout(millis(500)).replies_up_to(most).into_future();
    let some = tokio::spawn(call(10));
    grant(&mut peer).await;
    peer.expect_publish().await;
    peer.publish(message("res/1", "1")).await;
    peer.publish(message("res/2", "2")).await;
    assert_eq!(some.await.unwrap().unwrap().len(), 2);
    let none = tokio::spawn(call(10));
    peer.expect_publish().await;
    assert!(none.await.unwrap().unwrap().is_empty(), "nobody there is an answer too");
    // As many as are wanted end it at once.
    let enough =
        tokio::spawn(agent.request("all", "").reply_to("res/+").timeout(Duration::MAX).replies_up_to(1).into_future());
    peer.expect_publish().await;
    peer.publish(message("res/1", "1")).await;
    assert_eq!(within(LIMIT, "the end", enough).await.unwrap().unwrap().len(), 1);
    assert_eq!(call(0).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_stream_of_replies_ends_by_its_gap_and_frees_its_place() {
    let (_scripted, agent, mut peer) = pair().await;
    let mut lines = agent.request("dump", "").reply_to("res").timeout(Duration::MAX).stream().gap(millis(200));
    let (first, ()) = join(lines.recv(), async {
        grant(&mut peer).await;
        peer.expect_publish().await;
        peer.publish(message("res", "1")).await;
        peer.publish(message("res", "2")).await;
    })
    .await;
    assert_eq!(first.unwrap().unwrap().text().unwrap(), "1");
    assert_eq!(lines.recv().await.unwrap().unwrap().text().unwrap(), "2");
    assert!(within(LIMIT, "the end", lines.recv()).await.is_none());
    settled(&agent, "no calls", |stats| stats.pending_requests == 0).await;
    assert!(lines.recv().await.is_none());
}

#[tokio::test]
async fn a_stream_of_replies_ends_by_its_deadline_and_that_is_an_error_if_none_came() {
    let (_scripted, agent, mut peer) = pair().await;
    let stream = || agent.request("dump", "").reply_to("res").timeout(millis(300)).stream();
    let mut lines = stream();
    let (first, ()) = join(lines.recv(), async {
        grant(&mut peer).await;
        peer.expect_publish().await;
        peer.publish(message("res", "1")).await;
    })
    .await;
    assert_eq!(first.unwrap().unwrap().text().unwrap(), "1");
    assert!(within(LIMIT, "the end", lines.recv()).await.is_none());
    let mut silent = stream();
    let (error, _) = join(silent.recv(), peer.expect_publish()).await;
    let error = error.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert!(silent.recv().await.is_none());
}

#[tokio::test]
async fn a_stream_says_what_it_lost_and_its_last_word_is_the_error_of_the_call() {
    let scripted = Scripted::listen().await;
    let (agent, mut peer) = connect(&scripted, options(&scripted.url()).stream_capacity(2)).await;
    let mut lines = agent.request("dump", "").reply_to("res").timeout(Duration::MAX).stream();
    let (first, ()) = join(lines.recv(), async {
        grant(&mut peer).await;
        peer.expect_publish().await;
        peer.publish(message("res", "1")).await;
    })
    .await;
    first.unwrap().unwrap();
    for n in ["2", "3", "4", "5"] {
        peer.publish(message("res", n)).await;
    }
    received(&agent, 5).await;
    assert_eq!(lines.recv().await.unwrap().unwrap_err().lagged(), Some(2));
    assert_eq!(lines.recv().await.unwrap().unwrap().text().unwrap(), "4");
    agent.close().await;
    assert_eq!(lines.recv().await.unwrap().unwrap().text().unwrap(), "5");
    assert!(lines.recv().await.unwrap().unwrap_err().is_closed());
    assert!(lines.recv().await.is_none());
    let mut refused = agent.request("dump/+", "").reply_to("res").stream();
    assert_eq!(refused.recv().await.unwrap().unwrap_err().kind(), ErrorKind::InvalidTopic);
    assert!(refused.recv().await.is_none());
}
