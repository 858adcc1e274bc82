//! What a handler returns.

use std::any::Any;
use std::fmt::{self, Display};

use bytes::Bytes;

use crate::error::RemoteError;
use crate::properties::Properties;

/// The answer to a request, with what MQTT 5 lets it carry; where that is not spoken, only the payload goes.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::ReplyBody;
///
/// let service = agent.serve("dev/42/photo", |_| async { ReplyBody::new(vec![0xff, 0xd8]).content_type("image/jpeg") });
/// let service = service.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ReplyBody {
    pub(super) payload: Bytes,
    pub(super) properties: Properties,
}

impl ReplyBody {
    /// An answer with this payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), properties: Properties::default() }
    }

    /// What the payload is, as a MIME type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.properties.content_type = Some(content_type.into());
        self
    }

    /// Adds a name and a value for the application.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.user_properties.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody")
            .field("payload_bytes", &self.payload.len())
            .field("properties", &self.properties)
            .finish()
    }
}

/// What a handler of [`Agent::serve`](crate::Agent::serve) may return: bytes, text, nothing, `Json` (feature
/// `json`), a [`ReplyBody`], or a `Result` of one of these.
///
/// The error of such a `Result` is sent to the other side as its text, so it should have nothing in it that is not for
/// them; a [`RemoteError`] takes its code along. A type of one's own can be an answer too:
///
/// ```
/// use mqtt_agent::{IntoReply, RemoteError, ReplyBody};
///
/// struct Celsius(f64);
///
/// impl IntoReply for Celsius {
///     fn into_reply(self) -> Result<ReplyBody, RemoteError> {
///         match self.0 >= -273.15 {
///             true => Ok(ReplyBody::new(self.0.to_string())),
///             false => Err(RemoteError::new("the sensor is broken")),
///         }
///     }
/// }
/// ```
pub trait IntoReply {
    /// The answer, or the error in its place.
    ///
    /// # Errors
    ///
    /// The error that the other side gets.
    fn into_reply(self) -> Result<ReplyBody, RemoteError>;
}

macro_rules! payloads {
    ($($payload:ty),+) => {
        $(impl IntoReply for $payload {
            fn into_reply(self) -> Result<ReplyBody, RemoteError> {
                Ok(ReplyBody::new(self))
            }
        })+
    };
}

payloads!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl IntoReply for () {
    fn into_reply(self) -> Result<ReplyBody, RemoteError> {
        Ok(ReplyBody::default())
    }
}

impl IntoReply for ReplyBody {
    fn into_reply(self) -> Result<ReplyBody, RemoteError> {
        Ok(self)
    }
}

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoReply for crate::Json<T> {
    fn into_reply(self) -> Result<ReplyBody, RemoteError> {
        match crate::json::encode(&self.0) {
            Ok(payload) => Ok(ReplyBody::new(payload).content_type(crate::json::CONTENT_TYPE)),
            Err(error) => Err(RemoteError::new(error.to_string())),
        }
    }
}

impl<T: IntoReply, E: Display + 'static> IntoReply for Result<T, E> {
    fn into_reply(self) -> Result<ReplyBody, RemoteError> {
        let error = match self {
            Ok(reply) => return reply.into_reply(),
            Err(error) => error,
        };
        let remote = (&error as &dyn Any).downcast_ref::<RemoteError>();
        Err(remote.cloned().unwrap_or_else(|| RemoteError::new(error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_how_long_a_payload_is_and_not_what_is_in_it() {
        let shown = format!("{:?}", ReplyBody::new("hunter2").user_property("token", "hunter2").content_type("a/b"));
        assert!(shown.contains("payload_bytes: 7") && shown.contains("a/b") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn an_error_takes_its_text_along_and_a_code_if_it_has_one() {
        let reply = Err::<(), _>("no such switch").into_reply().err();
        assert_eq!(reply, Some(RemoteError::new("no such switch")));
        let with_code = RemoteError::new("no such switch").with_code(-105);
        assert_eq!(Err::<(), _>(with_code.clone()).into_reply().err(), Some(with_code));
        assert_eq!(Ok::<_, String>("pong").into_reply().ok().map(|reply| reply.payload), Some("pong".into()));
    }
}
