//! What a web server does with its agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use mqtt_agent::{Agent, Error};

use crate::device;
use crate::report::{describe, Report};

pub(crate) async fn tell(agent: &Agent, devices: &[&str], report: &mut Report) {
    if let Err(error) = publish_and_collect(agent, devices, report).await {
        report.failures.push(describe("publish and collect", &error));
    }

    let started = Instant::now();
    let mut outcomes = Vec::new();
    for _ in 0..5 {
        outcomes.push(call(agent, devices[0]).await);
    }
    let python = "v1 1.0 s a call, v2 0.1 s a call";
    report.calls("5 calls to one device, in turn", started.elapsed(), outcomes, python);

    let five = &devices[..devices.len().min(5)];
    call_at_once(agent, five, "at once", "v3 1.3 s", report).await;
    call_at_once(agent, devices, "at once", "", report).await;
    // The agent still holds the reply topics, so each call is one round trip now.
    call_at_once(agent, devices, "at once, again", "", report).await;

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

/// One call, and whether its answer is this device's answer to this request.
async fn call(agent: &Agent, device: &str) -> Result<Duration, String> {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);

    let request_id = REQUESTS.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let reply = agent
        .request(format!("dev/{device}/rpc"), device::ping(request_id))
        .reply_to(format!("dev/{device}/rpc/res"))
        .await
        .map_err(|error| describe(&format!("device {device}"), &error))?;
    let took = started.elapsed();

    let expected = device::pong(device, request_id);
    if reply.payload() == expected.as_bytes() {
        Ok(took)
    } else {
        Err(format!("device {device}: expected {expected}, got {:?}", reply.payload()))
    }
}

async fn call_at_once(agent: &Agent, devices: &[&str], how: &str, python: &str, report: &mut Report) {
    let started = Instant::now();
    let outcomes = join_all(devices.iter().map(|device| call(agent, device))).await;
    report.calls(&format!("call {} devices {how}", devices.len()), started.elapsed(), outcomes, python);
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
