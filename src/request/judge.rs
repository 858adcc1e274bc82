//! Which replies are errors.

use std::sync::Arc;

use crate::error::RemoteError;
use crate::rpc::{ERROR_CODE_PROPERTY, ERROR_PROPERTY};
use crate::{Error, Filter, Message};

pub(super) type ErrorFrom = dyn Fn(&Message) -> Option<RemoteError> + Send + Sync;

/// Says of a reply whether it is an error.
#[derive(Clone, Default)]
pub(super) struct Judge {
    rejected_by: Option<Filter>,
    error_from: Option<Arc<ErrorFrom>>,
}

impl Judge {
    pub(super) fn new(rejected_by: Option<Filter>, error_from: Option<Arc<ErrorFrom>>) -> Self {
        Self { rejected_by, error_from }
    }

    pub(super) fn check(&self, reply: Message) -> Result<Message, Error> {
        match self.find(&reply) {
            None => Ok(reply),
            Some(remote) => Err(Error::remote_refused(remote).with_messages(vec![reply])),
        }
    }

    /// Of several replies the first error is the one told; all of them are with it.
    pub(super) fn check_all(&self, replies: Vec<Message>) -> Result<Vec<Message>, Error> {
        match replies.iter().find_map(|reply| self.find(reply)) {
            None => Ok(replies),
            Some(remote) => Err(Error::remote_refused(remote).with_messages(replies)),
        }
    }

    fn find(&self, reply: &Message) -> Option<RemoteError> {
        let read = self.error_from.as_ref().and_then(|read| read(reply));
        read.or_else(|| from_properties(reply)).or_else(|| {
            let rejected_by = self.rejected_by.as_ref()?;
            let is_rejected = rejected_by.matches(reply.topic());
            is_rejected.then(|| RemoteError::new(reply.text().unwrap_or_default()))
        })
    }
}

fn from_properties(reply: &Message) -> Option<RemoteError> {
    let properties = reply.properties();
    let error = RemoteError::new(properties.user_property(ERROR_PROPERTY)?);
    match properties.user_property(ERROR_CODE_PROPERTY).and_then(|code| code.parse().ok()) {
        Some(code) => Some(error.with_code(code)),
        None => Some(error),
    }
}
