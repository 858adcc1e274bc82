//! Sessions beside the agent's own: one for each subscription that acknowledges late.
//!
//! A session has one window of unacknowledged messages, and one order of acknowledgements (MQTT-4.6.0-2). On the
//! agent's own connection an acknowledgement that is kept back would stop everybody's messages, replies included, so
//! such a subscription gets a connection and a task of its own. They belong to the agent and end with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{mpsc, oneshot};

use crate::actor::First;
use crate::agent::Agent;
use crate::command::{Close, Notice, Reply};
use crate::options::{fits_v31, Options};
use crate::stats::{Counters, Stats};
use crate::{Error, Filter, Version};

#[derive(Default)]
pub(crate) struct Siblings(Mutex<State>);

#[derive(Default)]
struct State {
    is_closed: bool,
    /// By client identifier: two at once would push each other out.
    live: HashMap<Arc<str>, Agent>,
    ending: Vec<Ending>,
    /// What those that have ended counted.
    past: Stats,
}

/// One whose last handle is gone; it still says goodbye.
struct Ending {
    client_id: Arc<str>,
    notices: mpsc::UnboundedSender<Notice>,
    counters: Arc<Counters>,
}

/// A subscription's hold on its session, which ends when this is dropped. Weak, as a subscription is no handle.
pub(crate) struct Sibling {
    siblings: Weak<Siblings>,
    client_id: Arc<str>,
}

/// A session that was just opened: its handle, its end, and what became of its first connection.
pub(crate) struct Opened {
    pub(crate) agent: Agent,
    pub(crate) sibling: Sibling,
    pub(crate) first: oneshot::Receiver<Result<(), Error>>,
}

impl Siblings {
    /// Starts to connect. A refusal by the broker is the end of it, any other failure too unless `is_patient`.
    pub(crate) fn open(self: &Arc<Self>, beside: &Agent, options: Options, is_patient: bool) -> Result<Opened, Error> {
        let client_id: Arc<str> = options.effective_client_id().into();
        let options = options.client_id(&*client_id);
        let mut state = self.lock();
        if state.is_closed {
            return Err(Error::closed());
        }
        if state.live.contains_key(&client_id) {
            return Err(Error::invalid_argument(format!(
                "another subscription of this agent has the session {client_id:?}: clone that, or set another client_id"
            )));
        }
        // It would come back under the same identifier to say goodbye.
        for ending in state.ending.iter().filter(|ending| ending.client_id == client_id) {
            close_now(&ending.notices);
        }
        let (reply, first) = Reply::channel();
        let agent = beside.start_beside(options, First { reply, is_patient })?;
        state.live.insert(client_id.clone(), agent.clone());
        let sibling = Sibling { siblings: Arc::downgrade(self), client_id };
        Ok(Opened { agent, sibling, first })
    }

    /// Opens no more; those there are.
    pub(crate) fn close(&self) -> Vec<Agent> {
        let mut state = self.lock();
        state.is_closed = true;
        state.live.values().cloned().collect()
    }

    /// What all of them have done and hold.
    pub(crate) fn stats(&self) -> Stats {
        let mut state = self.lock();
        state.sweep();
        let live = state.live.values().map(Agent::stats);
        let ending = state.ending.iter().map(|ending| ending.counters.snapshot());
        live.chain(ending).fold(state.past, Stats::and)
    }

    /// Ends all that were not told yet how they are to end.
    fn end(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_closed, true) {
            return;
        }
        for agent in state.live.values() {
            close_now(&agent.notices());
        }
    }

    fn remove(&self, client_id: &str) {
        let mut state = self.lock();
        let removed = state.live.remove_entry(client_id);
        if let Some((client_id, agent)) = &removed {
            let (notices, counters) = (agent.notices(), agent.counters());
            state.ending.push(Ending { client_id: client_id.clone(), notices, counters });
        }
        state.sweep();
        drop(state);
        // The last handle goes with it, and that ends the session.
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for it.
fn close_now(notices: &mpsc::UnboundedSender<Notice>) {
    let _ = notices.send(Notice::Close(Close { drain_until: None, reply: Reply::channel().0 }));
}

impl State {
    /// Forgets those that have ended.
    fn sweep(&mut self) {
        let Self { ending, past, .. } = self;
        ending.retain(|ending| {
            let is_over = ending.notices.is_closed();
            if is_over {
                *past = past.and(ending.counters.snapshot().totals());
            }
            !is_over
        });
    }
}

/// Held by the agent's task: the sessions beside it end when it is dropped. Weak, as they end by themselves with the last
/// handle.
pub(crate) struct Beside(Weak<Siblings>);

impl Beside {
    pub(crate) fn of(siblings: &Arc<Siblings>) -> Self {
        Self(Arc::downgrade(siblings))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(siblings) = self.0.upgrade() {
            siblings.end();
        }
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        if let Some(siblings) = self.siblings.upgrade() {
            siblings.remove(&self.client_id);
        }
    }
}

/// The options of a session for a subscription to `filters`, which holds `capacity` messages at most.
pub(crate) fn options(
    agent: &Options,
    client_id: Option<String>,
    filters: &[Filter],
    capacity: usize,
) -> Result<Options, Error> {
    // With an empty one the broker makes one up: what is derived from that would be the same in each process.
    let own = agent.client_id.as_ref().filter(|id| !id.is_empty());
    let mut options = agent.clone().holding(capacity);
    options.client_id = match (client_id, own) {
        (None, Some(own)) => Some(derived(own, filters, agent.version)?),
        (given, _) => given,
    };
    options.last_will = None;
    Ok(options)
}

fn derived(own: &str, filters: &[Filter], version: Version) -> Result<String, Error> {
    let derived = format!("{own}-{:08x}", hash(filters));
    if version == Version::V31 && !fits_v31(&derived) {
        return Err(Error::invalid_argument(format!(
            "MQTT 3.1 allows client identifiers of 23 characters at most, which {derived:?} exceeds: \
             set Subscribe::client_id"
        )));
    }
    Ok(derived)
}

/// The same for the same filters in any order, in each process and version: a session that the broker keeps is found
/// again by it (32 bits of FNV-1a, of the filters with a NUL behind each).
fn hash(filters: &[Filter]) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let mut texts: Vec<_> = filters.iter().map(Filter::as_str).collect();
    texts.sort_unstable();
    texts.dedup();
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn filters<const N: usize>(texts: [&str; N]) -> [Filter; N] {
        texts.map(|text| Filter::new(text).unwrap())
    }

    #[test]
    fn the_name_of_a_session_follows_from_the_agents_and_the_filters() {
        let agent = Options::new("localhost").client_id("worker");
        let name = |filters: &[Filter]| options(&agent, None, filters, 1).unwrap().client_id.unwrap();
        // What earlier versions made of it.
        assert_eq!(name(&filters(["jobs/#"])), "worker-de73f0bd");
        assert_eq!(name(&filters(["a", "b", "a"])), name(&filters(["b", "a"])));
        assert_ne!(name(&filters(["a", "b"])), name(&filters(["a/b"])));
        let named = options(&agent, Some("x".into()), &filters(["a"]), 1).unwrap();
        assert_eq!(named.client_id.as_deref(), Some("x"));
    }

    #[test]
    fn nothing_follows_from_an_agent_without_a_name() {
        for agent in [Options::new("localhost"), Options::new("localhost").client_id("")] {
            assert_eq!(options(&agent, None, &filters(["a"]), 1).unwrap().client_id, None);
        }
    }

    #[test]
    fn a_name_that_is_too_long_for_mqtt_3_1_is_refused_with_what_to_do() {
        let agent = |id: &str| Options::new("localhost").version(Version::V31).client_id(id);
        assert!(options(&agent("exactly-14-chr"), None, &filters(["a"]), 1).is_ok());
        let long = agent("this-has-15-chr");
        let error = options(&long, None, &filters(["a"]), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("Subscribe::client_id"), "{error}");
        assert!(options(&long, Some("x".into()), &filters(["a"]), 1).is_ok());
    }
}
