//! The async builders, with `wait` in place of `await`.

use std::fmt;
use std::time::Duration;

use super::runner::Runner;
use super::Subscription;
use crate::{
    Collect, Delivery, Error, Filter, Message, Offline, Publish, QoS, Request, RequestMany, Retained, Subscribe,
};

/// A call about to be made: the settings of the async builder, and [`wait`](Self::wait) to make it.
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
    ($($builder:ident: $($name:ident($value:ty)),*;)*) => {$(
        impl Call<$builder> {$(
            #[doc = concat!("See [`", stringify!($builder), "::", stringify!($name), "`].")]
            pub fn $name(self, $name: $value) -> Self {
                self.map(|builder| builder.$name($name))
            }
        )*}
    )*};
}

settings! {
    Publish: qos(QoS), retain(bool), timeout(Duration), offline(Offline);
    Subscribe: qos(QoS), retained(Retained), capacity(usize), timeout(Duration), offline(Offline);
    Collect: qos(QoS), retained(Retained), offline(Offline);
    Request: qos(QoS), timeout(Duration), offline(Offline);
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

    /// See [`Request::replies`].
    pub fn replies(self, count: usize) -> Call<RequestMany> {
        self.map(|builder| builder.replies(count))
    }
}

impl<B: fmt::Debug> fmt::Debug for Call<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.builder.fmt(f)
    }
}
