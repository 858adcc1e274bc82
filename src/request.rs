//! Call a device: publish a message and await its reply.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::agent::{Agent, Shared};
use crate::call::{deadline_after, Call};
use crate::command::{self, Notice, Reply, ReplyPaths, RequestId, Wanted};
use crate::error::RemoteError;
use crate::options::Offline;
use crate::properties::Properties;
use crate::publish::Content;
use crate::rpc::{Correlation, Extract, Key};
use crate::{wire, Error, Filter, Message, QoS, Topic};

mod each;
mod judge;
mod many;
mod stream;

pub use each::{Progress, RequestEach};
use judge::Judge;
pub use many::{RequestMany, RequestManyFuture};
pub use stream::Replies;

/// A call about to be made; made by [`Agent::request`]. Say where the reply will come by
/// [`reply_to`](Self::reply_to), then await it.
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{Outcome, QoS};
/// use std::time::Duration;
///
/// let call = agent
///     .request("door/1/cmd", "open")
///     .reply_to("door/1/ack")
///     .qos(QoS::ExactlyOnce) // the device is not to be asked twice
///     .timeout(Duration::from_secs(2));
/// match call.await {
///     Ok(reply) => println!("{}", reply.text().unwrap_or("not text")),
///     Err(error) if error.outcome() == Outcome::NotSent => eprintln!("try again: {error}"),
///     Err(error) => eprintln!("it may have opened: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent until this is awaited"]
#[derive(Clone)]
pub struct Request {
    agent: Agent,
    topic: Result<Topic, Error>,
    content: Content,
    qos: QoS,
    properties: Option<Box<Properties>>,
    reply_to: Option<Result<Filter, Error>>,
    rejected_by: Option<Result<Filter, Error>>,
    /// Elsewhere, as a call is moved with each of its settings, and few have one.
    correlation: Option<Box<Correlation>>,
    error_from: Option<Arc<judge::ErrorFrom>>,
    timeout: Duration,
    offline: Offline,
}

impl Request {
    pub(crate) fn new(agent: Agent, topic: Result<Topic, Error>, payload: Bytes) -> Self {
        let options = agent.options();
        let (timeout, offline) = (options.timeout, options.offline);
        Self {
            agent,
            topic,
            content: Content::bytes(payload),
            qos: QoS::default(),
            properties: None,
            reply_to: None,
            rejected_by: None,
            correlation: None,
            error_from: None,
            timeout,
            offline,
        }
    }

    /// The topic, or filter, on which the reply will come. Calls with the same one take turns, because nothing in a
    /// plain reply says which call it answers; calls with different ones run at the same time. For the same reason a
    /// reply that comes after its call has ended is taken for that of the next call, if that has been sent by then:
    /// where replies say which call they answer, tell by [`correlation`](Self::correlation); where they do not and may
    /// be late, give each call a reply topic of its own.
    ///
    /// Default: on MQTT 5 a topic of the agent's own, told to the device as response topic, with
    /// [`Correlation::data`]; on an earlier version there is none, and the call fails with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) or, where only the connection showed the
    /// version, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn reply_to<F>(mut self, filter: F) -> Self
    where
        F: TryInto<Filter>,
        F::Error: Into<Error>,
    {
        self.reply_to = Some(filter.try_into().map_err(Into::into));
        self
    }

    /// A second topic, or filter, on which a refusal comes in place of the reply. It is subscribed and confirmed before
    /// the request leaves, as the first. What comes by it makes the call fail with
    /// [`ErrorKind::Remote`](crate::ErrorKind::Remote): the text of [`Error::remote`] is the payload, or what
    /// [`error_from`](Self::error_from) makes of it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let shadow = agent
    ///     .request("$aws/things/pump/shadow/get", "")
    ///     .reply_to("$aws/things/pump/shadow/get/accepted")
    ///     .rejected_by("$aws/things/pump/shadow/get/rejected")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn rejected_by<F>(mut self, filter: F) -> Self
    where
        F: TryInto<Filter>,
        F::Error: Into<Error>,
    {
        self.rejected_by = Some(filter.try_into().map_err(Into::into));
        self
    }

    /// Which of the calls with the same reply filter a reply answers; [`Correlation`] has examples. Default:
    /// [`Correlation::by_turns`] with [`reply_to`](Self::reply_to), [`Correlation::data`] without.
    pub fn correlation(mut self, correlation: Correlation) -> Self {
        self.correlation = Some(Box::new(correlation));
        self
    }

    /// How to tell a reply that is an error: what `read` finds in it makes the call fail with
    /// [`ErrorKind::Remote`](crate::ErrorKind::Remote), and the reply is in [`Error::messages`]. It is run where the
    /// call is awaited. Whatever it says, a reply with the user property `error` of MQTT 5 is one, for so
    /// [`Agent::serve`] answers, and so is what comes by [`rejected_by`](Self::rejected_by).
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::RemoteError;
    ///
    /// let call = agent.request("dev/42/rpc", "open").reply_to("dev/42/res");
    /// let opened = call.error_from(|reply| Some(RemoteError::new(reply.text().ok()?.strip_prefix("ERR ")?))).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn error_from<F>(mut self, read: F) -> Self
    where
        F: Fn(&Message) -> Option<RemoteError> + Send + Sync + 'static,
    {
        self.error_from = Some(Arc::new(read));
        self
    }

    /// Makes this value, as JSON, the payload in place of the one given before. On MQTT 5 the content type
    /// `application/json` goes with it. A value that cannot be written as JSON makes the call fail with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument).
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// let call = agent.request("dev/42/rpc", "").json(&serde_json::json!({ "method": "status" }));
    /// let status: serde_json::Value = call.reply_to("dev/42/rpc/res").await?.json()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.content = Content::json(value);
        self
    }

    /// The quality of service of the request. Default: [`QoS::AtLeastOnce`]; its acknowledgement is not waited for.
    pub fn qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// What the request carries besides its payload, in place of all that was set before. Needs MQTT 5: on a connection
    /// of an earlier version the call fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported). The response
    /// topic and the correlation data are set by [`Correlation::data`]; the message expiry is the time that is left of
    /// the call. Default: nothing.
    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = Some(Box::new(properties));
        self
    }

    /// Adds a name and a value for the application, of at most 65,535 bytes each; as [`properties`](Self::properties),
    /// it needs MQTT 5.
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let properties = self.properties.get_or_insert_default();
        properties.user_properties.push((name.into(), value.into()));
        self
    }

    /// How long the whole call may take, counted from when it is awaited or made a future: waiting for its turn,
    /// subscribing, the request, the reply. Default: the agent's [`timeout`](crate::Options::timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What to do while there is no connection; [`Offline::Queue`] does here what [`Offline::Wait`] does. Default: the
    /// agent's [`offline`](crate::Options::offline).
    pub fn offline(mut self, offline: Offline) -> Self {
        self.offline = offline;
        self
    }

    /// Awaits this many replies instead of one: from several devices that answer, or one that answers in parts. An
    /// error has those that came in [`Error::messages`]. A count of 0 is an
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument). The last setting of a call: the others go
    /// before it.
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
        RequestMany::exactly(self, count)
    }

    /// Awaits the replies that come until the call's [`timeout`](Self::timeout), this many at most: from whoever
    /// answers. None at all is no error, if the request was sent. The last setting of a call.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let call = agent.request("fleet/ping", "").reply_to("fleet/+/pong").timeout(Duration::from_secs(2));
    /// println!("{} devices are there", call.replies_up_to(1000).await?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn replies_up_to(self, most: usize) -> RequestMany {
        RequestMany::up_to(self, most)
    }

    /// Hands each reply on as it comes: a [`Stream`](futures_core::Stream) that ends with the call's
    /// [`timeout`](Self::timeout), which counts from now, or sooner by its [`gap`](Replies::gap). It holds as many replies
    /// as the agent's [`stream_capacity`](crate::Options::stream_capacity), then loses the oldest and says so. The request
    /// is made when the stream is first polled.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// let call = agent.request("logger/dump", "").reply_to("logger/lines").timeout(Duration::from_secs(60));
    /// let mut lines = call.stream().gap(Duration::from_secs(2));
    /// while let Some(line) = lines.recv().await {
    ///     println!("{}", line?.text().unwrap_or("not text"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(self) -> Replies {
        Replies::new(self)
    }

    /// Makes the call fail with this, whatever else it is given.
    #[cfg(feature = "json")]
    pub(crate) fn failing(mut self, error: Error) -> Self {
        self.content = Content::failing(error);
        self
    }

    /// The call, and what makes a reply of it an error.
    fn start(mut self, wanted: Wanted) -> (Pending, Judge) {
        let shared = self.agent.clone().into_shared();
        let id = self.agent.next_request();
        let (timeout, offline, error_from) = (self.timeout, self.offline, self.error_from.take());
        let Checked { publish, reply_to, key } = match self.check(id) {
            Ok(checked) => checked,
            Err(error) => return (Pending { call: Call::refused(error), id, shared }, Judge::default()),
        };
        let judge = Judge::new(reply_to.as_ref().and_then(|paths| paths.rejected_by.clone()), error_from);
        let deadline = deadline_after(timeout);
        let (reply, answer) = Reply::channel();
        let publish = Some(publish);
        let command = Box::new(command::Request { id, publish, reply_to, key, offline, deadline, wanted, reply });
        (Pending { call: Call::new(shared.clone(), command, answer, deadline), id, shared }, judge)
    }

    fn check(self, id: RequestId) -> Result<Checked, Error> {
        let options = self.agent.options();
        let (reply_to, rejected_by) = (self.reply_to.transpose()?, self.rejected_by.transpose()?);
        if reply_to.is_none() && !options.version.may_be_5() {
            return Err(Error::invalid_argument(
                "nothing says where the reply will come: call reply_to(topic) on the request",
            ));
        }
        let default = if reply_to.is_some() { Correlation::by_turns } else { Correlation::data };
        let correlation = self.correlation.map_or_else(default, |correlation| *correlation);
        correlation.check(reply_to.as_ref(), rejected_by.as_ref())?;
        let key = correlation.key(self.content.payload()?, || self.agent.correlation_data(id))?;
        let mut properties = self.properties;
        if let Some(Key { extract: Extract::Data, value }) = key.as_deref() {
            let properties = properties.get_or_insert_default();
            properties.correlation_data = Some(value.clone());
            if let Some(filter) = &reply_to {
                properties.response_topic = Some(response_topic(filter)?);
            }
        }
        let reply_to = match (reply_to, rejected_by) {
            (Some(reply_to), rejected_by) => Some(ReplyPaths { reply_to, rejected_by }),
            (None, None) => None,
            (None, Some(_)) => return Err(Error::invalid_argument("rejected_by goes with reply_to")),
        };
        let publish = self.content.publish(self.topic?, self.qos, false, properties, options)?;
        Ok(Checked { publish, reply_to, key })
    }
}

/// What a request comes to.
struct Checked {
    publish: wire::Publish,
    reply_to: Option<ReplyPaths>,
    key: Option<Box<Key>>,
}

/// MQTT-3.3.2-14: a response topic has no wildcards.
fn response_topic(filter: &Filter) -> Result<Topic, Error> {
    match filter.share_group() {
        None => Topic::new(filter.as_str()),
        Some(_) => Err(Error::invalid_argument("a reply cannot be sent to a shared subscription: name its topic")),
    }
}

impl IntoFuture for Request {
    type Output = Result<Message, Error>;
    type IntoFuture = RequestFuture;

    fn into_future(self) -> RequestFuture {
        let (pending, judge) = self.start(Wanted::Exactly(1));
        RequestFuture { pending, judge }
    }
}

/// The future of a [`Request`].
///
/// # Cancel safety
///
/// Dropped before the request was sent, it is not sent. Dropped after that, its reply is counted as late, and the next
/// call with the same reply filter has its turn.
#[must_use = "nothing is sent until this is awaited"]
pub struct RequestFuture {
    pending: Pending,
    judge: Judge,
}

impl Future for RequestFuture {
    type Output = Result<Message, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pending, judge } = &mut *self;
        pending.call.poll_judged(cx, |mut replies| {
            // The session answers with as many as were asked for.
            let reply = replies.pop().ok_or_else(Error::closed)?;
            judge.check(reply)
        })
    }
}

/// A call under way. Who waits, forgets: dropped early, it tells the actor.
struct Pending {
    call: Call<Box<command::Request>, command::Replies>,
    id: RequestId,
    shared: Arc<Shared>,
}

impl Pending {
    fn give_up(&mut self) {
        if self.call.is_under_way() {
            // First, so that an actor that has the notice before the command finds it abandoned.
            self.call.give_up();
            let _ = self.shared.lanes.notices.send(Notice::RequestGone(self.id));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.content.len())
            .field("reply_to", &self.reply_to)
            .field("correlation", &self.correlation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFuture").finish_non_exhaustive()
    }
}
