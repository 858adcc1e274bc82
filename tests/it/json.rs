//! JSON in and out.

use std::future::IntoFuture;

use mqtt_agent::{Agent, ErrorKind, Json, Outcome};
use serde::{Deserialize, Serialize};

use crate::script::*;
use crate::support::{broker_test, is_v5, within, LIMIT};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    celsius: f64,
}

broker_test!(json_goes_out_and_comes_back_and_says_what_it_is_where_it_can, |broker| async move {
    let content_type = is_v5().then_some("application/json");
    let agent = Agent::connect(broker.url()).await.unwrap();
    let mut readings = agent.subscribe("reading").await.unwrap();
    agent.publish("reading", "").json(&Reading { celsius: 21.5 }).await.unwrap();
    let message = within(LIMIT, "the reading", readings.recv()).await.unwrap().unwrap();
    assert_eq!(message.json::<Reading>().unwrap(), Reading { celsius: 21.5 });
    assert_eq!(message.properties().content_type.as_deref(), content_type);

    let serve = agent.serve("double", |request| async move {
        let reading: Reading = request.json()?;
        Ok::<_, mqtt_agent::Error>(Json(Reading { celsius: 2.0 * reading.celsius }))
    });
    let _service = serve.reply_to("doubled").await.unwrap();
    let reply = agent.request("double", "").json(&Reading { celsius: 4.0 }).reply_to("doubled").await.unwrap();
    assert_eq!(reply.json::<Reading>().unwrap(), Reading { celsius: 8.0 });
    assert_eq!(reply.properties().content_type.as_deref(), content_type);
});

#[tokio::test]
async fn a_payload_that_is_something_else_is_in_the_error() {
    let (_scripted, agent, mut peer) = pair().await;
    let call = tokio::spawn(agent.request("dev", "").json(&1).reply_to("res").into_future());
    grant(&mut peer).await;
    assert_eq!(peer.expect_publish().await.payload, "1");
    peer.publish(message("res", "not json")).await;
    let error = call.await.unwrap().unwrap().json::<Reading>().unwrap_err();
    assert_eq!((error.kind(), error.messages()[0].text().unwrap()), (ErrorKind::Decode, "not json"));
    assert_eq!(error.outcome(), Outcome::Unknown, "the device may have obeyed");
}

#[tokio::test]
async fn what_cannot_be_written_as_json_is_not_sent() {
    let (_scripted, agent, mut peer) = pair().await;
    let map = std::collections::HashMap::from([(vec![1], 1)]);
    let published = agent.publish("t", "").json(&map).await.unwrap_err();
    let requested = agent.request("t", "").json(&map).reply_to("res").await.unwrap_err();
    assert_eq!((published.kind(), requested.kind()), (ErrorKind::InvalidArgument, ErrorKind::InvalidArgument));
    nothing_sent(&agent, &mut peer).await;
}
