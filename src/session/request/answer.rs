//! What a caller gets: one reply, several, or each as it comes.

use super::Pending;
use crate::command::Wanted;
use crate::{Error, Message, Outcome};

impl Pending {
    /// Takes a reply; true if it was the last.
    pub(super) fn take(&mut self, message: Message) -> bool {
        self.has_any = true;
        match &self.call.wanted {
            Wanted::Exactly(count) | Wanted::UpTo(count) => {
                self.replies.push(message);
                self.replies.len() >= *count
            }
            Wanted::Each(events) => {
                // An error means that nobody listens any more; the word of it is on its way.
                let _ = events.send(message);
                false
            }
        }
    }

    /// The time is up.
    pub(super) fn expire(self, error: Error) {
        match self.call.wanted {
            Wanted::UpTo(_) if self.sent_at.is_some() => self.finish(),
            Wanted::Each(_) if self.has_any => self.finish(),
            _ => self.fail(error),
        }
    }

    pub(super) fn finish(self) {
        self.call.reply.send(Ok(self.replies));
    }

    pub(super) fn fail(self, error: Error) {
        let outcome = if self.sent_at.is_some() { Outcome::Unknown } else { Outcome::NotSent };
        self.refuse(error.with_outcome(outcome));
    }

    /// With an error that knows the outcome itself.
    pub(super) fn refuse(self, error: Error) {
        self.call.reply.send(Err(error.with_messages(self.replies.into_vec())));
    }
}
