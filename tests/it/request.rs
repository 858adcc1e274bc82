//! Requests: the reply reaches the call it belongs to.

use mqtt_agent::Agent;

use crate::support::broker_test;

broker_test!(a_request_gets_its_reply, |broker| async move {
    let device = Agent::connect(broker.url()).await.unwrap();
    let mut calls = device.subscribe("dev/1/rpc").await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(Ok(call)) = calls.recv().await {
            device.publish("dev/1/rpc/res", call.payload().clone()).await.unwrap();
        }
    });
    let agent = Agent::connect(broker.url()).await.unwrap();
    for n in 0..5 {
        let reply = agent.request("dev/1/rpc", n.to_string()).reply_to("dev/1/rpc/res").await.unwrap();
        assert_eq!(reply.text().unwrap(), n.to_string());
    }
    answering.abort();
});
