//! All that handles and the actor share: the commands, and the replies that cannot be forgotten.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use smallvec::SmallVec;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::allowance::Share;
use crate::options::Offline;
use crate::publish::Delivery;
use crate::rpc::Key;
use crate::slots;
use crate::subscribe::Retained;
use crate::{wire, Error, Filter, Message, QoS};

slots::key! {
    /// Names one local subscriber in the actor.
    pub(crate) struct SubscriberKey;
}

/// What a handle asks of the actor.
#[derive(Debug)]
pub(crate) enum Command {
    Publish(Publish),
    Subscribe(Subscribe),
    /// In a place of its own, where it stays until it is answered.
    Request(Box<Request>),
}

impl From<Publish> for Command {
    fn from(publish: Publish) -> Self {
        Self::Publish(publish)
    }
}

impl From<Subscribe> for Command {
    fn from(subscribe: Subscribe) -> Self {
        Self::Subscribe(subscribe)
    }
}

impl From<Box<Request>> for Command {
    fn from(request: Box<Request>) -> Self {
        Self::Request(request)
    }
}

/// What must reach the actor however full its lane of commands is, and what is sent from `Drop`, which can neither wait
/// nor fail. There are never more of them than there were live subscriptions, requests, held messages and callers of
/// `close`.
#[derive(Debug)]
pub(crate) enum Notice {
    SubscriberGone(SubscriberKey),
    /// The same, from a caller that waits for the broker's UNSUBACK.
    Unsubscribe(SubscriberKey, Reply<()>),
    RequestGone(RequestId),
    /// What became of a held message.
    Settled(HoldId, Settled),
    Close(Close),
}

/// Chosen by the handle, so that it can name a request the actor may not have seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) publish: wire::Publish,
    /// When the broker may throw it away.
    pub(crate) expires: Option<Instant>,
    pub(crate) offline: Offline,
    /// After this it is neither sent nor sent again.
    pub(crate) deadline: Option<Instant>,
    /// None where nobody waits: the message was handed over, with a share of the allowance for that.
    pub(crate) reply: Option<Reply<Delivery>>,
    pub(crate) share: Option<Share>,
}

#[derive(Debug)]
pub(crate) struct Subscribe {
    pub(crate) filters: Vec<Filter>,
    pub(crate) wish: Wish,
    pub(crate) capacity: usize,
    pub(crate) offline: Offline,
    pub(crate) deadline: Instant,
    pub(crate) reply: Reply<Feed>,
}

/// How a subscriber wants the messages of its filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) qos: QoS,
    pub(crate) retained: Retained,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
}

impl Wish {
    pub(crate) fn new(qos: QoS, retained: Retained) -> Self {
        Self { qos, retained, no_local: false, retain_as_published: false }
    }
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// Taken when it is its turn to be sent.
    pub(crate) publish: Option<wire::Publish>,
    /// None: to the topic that the agent has for that.
    pub(crate) reply_to: Option<ReplyPaths>,
    /// What the replies are known by; without one, calls with the same paths take turns.
    pub(crate) key: Option<Box<Key>>,
    pub(crate) offline: Offline,
    pub(crate) deadline: Instant,
    pub(crate) wanted: Wanted,
    pub(crate) reply: Reply<Replies>,
}

/// Mostly one.
pub(crate) type Replies = SmallVec<[Message; 1]>;

/// The filters by which the replies of a call come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ReplyPaths {
    pub(crate) reply_to: Filter,
    /// What comes by this one is a refusal.
    pub(crate) rejected_by: Option<Filter>,
}

impl ReplyPaths {
    /// The filter by which a message came.
    pub(crate) fn came_by(&self, message: &Message) -> &Filter {
        match &self.rejected_by {
            Some(rejected) if rejected.matches(message.topic()) => rejected,
            _ => &self.reply_to,
        }
    }
}

/// Which replies the caller wants.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// So many; fewer are an error that has them.
    Exactly(usize),
    /// Those that come by the deadline, this many at most.
    UpTo(usize),
    /// Each as it comes, until the deadline; the answer then has none.
    Each(broadcast::Sender<Message>),
}

#[derive(Debug)]
pub(crate) struct Close {
    /// Until when accepted work may finish; None ends it now.
    pub(crate) drain_until: Option<Instant>,
    pub(crate) reply: Reply<Unfinished>,
}

/// What a drain left undone.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// let unfinished = agent.drain(std::time::Duration::from_secs(5)).await?;
/// if !unfinished.is_empty() {
///     eprintln!("{} publishes, {} requests", unfinished.publishes, unfinished.requests);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Unfinished {
    /// Publishes that had no final answer from the broker. Callers that waited got an error that says what became of
    /// theirs; messages that were handed over to be sent later are counted here only.
    pub publishes: usize,
    /// Requests that had no reply.
    pub requests: usize,
    /// Messages of subscriptions that acknowledge late ([`Acks`](crate::Acks)) that were neither acknowledged nor
    /// dropped. The broker sends them again to the next connection with a session that was kept.
    pub unacknowledged: usize,
}

impl Unfinished {
    /// Whether everything was finished.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            publishes: self.publishes + other.publishes,
            requests: self.requests + other.requests,
            unacknowledged: self.unacknowledged + other.unacknowledged,
        }
    }
}

/// One item of a subscription: a message, or why there is a gap.
pub(crate) type Event = Result<Message, Error>;

/// What a subscriber gets at SUBACK: its channel, and the guard that ends the subscription.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) events: broadcast::Receiver<Event>,
    /// For more receivers of the same channel; weak, so that the stream ends with the actor.
    pub(crate) channel: broadcast::WeakSender<Event>,
    pub(crate) guard: SubscriberGuard,
    /// The QoS the broker granted, filter by filter in the order asked.
    pub(crate) granted: Vec<(Filter, QoS)>,
}

/// Tells the actor, when dropped, that the subscriber is gone.
#[derive(Debug)]
pub(crate) struct SubscriberGuard {
    key: SubscriberKey,
    notices: mpsc::UnboundedSender<Notice>,
}

impl SubscriberGuard {
    pub(crate) fn new(key: SubscriberKey, notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self { key, notices }
    }

    /// Ends the subscription; the receiver hears of the broker's UNSUBACK.
    pub(crate) fn unsubscribe(&self) -> oneshot::Receiver<Result<(), Error>> {
        let (reply, answer) = Reply::channel();
        let _ = self.notices.send(Notice::Unsubscribe(self.key, reply));
        answer
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        let _ = self.notices.send(Notice::SubscriberGone(self.key));
    }
}

/// Names a held message of one session; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HoldId(pub(crate) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It may be acknowledged.
    Acked,
    /// Nobody has it any more, and nobody acknowledged it.
    Left,
}

/// Keeps back the acknowledgement of one message. Tells the actor once what becomes of it: at the latest when the last
/// share is dropped.
pub(crate) struct Hold {
    id: HoldId,
    notices: mpsc::UnboundedSender<Notice>,
    is_taken: AtomicBool,
    is_settled: AtomicBool,
}

impl Hold {
    pub(crate) fn new(id: HoldId, notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self { id, notices, is_taken: AtomicBool::new(false), is_settled: AtomicBool::new(false) }
    }

    /// The message may be acknowledged now.
    pub(crate) fn ack(&self) {
        self.settle(Settled::Acked);
    }

    /// The message may be acknowledged once nobody else has to take it: when the last share is dropped.
    pub(crate) fn note_taken(&self) {
        self.is_taken.store(true, Relaxed);
    }

    fn settle(&self, settled: Settled) {
        if !self.is_settled.swap(true, Relaxed) {
            let _ = self.notices.send(Notice::Settled(self.id, settled));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.settle(if self.is_taken.load(Relaxed) { Settled::Acked } else { Settled::Left });
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.id.0).finish()
    }
}

/// The answer slot of a command. Dropped unused, it answers "closed": nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Reply<T>(Option<oneshot::Sender<Result<T, Error>>>);

impl<T> Reply<T> {
    pub(crate) fn channel() -> (Self, oneshot::Receiver<Result<T, Error>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    pub(crate) fn send(mut self, answer: Result<T, Error>) {
        if let Some(sender) = self.0.take() {
            // A caller that stopped listening has given the answer up; what it contains ends with it.
            let _ = sender.send(answer);
        }
    }

    /// Whether the caller stopped waiting.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(Err(Error::closed()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_reply_answers_closed() {
        let (reply, answer) = Reply::<()>::channel();
        drop(reply);
        assert!(answer.await.unwrap().unwrap_err().is_closed());
    }

    #[test]
    fn a_reply_knows_that_its_caller_left() {
        let (reply, answer) = Reply::<()>::channel();
        assert!(!reply.is_abandoned());
        drop(answer);
        assert!(reply.is_abandoned());
    }
}
