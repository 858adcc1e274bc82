//! The agent without async: the same verbs for scripts, worker processes and tests (feature `blocking`).
//!
//! ```no_run
//! use mqtt_agent::blocking::Agent;
//! use mqtt_agent::QoS;
//! use std::time::Duration;
//!
//! # fn example() -> Result<(), mqtt_agent::Error> {
//! let agent = Agent::connect("mqtt://localhost")?;
//!
//! agent.publish("devices/42/led", "on").qos(QoS::ExactlyOnce).wait()?;
//!
//! let pong = agent.request("dev/42/rpc", "ping").reply_to("dev/42/rpc/res").wait()?;
//!
//! for item in agent.subscribe("sensors/+/temp").wait()? {
//!     let reading = item?;
//!     println!("{}: {:?}", reading.topic(), reading.text());
//! }
//!
//! agent.drain(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it may be called
//!
//! Anywhere: in a plain thread, in many at once, in or outside of a Tokio runtime. Each agent has a thread of its own
//! that does the work, so a call depends on no other runtime and cannot keep itself from ending. Within async code it
//! holds up the thread it is called on, and everything else that thread would run: use [`crate::Agent`] there.
//!
//! The one place where a call would wait for itself is the agent's own thread, which runs its
//! [reconnect policy](crate::Options::reconnect) and its [function of credentials](crate::Options::credentials_from):
//! there it fails with [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
//!
//! # The end
//!
//! Dropping a handle never blocks. When the last one is dropped, the thread sends what was accepted, for at most the
//! agent's [`timeout`](crate::Options::timeout), disconnects, and ends by itself. A process that ends before that takes
//! the thread with it: call [`Agent::drain`] before `main` returns.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use crate::{Collect, Error, IntoFilters, Options, Publish, Request, State, Stats, Subscribe, Topic, Unfinished};

mod call;
mod runner;
mod subscription;

pub use call::Call;
pub use subscription::Subscription;

use runner::Runner;

/// [`crate::Agent`] for code that is not async: cheap to clone, to be used from any thread.
///
/// Its verbs return a [`Call`], which has the settings of the async builder; [`wait`](Call::wait) makes the call and
/// returns its answer. What each does, when it returns and what it does offline is described at [`crate::Agent`].
///
/// ```no_run
/// # fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::blocking::Agent;
///
/// let agent = Agent::connect("mqtt://localhost")?;
/// let clone = agent.clone();
/// let thread = std::thread::spawn(move || clone.publish("devices/42/led", "on").wait());
/// agent.publish("devices/43/led", "on").wait()?;
/// thread.join().expect("it does not panic")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Agent {
    agent: crate::Agent,
    runner: Runner,
}

impl Agent {
    /// Starts the agent's thread, connects, and returns once the broker has accepted; as [`crate::Agent::connect`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Agent::connect`]; [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) if the system does not
    /// grant a thread.
    pub fn connect<O>(options: O) -> Result<Self, Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        let runner = Runner::start()?;
        let agent = runner.wait(crate::Agent::connect(options))?;
        Ok(Self::new(agent, runner))
    }

    /// Starts the agent's thread and returns; it connects in the background, as [`crate::Agent::connect_lazy`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions);
    /// [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) if the system does not grant a thread.
    pub fn connect_lazy<O>(options: O) -> Result<Self, Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        let runner = Runner::start()?;
        let agent = runner.wait(async { crate::Agent::connect_lazy(options) })?;
        Ok(Self::new(agent, runner))
    }

    fn new(agent: crate::Agent, runner: Runner) -> Self {
        runner.stay_until_ended(agent.state());
        Self { agent, runner }
    }

    /// Publishes a message; see [`crate::Agent::publish`].
    pub fn publish<T>(&self, topic: T, payload: impl Into<Bytes>) -> Call<Publish>
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        self.call(self.agent.publish(topic, payload))
    }

    /// Hands a QoS 0 message over without waiting for anything; see [`crate::Agent::try_publish`]. It may be called
    /// anywhere, in async code too.
    ///
    /// # Errors
    ///
    /// As [`crate::Agent::try_publish`].
    pub fn try_publish<T>(&self, topic: T, payload: impl Into<Bytes>) -> Result<(), Error>
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        self.agent.try_publish(topic, payload)
    }

    /// Subscribes to one filter or several; see [`crate::Agent::subscribe`]. The answer is an iterator.
    pub fn subscribe(&self, filters: impl IntoFilters) -> Call<Subscribe> {
        self.call(self.agent.subscribe(filters))
    }

    /// Subscribes, waits for `count` messages or until `timeout` has passed, and unsubscribes; see
    /// [`crate::Agent::collect`].
    pub fn collect(&self, filters: impl IntoFilters, count: usize, timeout: Duration) -> Call<Collect> {
        self.call(self.agent.collect(filters, count, timeout))
    }

    /// Calls a device: publishes a message and waits for its reply; see [`crate::Agent::request`].
    pub fn request<T>(&self, topic: T, payload: impl Into<Bytes>) -> Call<Request>
    where
        T: TryInto<Topic>,
        T::Error: Into<Error>,
    {
        self.call(self.agent.request(topic, payload))
    }

    fn call<B>(&self, builder: B) -> Call<B> {
        Call::new(builder, self.runner.clone())
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.agent.is_connected()
    }

    /// The state of the connection now.
    pub fn state(&self) -> State {
        self.agent.state_now()
    }

    /// Waits until `reached` is true of the state, and returns that state.
    ///
    /// ```no_run
    /// # fn example(agent: mqtt_agent::blocking::Agent) -> Result<(), mqtt_agent::Error> {
    /// use std::time::Duration;
    ///
    /// agent.wait_for_state(Duration::from_secs(30), |state| state.is_connected())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if it was not reached in time;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the agent ended without.
    pub fn wait_for_state(&self, timeout: Duration, reached: impl FnMut(&State) -> bool) -> Result<State, Error> {
        let mut state = self.agent.state();
        self.runner.wait(async move {
            match tokio::time::timeout(timeout, state.wait_for(reached)).await {
                Ok(reached) => reached.map(|state| state.clone()).map_err(|_| Error::closed()),
                Err(_) => Err(Error::timeout("the agent did not reach that state in time")),
            }
        })
    }

    /// The async agent within, for what is made of it: a [convention](crate::rpc) of devices, a call to
    /// [many](crate::Agent::request_each), a [service](crate::Agent::serve). Wait for it with [`wait`](Self::wait).
    pub fn as_async(&self) -> &crate::Agent {
        &self.agent
    }

    /// Waits for a call of the async agent, or for anything else that is async.
    ///
    /// ```no_run
    /// # fn example(agent: mqtt_agent::blocking::Agent) -> Result<(), mqtt_agent::Error> {
    /// let calls = (0..100).map(|id| (id, agent.as_async().request(format!("dev/{id}/rpc"), "ping").reply_to("pong")));
    /// let (replies, failures) = agent.wait(async { Ok(agent.as_async().request_each(calls).partition().await) })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of what is waited for; [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread).
    pub fn wait<T>(&self, call: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runner.wait(call)
    }

    /// What the agent has done and holds.
    pub fn stats(&self) -> Stats {
        self.agent.stats()
    }

    /// Takes no more calls, finishes what was accepted for at most `timeout`, then disconnects and returns what was not
    /// finished; see [`crate::Agent::drain`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) if the agent had ended before.
    pub fn drain(&self, timeout: Duration) -> Result<Unfinished, Error> {
        self.runner.wait(self.agent.drain(timeout))
    }

    /// Disconnects now; see [`crate::Agent::close`]. Closing twice is no error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnThread`](crate::ErrorKind::OwnThread) only.
    pub fn close(&self) -> Result<(), Error> {
        self.runner.wait(async {
            self.agent.close().await;
            Ok(())
        })
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.agent.fmt(f)
    }
}
