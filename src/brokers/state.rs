//! The state of all brokers of a registry.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::StreamMap;

use super::Registry;
use crate::{Error, State};

/// The state of every broker of a registry, and a way to wait for a change; made by
/// [`Brokers::state`](crate::Brokers::state), which has an example. It keeps neither the registry nor an agent alive.
#[must_use = "it does nothing but tell"]
pub struct BrokersState {
    registry: Weak<Registry>,
    changes: WatchStream<()>,
    /// By generation.
    agents: StreamMap<u64, WatchStream<State>>,
    /// The generations that were seen, also of agents that have ended.
    seen: HashSet<u64>,
    is_over: bool,
}

impl BrokersState {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        let mut state = Self {
            registry: Arc::downgrade(registry),
            changes: WatchStream::from_changes(registry.changes.subscribe()),
            agents: StreamMap::new(),
            seen: HashSet::new(),
            is_over: false,
        };
        state.watch_agents();
        state
    }

    /// Each broker's state now; None for one that was not asked for yet, and so is not connected.
    pub fn current(&self) -> BTreeMap<Arc<str>, Option<State>> {
        self.registry.upgrade().map(|registry| registry.state()).unwrap_or_default()
    }

    /// Waits until a broker is added, asked for first or removed, or the state of one changes, since this was made or
    /// last waited for; returns all states then. Changes in quick succession may be told as one.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped misses nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) when the registry is gone.
    pub async fn changed(&mut self) -> Result<BTreeMap<Arc<str>, Option<State>>, Error> {
        match poll_fn(|cx| self.poll_changed(cx)).await {
            true => Ok(self.current()),
            false => Err(Error::closed()),
        }
    }

    /// Waits until `reached` is true of the states, and returns them.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped misses nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) when the registry is gone.
    pub async fn wait_for(
        &mut self,
        mut reached: impl FnMut(&BTreeMap<Arc<str>, Option<State>>) -> bool,
    ) -> Result<BTreeMap<Arc<str>, Option<State>>, Error> {
        let mut brokers = self.current();
        while !reached(&brokers) {
            brokers = self.changed().await?;
        }
        Ok(brokers)
    }

    /// Whether there was a change; false when there will be no more.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut changed = false;
        while !self.is_over {
            match Pin::new(&mut self.changes).poll_next(cx) {
                Poll::Ready(Some(_)) => self.watch_agents(),
                Poll::Ready(None) => self.is_over = true,
                Poll::Pending => break,
            }
            changed = true;
        }
        if self.is_over {
            return Poll::Ready(false);
        }
        while let Poll::Ready(Some((agent, state))) = Pin::new(&mut self.agents).poll_next(cx) {
            changed = true;
            if state.is_closed() {
                self.agents.remove(&agent);
            }
        }
        match changed {
            true => Poll::Ready(true),
            false => Poll::Pending,
        }
    }

    fn watch_agents(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut there = HashSet::new();
        for broker in &registry.brokers {
            let Some(agent) = &broker.agent else { continue };
            there.insert(broker.generation);
            let state = agent.state();
            if self.seen.insert(broker.generation) && !state.borrow().is_closed() {
                self.agents.insert(broker.generation, WatchStream::from_changes(state));
            }
        }
        self.seen.retain(|agent| there.contains(agent));
        let gone: Vec<u64> = self.agents.keys().filter(|agent| !there.contains(agent)).copied().collect();
        for agent in gone {
            self.agents.remove(&agent);
        }
    }
}

impl fmt::Debug for BrokersState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BrokersState").field(&self.current()).finish()
    }
}
