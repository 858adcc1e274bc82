//! The answer to one request, which goes out whatever becomes of its handler.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::reply::ReplyBody;
use super::request::IncomingRequest;
use super::server::Counters;
use super::{ReplyTo, Setup};
use crate::agent::Agent;
use crate::error::RemoteError;
use crate::publish::{Content, Publish};
use crate::rpc::{ERROR_CODE_PROPERTY, ERROR_PROPERTY};
use crate::telemetry::TARGET;
use crate::{Error, ErrorKind, Topic};

/// Owes an answer. Dropped before it was given, it hands over an error to be sent.
pub(super) struct Responder {
    pub(super) agent: Agent,
    pub(super) setup: Arc<Setup>,
    pub(super) counters: Arc<Counters>,
    pub(super) request: IncomingRequest,
    pub(super) reply_to: Option<Topic>,
    pub(super) timeout: Duration,
    pub(super) owed: Owed,
}

pub(super) enum Owed {
    /// The handler has not said what.
    Anything,
    /// To be sent, or being sent; taken back by the agent if that is given up.
    Body(ReplyBody),
    Nothing,
}

/// Where the answer to a request goes.
pub(super) fn reply_topic(setup: &Setup, request: &IncomingRequest) -> Option<Topic> {
    if let Some(topic) = &request.message().properties().response_topic {
        return Some(topic.clone());
    }
    let text = match &setup.reply_to {
        ReplyTo::Nowhere => return None,
        ReplyTo::Template(template) => template.fill(request.pattern(), request.topic().as_str()),
        ReplyTo::Closure(read) => guarded(request, || read(request))??,
    };
    match Topic::new(text) {
        Ok(topic) => Some(topic),
        Err(error) => {
            let topic = request.topic();
            tracing::warn!(name: "mqtt.no_reply_topic", target: TARGET, %topic, %error, "a request cannot be answered");
            None
        }
    }
}

/// What makes the request known if it comes twice.
pub(super) fn same_key(setup: &Setup, request: &IncomingRequest) -> Option<Bytes> {
    match &setup.same_by {
        Some(same_by) => guarded(request, || same_by(request))?,
        None => request.message().properties().correlation_data.clone(),
    }
}

/// A closure of the user must not end the service by a panic, nor the process by one while there is another.
fn guarded<T>(request: &IncomingRequest, closure: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(closure));
    if result.is_err() {
        let topic = request.topic();
        tracing::error!(name: "mqtt.closure_panicked", target: TARGET, %topic, "a closure given to Serve panicked");
    }
    result.ok()
}

impl Responder {
    /// The answer as it is sent: an error has a payload and properties too.
    pub(super) fn body(&self, answer: Result<ReplyBody, RemoteError>) -> ReplyBody {
        let error = match answer {
            Ok(body) => return body,
            Err(error) => error,
        };
        let payload = self.setup.error_payload.as_ref();
        let payload = payload.and_then(|payload| guarded(&self.request, || payload(&self.request, &error)));
        let payload = payload.unwrap_or_else(|| error.message.clone().into());
        // Text that a property cannot hold is shortened rather than not sent at all.
        let text: String = error.message.chars().filter(|c| *c != '\0').take(MAX_TEXT).collect();
        let body = ReplyBody::new(payload).user_property(ERROR_PROPERTY, text);
        match error.code {
            Some(code) => body.user_property(ERROR_CODE_PROPERTY, code.to_string()),
            None => body,
        }
    }

    /// Sends the answer, and returns when the broker has it. Where it can never be sent, an error is, so that whoever asked
    /// need not wait in vain.
    pub(super) async fn send(mut self, body: ReplyBody) {
        if let Err(error) = self.answer(body).await {
            self.note_unsent(&error);
            if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::InvalidArgument) {
                let error = RemoteError::new(format!("the answer cannot be sent: {error}"));
                let _ = self.answer(self.body(Err(error))).await;
            }
        }
        self.owed = Owed::Nothing;
    }

    async fn answer(&mut self, body: ReplyBody) -> Result<(), Error> {
        self.owed = Owed::Body(body.clone());
        match self.publish(body) {
            Some(publish) => publish.timeout(self.timeout).await.map(drop),
            None => Ok(()),
        }
    }

    fn publish(&self, body: ReplyBody) -> Option<Publish> {
        let ReplyBody { payload, mut properties } = body;
        properties.correlation_data = self.request.message().properties().correlation_data.clone();
        let content = Content::with(payload, properties);
        let publish = Publish::with_content(self.agent.clone(), Ok(self.reply_to.clone()?), content);
        Some(publish.qos(self.setup.reply_qos))
    }

    fn note_unsent(&self, error: &Error) {
        let topic = self.request.topic();
        tracing::warn!(name: "mqtt.answer_unsent", target: TARGET, %topic, %error, "an answer could not be sent");
        self.counters.unsent(1);
    }
}

/// In characters; of at most four bytes each, so that they fit a field of 65,535.
const MAX_TEXT: usize = 16_000;

impl Drop for Responder {
    fn drop(&mut self) {
        let body = match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Nothing => return,
            // It may have been sent: the same once more does no harm.
            Owed::Body(body) => body,
            Owed::Anything => {
                self.counters.failed(1);
                self.body(Err(RemoteError::new("the request was dropped unanswered")))
            }
        };
        if let Some(Err(error)) = self.publish(body).map(Publish::try_send) {
            self.note_unsent(&error);
        }
    }
}
