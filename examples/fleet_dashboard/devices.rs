//! Simulated devices, and a broker for them.

use std::time::Duration;

use mqtt_agent::testing::{Broker, Device, Response};
use mqtt_agent::{Agent, Error, ErrorKind, LastWill};
use tokio::task::JoinSet;
use tokio::time::{interval_at, Instant};

pub(crate) struct Simulation {
    broker: Broker,
    devices: Vec<Device>,
    telemetry: JoinSet<()>,
}

/// Where the devices are, and how warm it is there.
const PLACES: [(&str, f64); 12] = [
    ("attic", 27.0),
    ("boiler-room", 41.5),
    ("cellar", 12.5),
    ("cold-store", 4.0),
    ("freezer", -18.5),
    ("garage", 15.0),
    ("greenhouse", 24.5),
    ("kitchen", 22.5),
    ("lobby", 20.5),
    ("office", 21.5),
    ("server-room", 18.0),
    ("workshop", 17.5),
];

/// Answers no ping.
const MUTE: &str = "freezer";
/// Lost its power a while ago.
const OFF: &str = "garage";

impl Simulation {
    pub(crate) async fn start(count: u16) -> Result<Self, Error> {
        let mut simulation = Self { broker: Broker::start().await?, devices: Vec::new(), telemetry: JoinSet::new() };
        for number in 0..usize::from(count) {
            let (place, celsius) = PLACES[number % PLACES.len()];
            let id = match number / PLACES.len() {
                0 => place.to_owned(),
                floor => format!("{place}-{}", floor + 1),
            };
            // Spreads the telemetry of the fleet over a second.
            let phase = Duration::from_secs(1).mul_f64(number as f64 / f64::from(count));
            simulation.add(&id, celsius, phase).await?;
        }
        Ok(simulation)
    }

    /// Where its broker is, for an agent.
    pub(crate) fn url(&self) -> String {
        self.broker.url()
    }

    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        self.telemetry.shutdown().await;
        for device in self.devices {
            device.stop().await?;
        }
        self.broker.stop().await
    }

    async fn add(&mut self, id: &str, celsius: f64, phase: Duration) -> Result<(), Error> {
        let status = format!("devices/{id}/status");
        let will = LastWill::new(status.as_str(), "offline").retain(true);
        let mut device = Device::connect(Agent::builder(&self.url())?.last_will(will)).await?;
        if id == OFF {
            device.agent().publish(status, "offline").retain(true).await?;
        } else {
            let (is_mute, res) = (id == MUTE, format!("devices/{id}/rpc/res"));
            let respond = move |_: &_| match is_mute {
                true => Response::silence(),
                false => Response::reply(res.as_str(), "pong").after(think()),
            };
            device.respond_to(format!("devices/{id}/rpc"), respond).await?;
            device.agent().publish(status, "online").retain(true).await?;
            let topic = format!("devices/{id}/telemetry");
            self.telemetry.spawn(measure(device.agent().clone(), topic, celsius, phase));
        }
        self.devices.push(device);
        Ok(())
    }
}

/// Mostly some ten milliseconds, now and then some hundred.
fn think() -> Duration {
    let slow = fastrand::f64().powi(8) * 400.0;
    Duration::from_millis(5).mul_f64(1.0 + 8.0 * fastrand::f64()) + Duration::from_secs_f64(slow / 1e3)
}

/// A slow wave around a temperature, with some noise.
async fn measure(agent: Agent, topic: String, around: f64, phase: Duration) {
    let mut seconds = interval_at(Instant::now() + phase, Duration::from_secs(1));
    let (start, period) = (fastrand::f64() * 100.0, 30.0 + fastrand::f64() * 60.0);
    for second in 0_u32.. {
        seconds.tick().await;
        let wave = (start + f64::from(second) * std::f64::consts::TAU / period).sin();
        let celsius = around + 0.8 * wave + 0.15 * (fastrand::f64() - 0.5);
        match agent.try_publish(topic.as_str(), format!(r#"{{"celsius":{celsius:.2}}}"#)) {
            Err(error) if error.kind() != ErrorKind::QueueFull => return,
            _ => {}
        }
    }
}
