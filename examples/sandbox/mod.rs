//! To try a service out with nothing installed: a broker in its process, and devices with manners of their own.

use std::time::Duration;

use mqtt_agent::testing::{Broker, Device, Response};
use mqtt_agent::{Agent, Error, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::interval;

pub(crate) struct Sandbox {
    broker: Broker,
    devices: Vec<Device>,
    events: JoinSet<()>,
}

impl Sandbox {
    /// `lamp-1` to `lamp-5` answer a call and send an event each second, `mute` answers nothing, `broken` an error.
    pub(crate) async fn start() -> Result<Self, Error> {
        let broker = Broker::start().await?;
        let mut sandbox = Self { broker, devices: Vec::new(), events: JoinSet::new() };
        for number in 1..=5 {
            let id = format!("lamp-{number}");
            let answer = format!(r#"{{"from":"{id}","result":"pong"}}"#);
            let lamp = sandbox.device(&id, move |reply_to| Response::reply(reply_to, answer.clone())).await?;
            sandbox.events.spawn(send_events(lamp, format!("devices/{id}/events")));
        }
        sandbox.device("mute", |_| Response::silence()).await?;
        sandbox.device("broken", |reply_to| Response::reply(reply_to, r#"{"error":"the bulb is loose"}"#)).await?;
        Ok(sandbox)
    }

    /// Where its broker is, for an agent.
    pub(crate) fn url(&self) -> String {
        self.broker.url()
    }

    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        self.events.shutdown().await;
        for device in self.devices {
            device.stop().await?;
        }
        self.broker.stop().await
    }

    async fn device(
        &mut self,
        id: &str,
        mut answer: impl FnMut(String) -> Response + Send + 'static,
    ) -> Result<Agent, Error> {
        let mut device = Device::connect(self.url()).await?;
        device.respond_to(format!("devices/{id}/rpc"), move |call| answer(format!("{}/res", call.topic()))).await?;
        let agent = device.agent().clone();
        self.devices.push(device);
        Ok(agent)
    }
}

async fn send_events(lamp: Agent, topic: String) {
    let mut seconds = interval(Duration::from_secs(1));
    for uptime in 0_u64.. {
        seconds.tick().await;
        match lamp.try_publish(topic.as_str(), format!(r#"{{"uptime":{uptime}}}"#)) {
            Err(error) if error.kind() != ErrorKind::QueueFull => return,
            _ => {}
        }
    }
}
