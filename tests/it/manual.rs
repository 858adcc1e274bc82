//! The tests that the manual shows on its page on testing, word for word: `tests/pages.rs` compares them.

use mqtt_agent::testing::{Broker, Device, Packet, Proxy, Response};
use mqtt_agent::{Agent, Error};
use std::time::Duration;

/// The code under test.
async fn open_door(agent: &Agent) -> Result<bool, Error> {
    let call = agent.request("door/1/cmd", "open").reply_to("door/1/ack").timeout(Duration::from_millis(500));
    Ok(call.await?.text() == Ok("opened"))
}

#[tokio::test]
async fn a_door_that_answers_is_open() -> Result<(), Error> {
    let broker = Broker::start().await?; // on a free port, gone when dropped
    let mut door = Device::connect(broker.url()).await?;
    door.respond_to("door/1/cmd", |_call| ("door/1/ack", "opened")).await?;

    let agent = Agent::connect(broker.url()).await?;
    assert!(open_door(&agent).await?);
    Ok(())
}

#[tokio::test]
async fn a_door_that_is_silent_times_out() -> Result<(), Error> {
    let broker = Broker::start().await?;
    let mut door = Device::connect(broker.url()).await?;
    door.respond_to("door/1/cmd", |_call| Response::silence()).await?;

    let agent = Agent::connect(broker.url()).await?;
    assert!(open_door(&agent).await.unwrap_err().is_timeout());
    Ok(())
}

#[tokio::test]
async fn a_cut_line_and_a_lost_acknowledgement_do_no_harm() -> Result<(), Error> {
    let broker = Broker::start().await?;
    let line = Proxy::start(broker.addr()).await?;
    let agent = Agent::connect(line.url()).await?;

    line.drop_next(Packet::PubAck);
    let publish = tokio::spawn({
        let agent = agent.clone();
        async move { agent.publish("a", "x").await }
    });
    line.wait_for_dropped(1).await; // the broker has the message, the agent does not know
    line.cut().await; // the agent reconnects and sends again
    publish.await.expect("no panic")?;
    Ok(())
}
