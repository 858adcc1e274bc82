//! A simulated device: answers calls, and sends telemetry now and then.

use std::time::Duration;

use mqtt_agent::{Agent, Error, Message, Subscription};
use tokio::task::JoinHandle;
use tokio::time::{interval_at, Instant};

const TELEMETRY_PERIOD: Duration = Duration::from_secs(1);

pub(crate) struct Device {
    id: String,
    agent: Agent,
    task: JoinHandle<Result<(), Error>>,
}

impl Device {
    /// Returns when the device can be called.
    pub(crate) async fn start(url: &str, id: &str, phase: f64) -> Result<Self, Error> {
        // The process id keeps two fleets on one broker from pushing each other out.
        let client_id = format!("dev{}x{id}", std::process::id());
        let agent = Agent::builder(url)?.client_id(client_id).connect().await?;
        let calls = agent.subscribe(format!("dev/{id}/rpc")).await?;
        let task = tokio::spawn(live(agent.clone(), id.to_owned(), calls, TELEMETRY_PERIOD.mul_f64(phase)));
        Ok(Self { id: id.to_owned(), agent, task })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Sends what is accepted, disconnects, and tells how the device fared.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.agent.drain(Duration::from_secs(5)).await?;
        // The stream of calls ends with the agent, and the task with the stream.
        self.task.await.expect("a device does not panic")
    }
}

async fn live(agent: Agent, id: String, mut calls: Subscription, phase: Duration) -> Result<(), Error> {
    let mut telemetry = interval_at(Instant::now() + phase, TELEMETRY_PERIOD);
    loop {
        let sent = tokio::select! {
            call = calls.recv() => match call {
                Some(call) => answer(&agent, &id, &call?),
                None => return Ok(()),
            },
            _ = telemetry.tick() => agent.try_publish(format!("dev/{id}/telemetry"), r#"{"temp":21.5}"#),
        };
        match sent {
            // It was told to stop a moment ago.
            Err(error) if error.is_closed() => return Ok(()),
            sent => sent?,
        }
    }
}

/// QoS 0, because a broker may queue few QoS 1 messages for a client (mosquitto: 1,000) and drop the rest, when
/// thousands of devices answer at once; and a caller has a deadline anyway.
fn answer(agent: &Agent, id: &str, call: &Message) -> Result<(), Error> {
    match call.text().ok().and_then(parse) {
        Some((request_id, "RPC.Ping")) => agent.try_publish(format!("dev/{id}/rpc/res"), pong(id, request_id)),
        _ => Ok(()),
    }
}

pub(crate) fn ping(request_id: u64) -> String {
    format!(r#"{{"id":{request_id},"method":"RPC.Ping"}}"#)
}

pub(crate) fn pong(device: &str, request_id: u64) -> String {
    format!(r#"{{"id":{request_id},"src":"{device}","result":"pong"}}"#)
}

/// A request's id and method; a real device would have a JSON library.
fn parse(request: &str) -> Option<(u64, &str)> {
    let (id, method) = request.strip_prefix(r#"{"id":"#)?.split_once(r#","method":""#)?;
    Some((id.parse().ok()?, method.strip_suffix(r#""}"#)?))
}
