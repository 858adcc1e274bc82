//! The device shadow of AWS IoT: accepted or rejected, each on a topic of its own.

use serde::Serialize;
use serde_json::json;

use super::{with_member, with_payload, Correlation};
use crate::error::RemoteError;
use crate::{Agent, Message, Request};

/// The device shadow of AWS IoT.
///
/// A call goes to `$aws/things/<thing>/shadow/<verb>` with a `clientToken`, and is answered below it at `accepted` or
/// `rejected` with the same; any number of calls run at the same time, of which AWS takes ten for each connection. A
/// rejection is [`ErrorKind::Remote`](crate::ErrorKind::Remote) with its code and message, such as 404 where there is no
/// shadow.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::rpc::AwsShadow;
/// use serde_json::json;
///
/// let shadow = AwsShadow::new("pump");
/// shadow.update(&agent, &json!({ "state": { "desired": { "speed": 3 } } })).await?;
/// let speed: u32 = shadow.get(&agent).await?.json_at("/state/desired/speed")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsShadow {
    prefix: String,
}

impl AwsShadow {
    /// The unnamed (classic) shadow of a thing.
    pub fn new(thing: &str) -> Self {
        Self { prefix: format!("$aws/things/{thing}/shadow") }
    }

    /// A named shadow of a thing.
    pub fn named(thing: &str, name: &str) -> Self {
        Self { prefix: format!("$aws/things/{thing}/shadow/name/{name}") }
    }

    /// Reads the shadow document.
    pub fn get(&self, agent: &Agent) -> Request {
        self.call(agent, "get", &json!({}))
    }

    /// Changes the shadow by a document such as `{"state":{"desired":{…}}}`, with a `version` or not.
    pub fn update<D: Serialize + ?Sized>(&self, agent: &Agent, document: &D) -> Request {
        self.call(agent, "update", document)
    }

    /// Deletes the shadow.
    pub fn delete(&self, agent: &Agent) -> Request {
        self.call(agent, "delete", &json!({}))
    }

    fn call<D: Serialize + ?Sized>(&self, agent: &Agent, verb: &str, document: &D) -> Request {
        let topic = format!("{}/{verb}", self.prefix);
        let request = agent
            .request(&topic, "")
            .reply_to(format!("{topic}/accepted"))
            .rejected_by(format!("{topic}/rejected"))
            .correlation(Correlation::json("/clientToken"))
            .error_from(error);
        // At most 64 bytes.
        let token = format!("{}-{}", agent.unique_name(), agent.next_id());
        with_payload(request, with_member(document, "clientToken", token))
    }
}

fn error(reply: &Message) -> Option<RemoteError> {
    if !reply.topic().as_str().ends_with("/rejected") {
        return None;
    }
    let message: String = reply.json_at("/message").unwrap_or_default();
    let error = RemoteError::new(message);
    Some(match reply.json_at("/code") {
        Ok(code) => error.with_code(code),
        Err(_) => error,
    })
}
