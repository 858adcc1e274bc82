//! What the server knows of the devices, from what they send.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mqtt_agent::{Agent, ErrorKind, Message, Retained};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Whoever may publish could invent devices without end.
const MOST_DEVICES: usize = 1000;
/// Two minutes of a reading a second.
const HISTORY: usize = 120;
/// For a browser that does not read; then it begins anew.
const MOST_CHANGES: usize = 1024;

pub(crate) type Changes = broadcast::Receiver<Change>;

pub(crate) struct Fleet {
    devices: Mutex<BTreeMap<String, Device>>,
    changes: broadcast::Sender<Change>,
}

#[derive(Clone, Default, Serialize)]
pub(crate) struct Device {
    online: bool,
    /// In milliseconds since 1970, as are all times here.
    last_seen: Option<u64>,
    readings: VecDeque<Reading>,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Reading {
    at: u64,
    celsius: f64,
}

/// A device as it is now, with what is new.
#[derive(Clone, Serialize)]
pub(crate) struct Change {
    id: String,
    online: bool,
    last_seen: Option<u64>,
    reading: Option<Reading>,
}

/// The payload of a device.
#[derive(Deserialize)]
struct Telemetry {
    celsius: f64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { devices: Mutex::default(), changes: broadcast::Sender::new(MOST_CHANGES) }
    }
}

impl Fleet {
    /// Listens to the fleet until the agent ends.
    pub(crate) async fn follow(self: Arc<Self>, agent: Agent) {
        const PAUSE: Duration = Duration::from_secs(1);

        let mut messages = loop {
            // Only the first time: after a reconnect the agent subscribes by itself.
            let filters = ["devices/+/status", "devices/+/telemetry"];
            match agent.subscribe(filters).retained(Retained::Include).await {
                Ok(messages) => break messages,
                Err(error) if error.is_closed() => return,
                // The page says itself that there is no connection.
                Err(error) if error.kind() == ErrorKind::Offline => {}
                Err(error) => eprintln!("the fleet: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        while let Some(item) = messages.recv().await {
            match item {
                Ok(message) => self.note(&message),
                Err(gap) => eprintln!("the fleet: {gap}"),
            }
        }
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.devices().keys().cloned().collect()
    }

    /// What is known, and what changes from then on.
    pub(crate) fn watch(&self) -> (BTreeMap<String, Device>, Changes) {
        // Changes are sent while this is locked, so none is missed or told twice.
        let devices = self.devices();
        (devices.clone(), self.changes.subscribe())
    }

    fn note(&self, message: &Message) {
        let mut levels = message.topic().levels().skip(1);
        let (Some(id), Some(subject)) = (levels.next(), levels.next()) else { return };
        let mut devices = self.devices();
        if devices.len() >= MOST_DEVICES && !devices.contains_key(id) {
            return;
        }
        let device = devices.entry(id.to_owned()).or_default();
        let now = now();
        let mut reading = None;
        if subject == "telemetry" {
            // What is not telemetry is left out, and still a sign of life.
            reading = message.json().ok().map(|Telemetry { celsius }| Reading { at: now, celsius });
            device.readings.extend(reading);
            device.readings.drain(..device.readings.len().saturating_sub(HISTORY));
            device.online = true;
        } else {
            device.online = message.payload() == "online";
        }
        if !message.is_retained() && device.online {
            device.last_seen = Some(now);
        }
        let change = Change { id: id.to_owned(), online: device.online, last_seen: device.last_seen, reading };
        // An error means that no browser is open.
        let _ = self.changes.send(change);
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<String, Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_millis().try_into().unwrap_or(u64::MAX)
}
