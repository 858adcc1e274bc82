//! A simulated device: answers calls, and sends telemetry now and then.

use std::future::ready;
use std::time::Duration;

use mqtt_agent::{Agent, Error, ErrorKind, IncomingRequest, Json, QoS, Service};
use serde::Deserialize;
use serde_json::{json, Value};
use tokio::task::JoinHandle;
use tokio::time::{interval_at, Instant};

const TELEMETRY_PERIOD: Duration = Duration::from_secs(1);

/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Device {
    id: String,
    agent: Agent,
    service: Service,
    telemetry: JoinHandle<()>,
}

#[derive(Deserialize)]
struct Call {
    id: u64,
    method: String,
}

impl Device {
    /// Returns when the device can be called.
    pub(crate) async fn start(url: &str, id: &str, phase: f64) -> Result<Self, Error> {
        // The process id keeps two fleets on one broker from pushing each other out.
        let client_id = format!("dev{}x{id}", std::process::id());
        let agent = Agent::builder(url)?.client_id(client_id).connect().await?;
        let id = id.to_owned();
        let service = agent
            .serve(format!("dev/{id}/rpc"), {
                let id = id.clone();
                move |call: IncomingRequest| ready(answer(&id, &call))
            })
            .reply_to(format!("dev/{id}/rpc/res"))
            // Because a broker may queue few QoS 1 messages for a client (mosquitto: 1,000) and drop the rest, when
            // thousands of devices answer at once; and a caller has a deadline anyway.
            .reply_qos(QoS::AtMostOnce)
            .await?;
        let topic = format!("dev/{id}/telemetry");
        let telemetry = tokio::spawn(measure(agent.clone(), topic, TELEMETRY_PERIOD.mul_f64(phase)));
        Ok(Self { id, agent, service, telemetry })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Answers what has come, sends what is accepted, and disconnects.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.telemetry.abort();
        self.service.stop(GRACE).await;
        self.agent.drain(GRACE).await?;
        Ok(())
    }
}

fn answer(device: &str, call: &IncomingRequest) -> Result<Json<Value>, &'static str> {
    let Call { id, method } = call.json().map_err(|_| "this is no call")?;
    match method.as_str() {
        "RPC.Ping" => Ok(Json(json!({ "id": id, "src": device, "result": "pong" }))),
        _ => Err("there is no such method"),
    }
}

async fn measure(agent: Agent, topic: String, phase: Duration) {
    let mut ticks = interval_at(Instant::now() + phase, TELEMETRY_PERIOD);
    loop {
        ticks.tick().await;
        match agent.try_publish(topic.as_str(), r#"{"temp":21.5}"#) {
            Err(error) if error.kind() != ErrorKind::QueueFull => return,
            _ => {}
        }
    }
}
