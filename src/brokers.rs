//! Several brokers by name: an agent for each, connected when it is first used.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use dashmap::{DashMap, Entry};
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::{Agent, Error, Options, State, Subscribe, Unfinished};

mod state;
mod subscription;

pub use state::BrokersState;
pub use subscription::BrokersSubscription;

/// Agents of several brokers, by name. Cheap to clone; all clones share one registry.
///
/// A broker is registered with its options, and connected in the background when it is first asked for. Whatever an
/// agent can do is done by name through [`get`](Self::get):
///
/// ```no_run
/// # async fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::Brokers;
/// use std::time::Duration;
///
/// let brokers = Brokers::new();
/// brokers.add("eu", "mqtt://eu.example.com")?;
/// brokers.add("us", "mqtt://us.example.com")?;
///
/// brokers.get("eu")?.publish("devices/42/led", "on").await?;
/// let pong = brokers.get("us")?.request("dev/7/rpc", "ping").reply_to("dev/7/rpc/res").await?;
///
/// let mut alarms = brokers.subscribe(|agent| agent.subscribe("alarms/#"));
/// while let Some((broker, item)) = alarms.recv().await {
///     println!("{broker}: {}", item?.topic());
/// }
///
/// brokers.drain(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
///
/// The registry holds a handle of each agent it has connected. When its last clone is dropped, or the broker is
/// removed, that handle goes: agents that nobody else holds send what was accepted and disconnect.
#[derive(Clone, Default)]
pub struct Brokers {
    registry: Arc<Registry>,
}

#[derive(Default)]
struct Registry {
    brokers: DashMap<Arc<str>, Broker>,
    generations: AtomicU64,
    /// Told what was added, connected and removed.
    changes: watch::Sender<()>,
    is_drained: AtomicBool,
}

struct Broker {
    options: Options,
    agent: Option<Agent>,
    /// Tells it from an earlier one of the same name.
    generation: u64,
}

impl Brokers {
    /// Without any broker.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a broker, given as a URL or as [`Options`]. Nothing is dialled before it is asked for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions);
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) if the name is taken;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`drain`](Self::drain).
    pub fn add<O>(&self, name: impl Into<Arc<str>>, options: O) -> Result<(), Error>
    where
        O: TryInto<Options>,
        O::Error: Into<Error>,
    {
        let (name, options) = (name.into(), options.try_into().map_err(Into::into)?);
        options.check()?;
        match self.registry.brokers.entry(name) {
            Entry::Occupied(taken) => {
                return Err(Error::invalid_argument(format!("a broker named {:?} is registered already", taken.key())));
            }
            Entry::Vacant(place) => {
                self.registry.check_open()?;
                let generation = self.registry.generations.fetch_add(1, Ordering::Relaxed);
                place.insert(Broker { options, agent: None, generation });
            }
        }
        self.registry.change();
        Ok(())
    }

    /// Takes a broker out, and returns its agent if it was connected: to [`drain`](Agent::drain) it, or to drop it.
    /// Handles of the agent that are held elsewhere go on.
    pub fn remove(&self, name: &str) -> Option<Agent> {
        let (_, removed) = self.registry.brokers.remove(name)?;
        self.registry.change();
        removed.agent
    }

    /// The agent of a broker. The first call connects it in the background, as [`Agent::connect_lazy`].
    ///
    /// The agent lives on the runtime of that first call. One that has ended, with its runtime or by a reconnect policy
    /// that gave up, answers every call with [`ErrorKind::Closed`](crate::ErrorKind::Closed);
    /// [`remove`](Self::remove) the broker and [`add`](Self::add) it again to have a new one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownBroker`](crate::ErrorKind::UnknownBroker);
    /// [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) for a first call outside of a Tokio runtime;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`drain`](Self::drain).
    pub fn get(&self, name: &str) -> Result<Agent, Error> {
        self.registry.get(name)
    }

    /// The names of the brokers, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.registry.brokers.iter().map(|broker| broker.key().clone()).collect();
        names.sort_unstable();
        names
    }

    /// The state of every broker, to look at or to wait for a change of. It keeps no agent alive.
    ///
    /// ```no_run
    /// # async fn example(brokers: mqtt_agent::Brokers) -> Result<(), mqtt_agent::Error> {
    /// let mut state = brokers.state();
    /// state.wait_for(|brokers| brokers.values().flatten().all(|state| state.is_connected())).await?;
    /// while let Ok(brokers) = state.changed().await {
    ///     println!("{brokers:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> BrokersState {
        BrokersState::new(&self.registry)
    }

    /// Subscribes at every broker, those included that are added later, and merges what comes into one stream of
    /// messages with the names of their brokers. `subscribe` makes the subscription of one broker, with all its
    /// settings.
    ///
    /// Returns at once, and subscribes as the stream is polled; await [`joined`](BrokersSubscription::joined) to know
    /// when the brokers have confirmed. It connects those that were not used before. A broker that cannot be reached
    /// keeps nobody waiting: it joins when it can be, so [`timeout`](Subscribe::timeout) and
    /// [`offline`](Subscribe::offline) do not apply.
    pub fn subscribe(&self, subscribe: impl Fn(&Agent) -> Subscribe + Send + 'static) -> BrokersSubscription {
        BrokersSubscription::new(&self.registry, Box::new(subscribe))
    }

    /// Ends all agents, at once and within one deadline, as [`Agent::drain`] does, and returns what each left
    /// unfinished. From now on no broker can be added or asked for.
    ///
    /// # Cancel safety
    ///
    /// Dropping this does not stop the end, once it was polled.
    ///
    /// # Errors
    ///
    /// Those of [`Agent::drain`], by broker: an agent that had ended before says so.
    pub async fn drain(&self, timeout: Duration) -> BTreeMap<Arc<str>, Result<Unfinished, Error>> {
        // Before it looks at the agents: one that is being connected meanwhile is seen, or is not connected.
        self.registry.is_drained.store(true, Ordering::SeqCst);
        let agents: Vec<_> = self.registry.brokers.iter().map(|it| (it.key().clone(), it.agent.clone())).collect();
        self.registry.change();
        let ends = agents.into_iter().map(|(name, agent)| async move {
            match agent {
                Some(agent) => (name, agent.drain(timeout).await),
                None => (name, Ok(Unfinished::default())),
            }
        });
        join_all(ends).await.into_iter().collect()
    }
}

impl Registry {
    fn get(&self, name: &str) -> Result<Agent, Error> {
        self.check_open()?;
        let unknown = || Error::unknown_broker(name);
        if let Some(agent) = self.brokers.get(name).ok_or_else(unknown)?.agent.clone() {
            return Ok(agent);
        }
        let agent = {
            let mut broker = self.brokers.get_mut(name).ok_or_else(unknown)?;
            if let Some(agent) = &broker.agent {
                return Ok(agent.clone());
            }
            // Under the lock of the entry, which a drain takes after it has closed the registry.
            self.check_open()?;
            let agent = Agent::connect_lazy(broker.options.clone())?;
            broker.agent.insert(agent).clone()
        };
        self.change();
        Ok(agent)
    }

    fn state(&self) -> BTreeMap<Arc<str>, Option<State>> {
        let state = |broker: &Broker| broker.agent.as_ref().map(Agent::state_now);
        self.brokers.iter().map(|broker| (broker.key().clone(), state(&broker))).collect()
    }

    fn check_open(&self) -> Result<(), Error> {
        match self.is_drained.load(Ordering::SeqCst) {
            true => Err(Error::closed()),
            false => Ok(()),
        }
    }

    /// Tells those who watch to look again.
    fn change(&self) {
        self.changes.send_replace(());
    }
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Brokers").field(&self.registry.state()).finish()
    }
}
