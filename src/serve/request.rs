//! What a handler is given.

use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;

use super::pattern::Pattern;
use crate::{Message, Topic};

/// A request that arrived at a service; given to the handler of [`Agent::serve`](crate::Agent::serve). Cloning it costs
/// two reference counts.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::IncomingRequest;
///
/// async fn switch(request: IncomingRequest) -> Result<String, String> {
///     let lamp = request.param("lamp").unwrap_or_default();
///     match request.text() {
///         Ok(state @ ("on" | "off")) => Ok(format!("{lamp} is {state}")),
///         _ => Err(format!("{lamp} can be on or off")),
///     }
/// }
///
/// let service = agent.serve("lamps/{lamp}/set", switch).reply_to("lamps/{lamp}/state").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct IncomingRequest {
    message: Message,
    pattern: Arc<Pattern>,
}

impl IncomingRequest {
    pub(super) fn new(message: Message, pattern: Arc<Pattern>) -> Self {
        Self { message, pattern }
    }

    /// What the topic has for a name of the served pattern: with `dev/{id}/rpc` and the topic `dev/42/rpc`, the `id` is
    /// `42`. None for a name that the pattern does not have, and for a `{rest#}` of which there is nothing.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.pattern.capture(name, self.message.topic().as_str())
    }

    /// The message, with its properties.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The topic it was published to.
    pub fn topic(&self) -> &Topic {
        self.message.topic()
    }

    /// The payload, as it was published.
    pub fn payload(&self) -> &Bytes {
        self.message.payload()
    }

    /// The payload as text.
    ///
    /// # Errors
    ///
    /// The payload is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        self.message.text()
    }

    /// Reads the payload as JSON; see [`Message::json`].
    ///
    /// # Errors
    ///
    /// As [`Message::json`].
    #[cfg(feature = "json")]
    pub fn json<'m, T: serde::Deserialize<'m>>(&'m self) -> Result<T, crate::Error> {
        self.message.json()
    }

    /// Reads a part of a JSON payload; see [`Message::json_at`].
    ///
    /// # Errors
    ///
    /// As [`Message::json_at`].
    #[cfg(feature = "json")]
    pub fn json_at<'m, T: serde::Deserialize<'m>>(&'m self, pointer: &str) -> Result<T, crate::Error> {
        self.message.json_at(pointer)
    }

    /// The trace that the request belongs to (W3C Trace Context), where the other side said so.
    #[cfg(feature = "trace-context")]
    pub fn traceparent(&self) -> Option<&str> {
        self.message.properties().user_property(crate::options::TRACEPARENT)
    }

    pub(super) fn pattern(&self) -> &Pattern {
        &self.pattern
    }
}

impl fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRequest").field("message", &self.message).finish_non_exhaustive()
    }
}
