//! Calls as devices really speak them: which reply answers which call, and ready-made conventions.
//!
//! A convention is nothing but a function that makes a [`Request`](crate::Request): the topic, the payload, where the
//! reply comes, how it is told from others ([`Correlation`]), and which replies are errors
//! ([`Request::error_from`](crate::Request::error_from)). What it makes is awaited, or given to
//! [`Agent::request_each`](crate::Agent::request_each), with the timeouts and all else that a request has.
//!
//! | Convention | Here |
//! |---|---|
//! | MQTT 5 response topic and correlation data | [`Agent::request`](crate::Agent::request), with nothing to set |
//! | Shelly Gen2 and later, Mongoose OS | `Shelly` |
//! | ThingsBoard | `ThingsBoard` |
//! | AWS IoT device shadow | `AwsShadow` |
//! | zigbee2mqtt bridge | `Zigbee2Mqtt` |
//!
//! All but the first need the feature `json`. One of your own is as short:
//!
//! ```no_run
//! use mqtt_agent::rpc::Correlation;
//! use mqtt_agent::{Agent, RemoteError, Request};
//!
//! /// `pump/7/cmd` takes "17 start", and `pump/7/ack` says "17 ok" or "17 err dry".
//! fn pump(agent: &Agent, pump: u32, command: &str) -> Request {
//!     let id = agent.next_id().to_string();
//!     agent
//!         .request(format!("pump/{pump}/cmd"), format!("{id} {command}"))
//!         .reply_to("pump/+/ack")
//!         .correlation(Correlation::by_key(id, |reply| Some(reply.text().ok()?.split(' ').next()?.to_owned())))
//!         .error_from(|reply| Some(RemoteError::new(reply.text().ok()?.split_once(" err ")?.1)))
//! }
//!
//! # async fn example(agent: Agent) -> Result<(), mqtt_agent::Error> {
//! pump(&agent, 7, "start").await?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "json")]
mod aws_shadow;
mod correlation;
#[cfg(feature = "json")]
mod shelly;
#[cfg(feature = "json")]
mod thingsboard;
#[cfg(feature = "json")]
mod zigbee2mqtt;

#[cfg(feature = "json")]
pub use aws_shadow::AwsShadow;
pub use correlation::Correlation;
pub(crate) use correlation::{Extract, Key};
#[cfg(feature = "json")]
pub use shelly::Shelly;
#[cfg(feature = "json")]
pub use thingsboard::ThingsBoard;
#[cfg(feature = "json")]
pub use zigbee2mqtt::Zigbee2Mqtt;

/// The user property of MQTT 5 that makes a reply an error; its value is the text of the error. [`Agent::serve`] sets it,
/// and [`Agent::request`] makes such a reply [`ErrorKind::Remote`](crate::ErrorKind::Remote).
///
/// [`Agent::serve`]: crate::Agent::serve
/// [`Agent::request`]: crate::Agent::request
pub const ERROR_PROPERTY: &str = "error";

/// The user property beside [`ERROR_PROPERTY`] that has the number of the error, where it has one.
pub const ERROR_CODE_PROPERTY: &str = "error-code";

/// A failure to write the payload is the call's.
#[cfg(feature = "json")]
fn with_payload(request: crate::Request, payload: Result<serde_json::Value, crate::Error>) -> crate::Request {
    match payload {
        Ok(payload) => request.json(&payload),
        Err(error) => request.failing(error),
    }
}

#[cfg(feature = "json")]
fn to_value<T: serde::Serialize + ?Sized>(value: &T) -> Result<serde_json::Value, crate::Error> {
    serde_json::to_value(value).map_err(crate::json::unwritable)
}

/// The value as a JSON object with one member more.
#[cfg(feature = "json")]
fn with_member<T: serde::Serialize + ?Sized>(
    value: &T,
    name: &str,
    member: String,
) -> Result<serde_json::Value, crate::Error> {
    let value = to_value(value)?;
    let serde_json::Value::Object(mut object) = value else {
        return Err(crate::Error::invalid_argument("this convention takes a JSON object only"));
    };
    object.insert(name.to_owned(), member.into());
    Ok(object.into())
}
