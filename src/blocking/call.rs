//! The async builders, with `wait` in place of `await`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::runner::Runner;
use super::Subscription;
use crate::rpc::Correlation;
use crate::{
    Acks, Collect, Delivery, Error, Filter, Message, Offline, Properties, Publish, QoS, RemoteError, Request,
    RequestMany, Retained, Subscribe, Topic,
};

/// A call about to be made: the settings of the async builder, and [`wait`](Self::wait) to make it.
///
/// ```no_run
/// # fn example(agent: mqtt_agent::blocking::Agent) -> Result<(), mqtt_agent::Error> {
/// use std::time::Duration;
///
/// let call = agent.request("dev/42/rpc", "ping").reply_to("dev/42/rpc/res").timeout(Duration::from_secs(2));
/// println!("{}", call.wait()?.text().unwrap_or("not text"));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens until this is waited for"]
#[derive(Clone)]
pub struct Call<B> {
    builder: B,
    runner: Runner,
}

impl<B> Call<B> {
    pub(super) fn new(builder: B, runner: Runner) -> Self {
        Self { builder, runner }
    }

    fn map<C>(self, set: impl FnOnce(B) -> C) -> Call<C> {
        Call { builder: set(self.builder), runner: self.runner }
    }
}

macro_rules! settings {
    ($($builder:ident: $($name:ident($($value:ident: $type:ty),*)),*;)*) => {$(
        impl Call<$builder> {$(
            #[doc = concat!("See [`", stringify!($builder), "::", stringify!($name), "`].")]
            pub fn $name(self, $($value: $type),*) -> Self {
                self.map(|builder| builder.$name($($value),*))
            }
        )*}
    )*};
}

settings! {
    Publish:
        qos(qos: QoS), retain(retain: bool), timeout(timeout: Duration), offline(offline: Offline),
        properties(properties: Properties), message_expiry(message_expiry: Duration),
        content_type(content_type: impl Into<String>), payload_is_utf8(payload_is_utf8: bool),
        response_topic(topic: impl TryInto<Topic, Error: Into<Error>>), correlation_data(data: impl Into<Bytes>),
        user_property(name: impl Into<String>, value: impl Into<String>);
    Subscribe:
        qos(qos: QoS), retained(retained: Retained), no_local(no_local: bool),
        retain_as_published(retain_as_published: bool), capacity(capacity: usize), timeout(timeout: Duration),
        offline(offline: Offline), acks(acks: Acks), client_id(client_id: impl Into<String>);
    Collect: qos(qos: QoS), retained(retained: Retained), offline(offline: Offline);
    Request:
        qos(qos: QoS), timeout(timeout: Duration), offline(offline: Offline), properties(properties: Properties),
        user_property(name: impl Into<String>, value: impl Into<String>), correlation(correlation: Correlation),
        error_from(read: impl Fn(&Message) -> Option<RemoteError> + Send + Sync + 'static);
}

macro_rules! waits {
    ($($builder:ident -> $answer:ty, errors of $verb:ident;)*) => {$(
        impl Call<$builder> {
            /// Makes the call and returns its answer.
            ///
            /// # Errors
            ///
            #[doc = concat!("Those of [`Agent::", stringify!($verb), "`](crate::Agent::", stringify!($verb), ");")]
            /// [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
            pub fn wait(self) -> Result<$answer, Error> {
                self.runner.wait(self.builder)
            }
        }
    )*};
}

waits! {
    Publish -> Delivery, errors of publish;
    Collect -> Vec<Message>, errors of collect;
    Request -> Message, errors of request;
    RequestMany -> Vec<Message>, errors of request;
}

impl Call<Publish> {
    /// See [`Publish::try_send`].
    ///
    /// # Errors
    ///
    /// As [`Publish::try_send`].
    pub fn try_send(self) -> Result<(), Error> {
        self.builder.try_send()
    }
}

impl Call<Subscribe> {
    /// Subscribes, and returns an iterator over the messages when the broker has confirmed.
    ///
    /// # Errors
    ///
    /// Those of [`Agent::subscribe`](crate::Agent::subscribe);
    /// [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
    pub fn wait(self) -> Result<Subscription, Error> {
        let subscription = self.runner.wait(self.builder)?;
        Ok(Subscription::new(subscription, self.runner))
    }
}

impl Call<Request> {
    /// See [`Request::reply_to`].
    pub fn reply_to<F>(self, filter: F) -> Self
    where
        F: TryInto<Filter>,
        F::Error: Into<Error>,
    {
        self.map(|builder| builder.reply_to(filter))
    }

    /// See [`Request::rejected_by`].
    pub fn rejected_by<F>(self, filter: F) -> Self
    where
        F: TryInto<Filter>,
        F::Error: Into<Error>,
    {
        self.map(|builder| builder.rejected_by(filter))
    }

    /// See [`Request::replies_up_to`].
    pub fn replies_up_to(self, most: usize) -> Call<RequestMany> {
        self.map(|builder| builder.replies_up_to(most))
    }

    /// See [`Request::replies`].
    pub fn replies(self, count: usize) -> Call<RequestMany> {
        self.map(|builder| builder.replies(count))
    }
}

#[cfg(feature = "json")]
macro_rules! json {
    ($($builder:ident),*) => {$(
        impl Call<$builder> {
            #[doc = concat!("See [`", stringify!($builder), "::json`].")]
            pub fn json<T: serde::Serialize + ?Sized>(self, value: &T) -> Self {
                self.map(|builder| builder.json(value))
            }
        }
    )*};
}

#[cfg(feature = "json")]
json!(Publish, Request);

impl<B: fmt::Debug> fmt::Debug for Call<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.builder.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_setting_of_the_async_builders_is_here_too() {
        let here = include_str!("call.rs");
        let builders = [
            include_str!("../publish.rs"),
            include_str!("../subscribe.rs"),
            include_str!("../collect.rs"),
            include_str!("../request.rs"),
        ];
        let settings = builders.iter().flat_map(|file| file.lines()).filter_map(|line| {
            let (name, rest) = line.strip_prefix("    pub fn ")?.split_once(['(', '<'])?;
            (rest.contains("mut self") && !rest.contains("&mut self")).then_some(name)
        });
        let missing: Vec<_> = settings.filter(|name| !here.contains(&format!("{name}("))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
