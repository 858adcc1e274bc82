//! ThingsBoard: the number of a call is in its topic.

use serde::Serialize;
use serde_json::{json, Value};

use super::{to_value, with_payload, Correlation};
use crate::{Agent, Request};

/// The remote procedure calls of a ThingsBoard device connection.
///
/// The number of a call is the last level of its topic: what was asked at `…/request/17` is answered at
/// `…/response/17`. ThingsBoard calls the device ("server-side"), which [`pattern`](Self::pattern) and
/// [`reply_to`](Self::reply_to) serve; and the device calls ThingsBoard ("client-side") by [`call`](Self::call).
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::rpc::ThingsBoard;
/// use mqtt_agent::{Error, Json};
/// use serde_json::{json, Value};
///
/// let rpc = ThingsBoard::standard();
///
/// // The platform asks the device: {"method":"getGpio","params":{"pin":4}}
/// let service = agent
///     .serve(rpc.pattern(), |request| async move {
///         let method: String = request.json_at("/method")?;
///         Ok::<_, Error>(Json(json!({ "method": method, "done": true })))
///     })
///     .reply_to(rpc.reply_to())
///     .await?;
///
/// // The device asks the platform.
/// let time: Value = rpc.call(&agent, "getTime", &json!({})).await?.json()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThingsBoard {
    request: &'static str,
    response: &'static str,
}

impl ThingsBoard {
    /// The topics `v1/devices/me/rpc/request/…` and `v1/devices/me/rpc/response/…`.
    pub fn standard() -> Self {
        Self { request: "v1/devices/me/rpc/request", response: "v1/devices/me/rpc/response" }
    }

    /// The short topics `v2/r/req/…` and `v2/r/res/…`.
    pub fn short() -> Self {
        Self { request: "v2/r/req", response: "v2/r/res" }
    }

    /// What to [`serve`](crate::Agent::serve).
    pub fn pattern(&self) -> String {
        format!("{}/{{id}}", self.request)
    }

    /// Where the answer to what is served goes; for [`Serve::reply_to`](crate::Serve::reply_to).
    pub fn reply_to(&self) -> String {
        format!("{}/{{id}}", self.response)
    }

    /// A call of this method. All calls share one subscription and run at the same time.
    pub fn call<P: Serialize + ?Sized>(&self, agent: &Agent, method: &str, params: &P) -> Request {
        let id = agent.next_id();
        let request = agent.request(format!("{}/{id}", self.request), "").reply_to(format!("{}/+", self.response));
        let frame = |params: Value| json!({ "method": method, "params": params });
        with_payload(request, to_value(params).map(frame)).correlation(Correlation::topic(id.to_string()))
    }
}
