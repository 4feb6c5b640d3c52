//! A directory in the memory of one process: the model that the contract is tested with, for tests of several nodes
//! in one process. A node that stands alone needs none.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{BATCH, Beat, Change, Directory, Page, Record, Slot, Standing, Turn, User};
use crate::{broker::BrokerError, cluster::NodeUid, hooks::Progress, ids::ClientId};

/// A node's end of a directory.
#[derive(Debug, Clone, Default)]
pub struct MemoryDirectory {
    state: Arc<Mutex<State>>,
    is_cut: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeUid, Known>,
    books: HashMap<NodeUid, BTreeMap<Slot, Bytes>>,
    users: HashMap<User, OfUser>,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Heard(Instant),
    Condemned,
    Retired,
}

#[derive(Debug, Default)]
struct OfUser {
    sessions: BTreeMap<ClientId, Bytes>,
    is_awaited: bool,
}

impl MemoryDirectory {
    /// Another node's end of the same directory.
    #[must_use]
    pub fn other_end(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            is_cut: Arc::default(),
        }
    }

    /// Refuses everything at this end, as when the store is away or the node dead.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Loses everything.
    pub fn clear(&self) {
        *self.state.lock() = State::default();
    }

    /// How many lines there are in the books of all nodes, and users.
    pub fn num_lines_and_users(&self) -> (usize, usize) {
        let state = self.state.lock();
        let lines = state.books.values().map(BTreeMap::len).sum();
        (lines, state.users.len())
    }

    fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> Progress<Result<T, BrokerError>> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        Progress::Ready(Ok(act(&mut self.state.lock())))
    }
}

impl State {
    fn is_silent(&self, node: &NodeUid, silent_for: Duration) -> bool {
        let known = self.nodes.get(node);
        known.is_some_and(|known| matches!(known, Known::Heard(at) if at.elapsed() >= silent_for))
    }

    fn turn(&mut self, user: &User, change: Change) -> Turn {
        let of_user = self.users.entry(user.clone()).or_default();
        let had = of_user.sessions.len();
        let turn = match change {
            Change::Came { client, value } => {
                let was_awaited = std::mem::take(&mut of_user.is_awaited);
                of_user.sessions.insert(client, value);
                if had == 0 && !was_awaited {
                    Turn::First
                } else {
                    Turn::Neither
                }
            }
            Change::Left { client } => {
                let is_removed = of_user.sessions.remove(&client).is_some();
                last(is_removed && of_user.sessions.is_empty())
            }
            Change::Away { client } => {
                let is_removed = of_user.sessions.remove(&client).is_some();
                let is_last = is_removed && of_user.sessions.is_empty();
                of_user.is_awaited |= is_last;
                last(is_last)
            }
            Change::Settle => {
                let was_awaited = std::mem::take(&mut of_user.is_awaited);
                last(was_awaited && had == 0)
            }
            Change::Lost { client, value } => {
                if of_user.sessions.get(&client) == Some(&value) {
                    of_user.sessions.remove(&client);
                }
                let is_last = of_user.sessions.is_empty();
                if is_last {
                    of_user.is_awaited = false;
                }
                last(is_last)
            }
        };
        if of_user.sessions.is_empty() && !of_user.is_awaited {
            self.users.remove(user);
        }
        turn
    }
}

fn last(is_last: bool) -> Turn {
    if is_last { Turn::Last } else { Turn::Neither }
}

impl Directory for MemoryDirectory {
    fn beat(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<Beat, BrokerError>> {
        self.act(|state| {
            let standing = match state.nodes.get(node) {
                None => Standing::Unknown,
                Some(Known::Heard(_)) => Standing::Known,
                Some(Known::Condemned | Known::Retired) => Standing::Condemned,
            };
            state
                .nodes
                .insert(node.clone(), Known::Heard(Instant::now()));
            let overdue = state.nodes.iter().filter(|(other, known)| {
                *other != node
                    && (matches!(known, Known::Condemned) || state.is_silent(other, silent_for))
            });
            Beat {
                standing,
                overdue: overdue.map(|(other, _)| other.clone()).collect(),
            }
        })
    }

    fn condemn(&self, node: &NodeUid, silent_for: Duration) -> Progress<Result<bool, BrokerError>> {
        self.act(|state| {
            if state.is_silent(node, silent_for) {
                state.nodes.insert(node.clone(), Known::Condemned);
            }
            matches!(state.nodes.get(node), Some(Known::Condemned))
        })
    }

    fn retire(&self, node: &NodeUid) -> Progress<Result<bool, BrokerError>> {
        self.act(|state| {
            let is_empty = state.books.get(node).is_none_or(BTreeMap::is_empty);
            let is_condemned = matches!(state.nodes.get(node), Some(Known::Condemned));
            if is_empty && is_condemned {
                state.nodes.insert(node.clone(), Known::Retired);
            }
            matches!(state.nodes.get(node), Some(Known::Retired))
        })
    }

    fn write(&self, node: &NodeUid, records: Vec<Record>) -> Progress<Result<(), BrokerError>> {
        self.act(|state| {
            let book = state.books.entry(node.clone()).or_default();
            book.extend(
                records
                    .into_iter()
                    .map(|record| (record.slot, record.value)),
            );
        })
    }

    fn strike(&self, node: &NodeUid, slots: Vec<Slot>) -> Progress<Result<(), BrokerError>> {
        self.act(|state| {
            if let Some(book) = state.books.get_mut(node) {
                book.retain(|slot, _| !slots.contains(slot));
            }
        })
    }

    fn erase(&self, node: &NodeUid, page: Page) -> Progress<Result<(), BrokerError>> {
        self.act(|state| {
            if let Some(book) = state.books.get_mut(node) {
                for Record { slot, value } in page.records {
                    if book.get(&slot) == Some(&value) {
                        book.remove(&slot);
                    }
                }
            }
        })
    }

    fn read(&self, node: &NodeUid, from: u64) -> Progress<Result<Page, BrokerError>> {
        self.act(|state| {
            let book = state.books.get(node);
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let rest = book.into_iter().flatten().skip(from);
            let records: Vec<_> = rest
                .take(BATCH)
                .map(|(slot, value)| Record {
                    slot: slot.clone(),
                    value: value.clone(),
                })
                .collect();
            let next = from + records.len();
            let is_over = next >= book.map_or(0, BTreeMap::len);
            Page {
                records,
                foreign: Vec::new(),
                next: (!is_over).then_some(next as u64),
            }
        })
    }

    fn change(&self, changes: Vec<(User, Change)>) -> Progress<Vec<Result<Turn, BrokerError>>> {
        let turns = changes.into_iter().map(|(user, change)| {
            let turn = self.act(|state| state.turn(&user, change));
            match turn {
                Progress::Ready(turn) => turn,
                Progress::Pending(_) => Err(BrokerError::Unavailable),
            }
        });
        Progress::Ready(turns.collect())
    }

    fn sessions(&self, user: &User, most: usize) -> Progress<Result<Vec<Bytes>, BrokerError>> {
        self.act(|state| {
            let of_user = state.users.get(user);
            let sessions = of_user
                .into_iter()
                .flat_map(|of_user| of_user.sessions.values());
            sessions.take(most).cloned().collect()
        })
    }
}
