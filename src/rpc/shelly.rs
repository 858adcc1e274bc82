//! Shelly Gen2 and later, and what else runs Mongoose OS: JSON-RPC on `<device>/rpc`.

use serde::Serialize;
use serde_json::{json, Value};

use super::{to_value, with_payload, Correlation};
use crate::error::RemoteError;
use crate::{Agent, Message, Request};

/// The JSON-RPC of Shelly devices of the second and later generations, and of Mongoose OS.
///
/// A call goes to `<device>/rpc` as `{"id":…,"src":…,"method":…,"params":…}`; the device answers at `<src>/rpc` with the
/// same `id`. All calls of an agent, to whatever devices, share one subscription and run at the same time. An answer
/// with an `error` is [`ErrorKind::Remote`](crate::ErrorKind::Remote) with its code and message.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::rpc::Shelly;
/// use serde_json::json;
///
/// let lamp = Shelly::new("shellyplus1-a8032abe54dc");
/// let reply = lamp.call(&agent, "Switch.Set", &json!({ "id": 0, "on": true })).await?;
/// let was_on: bool = reply.json_at("/result/was_on")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelly {
    device: String,
    src: Option<String>,
}

impl Shelly {
    /// A device by its topic prefix, which is its identifier unless it was set otherwise.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into(), src: None }
    }

    /// The `src` of the calls: answers come to `<src>/rpc`. No other client may use it. Default: one that only this agent
    /// has.
    #[must_use]
    pub fn src(mut self, src: impl Into<String>) -> Self {
        self.src = Some(src.into());
        self
    }

    /// A call of this method. The reply is the whole frame: what the method returned is at `/result`.
    pub fn call<P: Serialize + ?Sized>(&self, agent: &Agent, method: &str, params: &P) -> Request {
        let src = self.src.clone().unwrap_or_else(|| format!("mqtt-agent-{}", agent.unique_name()));
        let request = agent.request(format!("{}/rpc", self.device), "").reply_to(format!("{src}/rpc"));
        let frame = |params: Value| json!({ "id": agent.next_id(), "src": src, "method": method, "params": params });
        let request = with_payload(request, to_value(params).map(frame));
        request.correlation(Correlation::json("/id")).error_from(error)
    }
}

fn error(reply: &Message) -> Option<RemoteError> {
    let code: i64 = reply.json_at("/error/code").ok()?;
    let message: String = reply.json_at("/error/message").unwrap_or_default();
    Some(RemoteError::new(message).with_code(code))
}
