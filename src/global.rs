//! One agent for the whole process: set once, used anywhere.
//!
//! ```no_run
//! use mqtt_agent::global;
//!
//! # async fn example() -> Result<(), mqtt_agent::Error> {
//! // In main, if at all: otherwise the environment says where the broker is.
//! global::set(mqtt_agent::Agent::connect("mqtt://localhost").await?)?;
//!
//! // Anywhere else.
//! global::agent()?.publish("devices/42/led", "on").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Where nothing was set, the first use connects in the background, as [`Agent::connect_lazy`], by what the environment
//! says in `MQTT_URL` or `MQTT_HOST` and others: see [`Options::from_env`] with the prefix `MQTT`.
//!
//! The agent lives on the runtime that it was connected on: for a lazy one, that of its first use. When that runtime
//! ends, the agent ends, and every use from then on is [`ErrorKind::Closed`](crate::ErrorKind::Closed). Tests, each of
//! which has a runtime of its own, are better served by an agent of their own. At the end of the process,
//! [`drain`](Agent::drain) it: nobody drops the handle that is kept here.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::{Agent, Error, Options};

static GLOBAL: Global = Global::new();

/// Makes this the global agent. It has to come before the first use of [`agent`].
///
/// # Errors
///
/// [`ErrorKind::AlreadySet`](crate::ErrorKind::AlreadySet) if there is one already, set or connected from the
/// environment by an earlier use; of several calls at once, one succeeds.
pub fn set(agent: Agent) -> Result<(), Error> {
    GLOBAL.set(agent)
}

/// Has the global agent connect with these options, in the background, when it is first used.
///
/// ```no_run
/// # fn example() -> Result<(), mqtt_agent::Error> {
/// use mqtt_agent::{global, Agent};
/// use std::time::Duration;
///
/// global::set_options(Agent::builder("mqtt://localhost")?.timeout(Duration::from_secs(2)))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`set`]; [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions).
pub fn set_options<O>(options: O) -> Result<(), Error>
where
    O: TryInto<Options>,
    O::Error: Into<Error>,
{
    GLOBAL.set_options(options.try_into().map_err(Into::into)?)
}

/// The global agent. The first call connects it in the background, if it was not set before. Returns at once.
///
/// # Errors
///
/// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after it has ended, also with its runtime. For a first call:
/// [`ErrorKind::InvalidOptions`](crate::ErrorKind::InvalidOptions) if nothing was set and the environment has no URL
/// either, or one that cannot be used; [`ErrorKind::NoRuntime`](crate::ErrorKind::NoRuntime) outside of a Tokio runtime.
/// After such a failure the next call tries again.
pub fn agent() -> Result<Agent, Error> {
    GLOBAL.agent(|| Options::from_env("MQTT"))
}

struct Global {
    agent: OnceLock<Agent>,
    /// Until it is connected; locked by whoever sets either.
    options: Mutex<Option<Options>>,
}

impl Global {
    const fn new() -> Self {
        Self { agent: OnceLock::new(), options: Mutex::new(None) }
    }

    fn set(&self, agent: Agent) -> Result<(), Error> {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        match options.is_some() {
            true => Err(Error::already_set()),
            false => self.agent.set(agent).map_err(|_| Error::already_set()),
        }
    }

    fn set_options(&self, new: Options) -> Result<(), Error> {
        new.check()?;
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if options.is_some() || self.agent.get().is_some() {
            return Err(Error::already_set());
        }
        *options = Some(new);
        Ok(())
    }

    fn agent(&self, environment: impl Fn() -> Result<Options, Error>) -> Result<Agent, Error> {
        let agent = match self.agent.get() {
            Some(agent) => agent,
            None => self.connect(environment)?,
        };
        match agent.state_now().is_closed() {
            true => Err(Error::closed()),
            false => Ok(agent.clone()),
        }
    }

    fn connect(&self, environment: impl Fn() -> Result<Options, Error>) -> Result<&Agent, Error> {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        let agent = Agent::connect_lazy(options.clone().map_or_else(environment, Ok)?)?;
        Ok(self.agent.get_or_init(|| agent))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ErrorKind;

    fn kind<T>(answer: Result<T, Error>) -> Option<ErrorKind> {
        answer.err().map(|error| error.kind())
    }

    fn nowhere() -> Result<Options, Error> {
        Err(Error::invalid_options("nothing is set"))
    }

    fn somewhere() -> Result<Options, Error> {
        Ok(Options::new("localhost"))
    }

    fn client_id(agent: &Agent) -> &str {
        agent.options().client_id.as_deref().unwrap_or_default()
    }

    #[tokio::test]
    async fn a_second_set_is_an_error_whatever_was_first() {
        let agent = Agent::connect_lazy(somewhere().unwrap()).unwrap();
        for first in 0..3 {
            let global = Global::new();
            match first {
                0 => global.set(agent.clone()).unwrap(),
                1 => global.set_options(somewhere().unwrap().client_id("first")).unwrap(),
                _ => drop(global.agent(|| Ok(somewhere()?.client_id("first"))).unwrap()),
            }
            assert_eq!(kind(global.set(agent.clone())), Some(ErrorKind::AlreadySet));
            assert_eq!(kind(global.set_options(somewhere().unwrap())), Some(ErrorKind::AlreadySet));
            assert_eq!(client_id(&global.agent(nowhere).unwrap()), if first == 0 { "" } else { "first" });
        }
    }

    #[test]
    fn a_use_that_fails_leaves_it_as_it_was() {
        let global = Global::new();
        assert_eq!(kind(global.agent(somewhere)), Some(ErrorKind::NoRuntime));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        assert_eq!(kind(global.agent(nowhere)), Some(ErrorKind::InvalidOptions));
        assert_eq!(kind(global.set_options(Options::new(""))), Some(ErrorKind::InvalidOptions));
        global.set_options(somewhere().unwrap()).unwrap();
        global.agent(nowhere).unwrap();
    }

    #[tokio::test]
    async fn of_many_that_come_at_once_one_wins_and_all_see_its_agent() {
        let runtime = tokio::runtime::Handle::current();
        for _ in 0..20 {
            let global = Global::new();
            let (winners, seen) = thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|n| {
                        let (global, runtime) = (&global, &runtime);
                        scope.spawn(move || {
                            let _context = runtime.enter();
                            let named = || Ok(somewhere()?.client_id(n.to_string()));
                            let won = match n % 3 {
                                0 => global.set(Agent::connect_lazy(named()?)?).is_ok(),
                                1 => global.set_options(named()?).is_ok(),
                                _ => false,
                            };
                            global.agent(named).map(|agent| (won, client_id(&agent).to_owned()))
                        })
                    })
                    .collect();
                let each = threads.into_iter().map(|thread| thread.join().unwrap().unwrap());
                let (won, seen): (Vec<_>, Vec<_>) = each.unzip();
                (won.into_iter().filter(|won| *won).count(), seen)
            });
            assert!(winners <= 1);
            assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
        }
    }

    #[test]
    fn after_its_runtime_ended_it_is_closed() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let global = Global::new();
        let first = runtime();
        let agent = first.block_on(async { global.agent(somewhere).unwrap() });
        drop(first);
        runtime().block_on(async {
            assert_eq!(kind(global.agent(somewhere)), Some(ErrorKind::Closed));
            assert_eq!(kind(agent.publish("a", "x").await), Some(ErrorKind::Closed));
        });
    }
}
