//! What a caller gets: one reply, several, or each as it comes.

use crate::command::{Reply, Wanted};
use crate::{Error, Message};

/// The replies of a call, until they are its answer.
#[derive(Debug)]
pub(super) struct Collecting {
    wanted: Wanted,
    /// Empty where each is handed on as it comes.
    replies: Vec<Message>,
    has_any: bool,
    reply: Reply<Vec<Message>>,
}

impl Collecting {
    pub(super) fn new(wanted: Wanted, reply: Reply<Vec<Message>>) -> Self {
        Self { wanted, replies: Vec::new(), has_any: false, reply }
    }

    /// Takes a reply; true if it was the last.
    pub(super) fn take(&mut self, message: Message) -> bool {
        self.has_any = true;
        match &self.wanted {
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
    pub(super) fn expire(self, was_sent: bool, error: Error) {
        match self.wanted {
            Wanted::UpTo(_) if was_sent => self.finish(),
            Wanted::Each(_) if self.has_any => self.finish(),
            _ => self.fail(error),
        }
    }

    pub(super) fn finish(self) {
        self.reply.send(Ok(self.replies));
    }

    pub(super) fn fail(self, error: Error) {
        self.reply.send(Err(error.with_messages(self.replies)));
    }
}
