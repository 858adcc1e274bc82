//! What a web server does with its agent.

use std::time::{Duration, Instant};

use futures::StreamExt;
use mqtt_agent::rpc::Correlation;
use mqtt_agent::{Agent, Error, Message, Request};
use serde_json::json;

use crate::report::{describe, Report};

pub(crate) async fn tell(agent: &Agent, devices: &[&str], report: &mut Report) {
    if let Err(error) = publish_and_collect(agent, devices, report).await {
        report.failures.push(describe("publish and collect", &error));
    }

    call_in_turn(agent, devices[0], report).await;
    call_at_once(agent, &devices[..devices.len().min(5)], "at once", report).await;
    call_at_once(agent, devices, "at once", report).await;
    // The agent still holds the reply topics, so each call is one round trip now.
    call_at_once(agent, devices, "at once, again", report).await;

    if let Err(error) = follow_telemetry(agent, Duration::from_secs(1), report).await {
        report.failures.push(describe("the telemetry stream", &error));
    }
}

async fn publish_and_collect(agent: &Agent, devices: &[&str], report: &Report) -> Result<(), Error> {
    let started = Instant::now();
    agent.publish(format!("dev/{}/led", devices[0]), "on").await?;
    report.time("publish, acknowledged", started.elapsed());

    let started = Instant::now();
    let readings = agent.collect("dev/+/telemetry", devices.len().min(10), Duration::from_secs(5)).await?;
    report.time(&format!("collect {} telemetry messages", readings.len()), started.elapsed());
    Ok(())
}

async fn call_in_turn(agent: &Agent, device: &str, report: &mut Report) {
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        let asked = Instant::now();
        outcomes.push(judge(device, asked, ping(agent, device).await));
    }
    report.calls("5 calls to one device, in turn", started.elapsed(), outcomes);
}

async fn call_at_once(agent: &Agent, devices: &[&str], how: &str, report: &mut Report) {
    let started = Instant::now();
    let calls = devices.iter().map(|device| ((*device, Instant::now()), ping(agent, device)));
    let answers = agent.request_each(calls).concurrency(devices.len());
    let outcomes = answers.map(|((device, asked), reply)| judge(device, asked, reply)).collect().await;
    report.calls(&format!("call {} devices {how}", devices.len()), started.elapsed(), outcomes);
}

fn ping(agent: &Agent, device: &str) -> Request {
    agent
        .request(format!("dev/{device}/rpc"), "")
        .json(&json!({ "id": agent.next_id(), "method": "RPC.Ping" }))
        .reply_to(format!("dev/{device}/rpc/res"))
        .correlation(Correlation::json("/id"))
}

/// How long the call took, if the answer to it is this device's.
fn judge(device: &str, asked: Instant, reply: Result<Message, Error>) -> Result<Duration, String> {
    let took = asked.elapsed();
    let from: String =
        reply.and_then(|reply| reply.json_at("/src")).map_err(|error| describe(&format!("device {device}"), &error))?;
    if from == device {
        Ok(took)
    } else {
        Err(format!("device {device}: the answer is from {from}"))
    }
}

async fn follow_telemetry(agent: &Agent, how_long: Duration, report: &Report) -> Result<(), Error> {
    let mut telemetry = agent.subscribe("dev/+/telemetry").await?;
    let end = tokio::time::Instant::now() + how_long;
    let (mut taken, mut lost) = (0, 0);
    while let Ok(Some(item)) = tokio::time::timeout_at(end, telemetry.recv()).await {
        match item {
            Ok(_reading) => taken += 1,
            // A slow stream tells how many messages it lost, and goes on.
            Err(error) => lost += error.lagged().ok_or(error)?,
        }
    }
    report.time(&format!("follow telemetry: {taken} messages, {lost} lost"), how_long);
    telemetry.unsubscribe().await
}
