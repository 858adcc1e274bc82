//! Call a device: publish a message and await its reply.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::agent::{Agent, Shared};
use crate::call::{deadline_after, Call};
use crate::command::{self, Command, Notice, Reply, RequestId};
use crate::options::Offline;
use crate::properties::Properties;
use crate::publish::{check_publish, make_publish};
use crate::{wire, Error, Filter, Message, QoS, Topic};

/// A call about to be made; made by [`Agent::request`]. Say where the reply will come by
/// [`reply_to`](Self::reply_to), then await it.
#[must_use = "nothing is sent until this is awaited"]
#[derive(Clone)]
pub struct Request {
    agent: Agent,
    topic: Result<Topic, Error>,
    payload: Bytes,
    qos: QoS,
    reply_to: Option<Result<Filter, Error>>,
    timeout: Duration,
    offline: Offline,
}

impl Request {
    pub(crate) fn new(agent: Agent, topic: Result<Topic, Error>, payload: Bytes) -> Self {
        let options = agent.options();
        let (timeout, offline) = (options.timeout, options.offline);
        Self { agent, topic, payload, qos: QoS::default(), reply_to: None, timeout, offline }
    }

    /// The topic, or filter, on which the reply will come. Calls with the same one take turns, because nothing in a
    /// plain reply says which call it answers; calls with different ones run at the same time. For the same reason a
    /// reply that comes after its call has ended is taken for that of the next call, if that has been sent by then:
    /// where devices may answer late, give each call a reply topic of its own, or put an id into the payload.
    pub fn reply_to<F>(mut self, filter: F) -> Self
    where
        F: TryInto<Filter>,
        F::Error: Into<Error>,
    {
        self.reply_to = Some(filter.try_into().map_err(Into::into));
        self
    }

    /// The quality of service of the request. Default: [`QoS::AtLeastOnce`]; its acknowledgement is not waited for.
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// How long the whole call may take, counted from when it is awaited or made a future: waiting for its turn,
    /// subscribing, the request, the reply. Default: the agent's [`timeout`](crate::Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What to do while there is no connection. Default: the agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    /// Awaits this many replies instead of one: from several devices that answer, or one that answers in parts. An
    /// error has those that came in [`Error::messages`]. The last setting of a call: the others go before it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let call = agent.request("fleet/ping", "").reply_to("fleet/+/pong").timeout(Duration::from_secs(2));
    /// let pongs = match call.replies(20).await {
    ///     Ok(pongs) => pongs,
    ///     Err(error) if error.is_timeout() => error.into_messages(), // those that answered in time
    ///     Err(error) => return Err(error),
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn replies(self, count: usize) -> RequestMany {
        RequestMany { request: self, count }
    }

    fn start(self, replies: usize) -> Pending {
        let shared = self.agent.clone().into_shared();
        let checked = self.check(replies);
        let (publish, reply_to) = match checked {
            Ok(checked) => checked,
            Err(error) => return Pending { call: Call::refused(error), id: RequestId(0), shared },
        };
        let deadline = deadline_after(self.timeout);
        let id = self.agent.next_request();
        let (reply, answer) = Reply::channel();
        let command = command::Request { id, publish, reply_to, replies, offline: self.offline, deadline, reply };
        Pending { call: Call::new(shared.clone(), Command::Request(command), answer, deadline), id, shared }
    }

    fn check(&self, replies: usize) -> Result<(wire::Publish, Filter), Error> {
        if replies == 0 {
            return Err(Error::invalid_argument("a request needs at least one reply: use publish for none"));
        }
        let reply_to = self.reply_to.clone().ok_or_else(|| {
            Error::invalid_argument("nothing says where the reply will come: call reply_to(topic) on the request")
        })??;
        let (topic, payload) = (self.topic.clone()?, self.payload.clone());
        let publish = make_publish(topic, payload, self.qos, false, Properties::default());
        check_publish(&publish, self.agent.options().version)?;
        Ok((publish, reply_to))
    }
}

/// A call with several replies; made by [`Request::replies`]. Await it.
#[must_use = "nothing is sent until this is awaited"]
#[derive(Debug, Clone)]
pub struct RequestMany {
    request: Request,
    count: usize,
}

impl IntoFuture for Request {
    type Output = Result<Message, Error>;
    type IntoFuture = RequestFuture;

    fn into_future(self) -> RequestFuture {
        RequestFuture(self.start(1))
    }
}

impl IntoFuture for RequestMany {
    type Output = Result<Vec<Message>, Error>;
    type IntoFuture = RequestManyFuture;

    fn into_future(self) -> RequestManyFuture {
        RequestManyFuture(self.request.start(self.count))
    }
}

/// The future of a [`Request`].
///
/// # Cancel safety
///
/// Dropped before the request was sent, it is not sent. Dropped after that, its reply is counted as late, and the next
/// call with the same reply filter has its turn.
#[must_use = "nothing is sent until this is awaited"]
pub struct RequestFuture(Pending);

/// The future of a [`RequestMany`]; as [`RequestFuture`].
#[must_use = "nothing is sent until this is awaited"]
pub struct RequestManyFuture(Pending);

impl Future for RequestFuture {
    type Output = Result<Message, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let replies = ready!(self.0.call.poll(cx))?;
        // The session answers with as many as were asked for.
        Poll::Ready(replies.into_iter().next().ok_or_else(Error::closed))
    }
}

impl Future for RequestManyFuture {
    type Output = Result<Vec<Message>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.call.poll(cx)
    }
}

/// A call under way. Who waits, forgets: dropped early, it tells the actor.
struct Pending {
    call: Call<Vec<Message>>,
    id: RequestId,
    shared: Arc<Shared>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.call.is_under_way() {
            // First, so that an actor that has the notice before the command finds it abandoned.
            self.call.give_up();
            let _ = self.shared.lanes.notices.send(Notice::RequestGone(self.id));
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("reply_to", &self.reply_to)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestManyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestManyFuture").finish_non_exhaustive()
    }
}
