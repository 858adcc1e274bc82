//! The calls that share a reply filter, and which of them a message is for.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Hasher, RequestKey};
use crate::command::ReplyPaths;
use crate::room::Room;
use crate::rpc::{Extract, Key};
use crate::Message;

/// Calls with a key run at the same time, each found by its key. Of those without one, one has its turn.
#[derive(Debug)]
pub(in crate::session) struct ReplyQueue {
    pub(super) paths: ReplyPaths,
    /// Without a key: the one that may be answered, and those that wait for that.
    turn: Option<RequestKey>,
    waiting: VecDeque<RequestKey>,
    /// With a key: those not sent yet, because the broker has not confirmed the filters.
    unsent: VecDeque<RequestKey>,
    /// Calls with the same rule share a table; there are few rules, mostly one.
    tables: Vec<Table>,
    /// When the filters may go, unless they are used before.
    pub(super) lingers_until: Option<Instant>,
    /// A deadline for that is set; it may be an earlier one.
    pub(super) is_armed: bool,
}

#[derive(Debug)]
struct Table {
    extract: Extract,
    calls: HashMap<Bytes, RequestKey, Hasher>,
}

impl ReplyQueue {
    pub(super) fn new(paths: ReplyPaths) -> Self {
        Self {
            paths,
            turn: None,
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            tables: Vec::new(),
            lingers_until: None,
            is_armed: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        let is_empty = |table: &Table| table.calls.is_empty();
        self.turn.is_none() && self.waiting.is_empty() && self.tables.iter().all(is_empty)
    }

    /// Takes a call in; false if another waits with the same key.
    pub(super) fn join(&mut self, request: RequestKey, key: Option<&Key>) -> bool {
        let Some(Key { extract, value }) = key else {
            self.waiting.push_back(request);
            return true;
        };
        let at = self.tables.iter().position(|table| table.extract.is_same(extract)).unwrap_or_else(|| {
            self.tables.push(Table { extract: extract.clone(), calls: HashMap::default() });
            self.tables.len() - 1
        });
        let calls = &mut self.tables[at].calls;
        if calls.contains_key(value) {
            return false;
        }
        calls.insert(value.clone(), request);
        self.unsent.push_back(request);
        true
    }

    pub(super) fn has_next(&self) -> bool {
        !self.unsent.is_empty() || self.turn.is_none() && !self.waiting.is_empty()
    }

    /// The next call to be sent, now that the broker holds the filters.
    pub(super) fn next(&mut self) -> Option<RequestKey> {
        if let Some(request) = self.unsent.pop_front() {
            return Some(request);
        }
        if self.turn.is_none() {
            self.turn = self.waiting.pop_front();
            return self.turn;
        }
        None
    }

    /// A call that was to be sent waits for the filters once more, ahead of those behind it.
    pub(super) fn put_back(&mut self, request: RequestKey) {
        if self.turn == Some(request) {
            self.turn = None;
            self.waiting.push_front(request);
        } else {
            self.unsent.push_front(request);
        }
    }

    /// A call is over.
    pub(super) fn leave(&mut self, request: RequestKey, key: Option<&Key>) {
        match key {
            None if self.turn == Some(request) => self.turn = None,
            None => remove(&mut self.waiting, request),
            Some(key) => self.leave_table(request, key),
        }
    }

    fn leave_table(&mut self, request: RequestKey, key: &Key) {
        let Some(at) = self.tables.iter().position(|table| table.extract.is_same(&key.extract)) else { return };
        let calls = &mut self.tables[at].calls;
        // The key may be another's: of a call that was refused because of that.
        if calls.get(&key.value) != Some(&request) {
            return;
        }
        calls.remove(&key.value);
        calls.give_back();
        if calls.is_empty() && self.tables.len() > 1 {
            self.tables.swap_remove(at);
        }
        remove(&mut self.unsent, request);
    }

    /// The call that a message is for.
    pub(super) fn find(&self, message: &Message) -> Option<RequestKey> {
        let by_key = || {
            let filter = self.paths.came_by(message);
            let mut tables = self.tables.iter();
            tables.find_map(|table| table.extract.read(message, filter, |key| table.calls.get(key).copied()))
        };
        if self.tables.is_empty() {
            return self.turn;
        }
        by_key().or(self.turn)
    }

    pub(super) fn take_all(&mut self) -> Vec<RequestKey> {
        let keyed = self.tables.drain(..).flat_map(|table| table.calls.into_values());
        let all = self.turn.take().into_iter().chain(self.waiting.drain(..)).chain(keyed).collect();
        self.unsent.clear();
        all
    }
}

/// Calls mostly end in the order in which they began, so this looks at the first ones only.
pub(super) fn remove(line: &mut VecDeque<RequestKey>, request: RequestKey) {
    if let Some(at) = line.iter().position(|other| *other == request) {
        line.remove(at);
    }
}
