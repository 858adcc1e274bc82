//! How replies are told apart: which of the calls that wait on one reply filter a message answers.

use std::any::TypeId;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use bytes::Bytes;

use crate::telemetry::TARGET;
use crate::{Error, Filter, Message};

#[cfg(feature = "json")]
use crate::json::Pointer;

/// Which of the calls that wait on one reply filter a message answers; given to
/// [`Request::correlation`](crate::Request::correlation).
///
/// Devices have many conventions for this. With [`by_turns`](Self::by_turns) a call has the reply filter to itself until
/// it is over. All others read a key from the reply, so that any number of calls share one filter, one subscription and
/// the time: each reply is looked up in a table of the calls that wait. A key that another call on the same filter waits
/// with is refused with [`ErrorKind::KeyInUse`](crate::ErrorKind::KeyInUse), before anything is sent.
///
/// A reply whose key nobody waits for goes to the call that has its turn on the same filter, if there is one, and is
/// otherwise counted in [`Stats::late_replies`](crate::Stats::late_replies).
///
/// ```no_run
/// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::rpc::Correlation;
///
/// // `{"id":17,"method":"status"}` is answered by `{"id":17,"result":…}`: any number of calls at once.
/// let call = agent.request("dev/42/rpc", r#"{"id":17,"method":"status"}"#).reply_to("dev/42/rpc/res");
/// let status = call.correlation(Correlation::json("/id")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Correlation(pub(crate) Rule);

#[derive(Clone)]
pub(crate) enum Rule {
    Turns,
    Data,
    Topic(Bytes),
    /// Where the request has it, and where the reply.
    #[cfg(feature = "json")]
    Json(Result<(Arc<Pointer>, Arc<Pointer>), Error>),
    Closure(Bytes, Extract),
}

/// What the session keeps of a rule for one call.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) extract: Extract,
    pub(crate) value: Bytes,
}

/// How a key is read from a reply.
#[derive(Clone)]
pub(crate) enum Extract {
    Data,
    Topic,
    #[cfg(feature = "json")]
    Json(Arc<Pointer>),
    Closure {
        /// Of a closure that captures nothing: all with this type do the same.
        kind: Option<TypeId>,
        read: Arc<Closure>,
    },
}

type Closure = dyn Fn(&Message) -> Option<Bytes> + Send + Sync;

impl Correlation {
    /// Nothing in a reply says which call it answers: calls with the same reply filter take turns, first come first
    /// served, each with its deadline counted from the call. A reply that comes after its call has ended is taken for
    /// that of the next call, if that has been sent by then. The default with
    /// [`reply_to`](crate::Request::reply_to).
    pub fn by_turns() -> Self {
        Self(Rule::Turns)
    }

    /// The correlation data of MQTT 5 (section 4.10): the request carries 16 bytes that no other call of this agent
    /// has, and the response topic; the reply carries the same bytes. The reply filter must be one topic, without
    /// wildcards. The default without [`reply_to`](crate::Request::reply_to).
    ///
    /// Needs MQTT 5: on a connection of an earlier version the call fails with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn data() -> Self {
        Self(Rule::Data)
    }

    /// The topic of the reply has this where the reply filter has its last `+`: the number of the call, or the name of
    /// the device where that has one call at a time. A reply filter without a `+`, and an id that is more than one level,
    /// make the call fail with [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument).
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::rpc::Correlation;
    ///
    /// // All calls share one subscription; the reply to this one comes to v1/rpc/response/17.
    /// let call = agent.request("v1/rpc/request/17", "ping").reply_to("v1/rpc/response/+");
    /// let pong = call.correlation(Correlation::topic("17")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn topic(id: impl Into<String>) -> Self {
        Self(Rule::Topic(id.into().into()))
    }

    /// The payload of the reply has at this JSON pointer (RFC 6901) what the payload of the request has there: a number,
    /// a text or a truth value. `17` and `"17"` are not the same.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::rpc::Correlation;
    ///
    /// let call = agent.request("dev/42/rpc", r#"{"id":17,"method":"RPC.Ping"}"#).reply_to("dev/42/rpc/res");
    /// let pong = call.correlation(Correlation::json("/id")).await?; // {"id":17,"result":…}
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "json")]
    pub fn json(pointer: impl AsRef<str>) -> Self {
        Self::json_pair(&pointer, &pointer)
    }

    /// As [`json`](Self::json), where the request has it at `question` and the reply at `answer`. What is no pointer,
    /// and a request without a value there, make the call fail with
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument).
    #[cfg(feature = "json")]
    pub fn json_pair(question: impl AsRef<str>, answer: impl AsRef<str>) -> Self {
        let pointers = Pointer::new(question.as_ref())
            .and_then(|question| Ok((Arc::new(question), Arc::new(Pointer::new(answer.as_ref())?))));
        Self(Rule::Json(pointers))
    }

    /// The reply is the one from which `read` reads this key. `read` is run in the agent's task for each message that
    /// comes by the reply filter, so it has to be quick and must not wait; if it panics, the message is no reply.
    ///
    /// A function, or a closure that captures nothing, is run once for a reply however many calls have it; one that
    /// captures is run once for each call that has it.
    ///
    /// ```no_run
    /// # async fn example(agent: mqtt_agent::Agent) -> Result<(), mqtt_agent::Error> {
    /// use mqtt_agent::rpc::Correlation;
    ///
    /// // Replies such as "17 ok".
    /// let first_word = |reply: &mqtt_agent::Message| Some(reply.text().ok()?.split(' ').next()?.to_owned());
    /// let call = agent.request("dev/42/cmd", "17 ping").reply_to("dev/42/out");
    /// let pong = call.correlation(Correlation::by_key("17", first_word)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn by_key<K, F>(key: impl Into<Bytes>, read: F) -> Self
    where
        F: Fn(&Message) -> Option<K> + Send + Sync + 'static,
        K: Into<Bytes>,
    {
        let kind = (size_of::<F>() == 0).then(TypeId::of::<F>);
        let read = Arc::new(move |message: &Message| read(message).map(Into::into));
        Self(Rule::Closure(key.into(), Extract::Closure { kind, read }))
    }

    /// Refuses filters by which no message with a key could come.
    pub(crate) fn check(&self, reply_to: Option<&Filter>, rejected_by: Option<&Filter>) -> Result<(), Error> {
        let Rule::Topic(id) = &self.0 else { return Ok(()) };
        let has_place = |filter: &Filter| filter.levels().any(|level| level == "+");
        Err(Error::invalid_argument(if !reply_to.is_some_and(has_place) {
            "Correlation::topic needs a reply_to with a +"
        } else if !rejected_by.is_none_or(has_place) {
            "Correlation::topic needs a rejected_by with a +"
        } else if id.contains(&b'/') {
            "Correlation::topic takes what one level can have, without '/'"
        } else {
            return Ok(());
        }))
    }

    /// The key of a call with this payload and this number; None where calls take turns.
    pub(crate) fn key(&self, payload: &[u8], number: impl FnOnce() -> [u8; 16]) -> Result<Option<Box<Key>>, Error> {
        let (extract, value) = match &self.0 {
            Rule::Turns => return Ok(None),
            Rule::Data => (Extract::Data, Bytes::copy_from_slice(&number())),
            Rule::Topic(id) => (Extract::Topic, id.clone()),
            #[cfg(feature = "json")]
            Rule::Json(pointers) => {
                let (question, answer) = pointers.as_ref().map_err(Clone::clone)?;
                let value = question.find(payload).ok_or_else(|| {
                    Error::invalid_argument(format!(
                        "the payload has no number, text or truth value at {question} to know the reply by"
                    ))
                })?;
                (Extract::Json(answer.clone()), value)
            }
            Rule::Closure(key, extract) => (extract.clone(), key.clone()),
        };
        #[cfg(not(feature = "json"))]
        let _ = payload;
        Ok(Some(Box::new(Key { extract, value })))
    }
}

impl Extract {
    /// Whether it reads the same key from every message as the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Data, Self::Data) | (Self::Topic, Self::Topic) => true,
            #[cfg(feature = "json")]
            (Self::Json(one), Self::Json(two)) => one == two,
            (Self::Closure { kind: Some(one), .. }, Self::Closure { kind: Some(two), .. }) => one == two,
            (Self::Closure { read: one, .. }, Self::Closure { read: two, .. }) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }

    /// Hands the key of a message that came by this filter to `found`, if it has one.
    pub(crate) fn read<T>(
        &self,
        message: &Message,
        filter: &Filter,
        found: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Data => found(message.properties().correlation_data.as_deref()?),
            Self::Topic => found(wildcard_level(filter, message.topic().as_str())?.as_bytes()),
            #[cfg(feature = "json")]
            Self::Json(pointer) => found(&pointer.find(message.payload())?),
            Self::Closure { read, .. } => {
                // The task of the agent must outlive a mistake in it.
                let key = catch_unwind(AssertUnwindSafe(|| read(message))).unwrap_or_else(|_| {
                    let topic = message.topic();
                    tracing::error!(name: "mqtt.closure_panicked", target: TARGET, %topic, "the closure of a Correlation panicked");
                    None
                });
                found(&key?)
            }
        }
    }
}

/// What a topic has where the filter has its last `+`.
fn wildcard_level<'t>(filter: &Filter, topic: &'t str) -> Option<&'t str> {
    let levels = filter.levels().zip(topic.split('/'));
    levels.filter(|(wanted, _)| *wanted == "+").last().map(|(_, level)| level)
}

impl fmt::Debug for Correlation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Rule::Turns => "Correlation::by_turns",
            Rule::Data => "Correlation::data",
            Rule::Topic(_) => "Correlation::topic",
            #[cfg(feature = "json")]
            Rule::Json(_) => "Correlation::json",
            Rule::Closure(..) => "Correlation::by_key",
        })
    }
}

impl fmt::Debug for Extract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "Data",
            Self::Topic => "Topic",
            #[cfg(feature = "json")]
            Self::Json(_) => "Json",
            Self::Closure { .. } => "Closure",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::peer::plain;
    use crate::{QoS, Topic};

    fn message(topic: &str, payload: &'static str) -> Message {
        Message::new(plain(Topic::new(topic).unwrap(), payload.into(), QoS::AtMostOnce, 0))
    }

    fn closure(correlation: &Correlation) -> Extract {
        correlation.key(b"", || [0; 16]).unwrap().unwrap().extract
    }

    #[test]
    fn the_key_in_a_topic_is_at_the_last_wildcard() {
        let level = |filter: &str, topic| wildcard_level(&Filter::new(filter).unwrap(), topic);
        assert_eq!(level("rpc/response/+", "rpc/response/17"), Some("17"));
        assert_eq!(level("dev/+/res/+/x", "dev/42/res/17/x"), Some("17"));
        assert_eq!(level("$share/g/dev/+/#", "dev/42/res/17"), Some("42"));
        assert_eq!(level("rpc/response", "rpc/response"), None);
    }

    #[test]
    fn closures_that_capture_nothing_are_the_same_wherever_they_are_made() {
        let same = || closure(&Correlation::by_key("1", |reply: &Message| Some(reply.payload().clone())));
        assert!(same().is_same(&same()));
        let captured = |prefix: String| {
            closure(&Correlation::by_key("1", move |reply: &Message| {
                Some(reply.text().ok()?.strip_prefix(&prefix)?.to_owned())
            }))
        };
        let one = captured("a".into());
        assert!(one.is_same(&one.clone()) && !one.is_same(&captured("a".into())) && !one.is_same(&same()));
    }

    #[test]
    fn a_panic_in_a_closure_is_no_key() {
        let extract = closure(&Correlation::by_key("1", |_: &Message| -> Option<Bytes> { panic!("a mistake") }));
        let filter = Filter::new("a").unwrap();
        assert_eq!(extract.read(&message("a", "x"), &filter, |_| Some(())), None);
    }
}
