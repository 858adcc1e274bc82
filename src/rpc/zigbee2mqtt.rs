//! The bridge of zigbee2mqtt: requests with a transaction, answers with a status.

use serde::Serialize;

use super::{with_member, with_payload, Correlation};
use crate::error::RemoteError;
use crate::{Agent, Message, Request};

/// The requests to the bridge of zigbee2mqtt.
///
/// A request goes to `<base>/bridge/request/<name>` with a `transaction`, and is answered at
/// `<base>/bridge/response/<name>` with the same; any number run at the same time. An answer whose `status` is `error`
/// is [`ErrorKind::Remote`](crate::ErrorKind::Remote) with its text.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::rpc::Zigbee2Mqtt;
/// use serde_json::json;
///
/// let bridge = Zigbee2Mqtt::new("zigbee2mqtt");
/// bridge.request(&agent, "device/rename", &json!({ "from": "0x00158d0001", "to": "door" })).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zigbee2Mqtt {
    base: String,
}

impl Zigbee2Mqtt {
    /// The bridge with this base topic; `zigbee2mqtt` unless it was set otherwise.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into() }
    }

    /// A request by its name, such as `permit_join` or `device/rename`, with a JSON object. The reply is the whole
    /// answer: what was done is at `/data`.
    pub fn request<P: Serialize + ?Sized>(&self, agent: &Agent, name: &str, params: &P) -> Request {
        let request = agent
            .request(format!("{}/bridge/request/{name}", self.base), "")
            .reply_to(format!("{}/bridge/response/{name}", self.base))
            .correlation(Correlation::json("/transaction"))
            .error_from(error);
        let transaction = format!("{}-{}", agent.unique_name(), agent.next_id());
        with_payload(request, with_member(params, "transaction", transaction))
    }
}

fn error(reply: &Message) -> Option<RemoteError> {
    let status: String = reply.json_at("/status").ok()?;
    (status == "error").then(|| RemoteError::new(reply.json_at::<String>("/error").unwrap_or_default()))
}
