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

use super::{
    Answer, BATCH, Beat, Change, Directory, GONE_LIFE, Moment, Page, Record, Slot, Standing, Turn,
    User,
};
use crate::{broker::BrokerError, cluster::NodeUid, hooks::Progress, ids::ClientId, session::Now};

/// A node's end of a directory.
#[derive(Debug, Clone, Default)]
pub struct MemoryDirectory {
    state: Arc<Mutex<State>>,
    is_cut: Arc<AtomicBool>,
    is_deaf: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<NodeUid, Known>,
    books: HashMap<NodeUid, BTreeMap<Slot, Bytes>>,
    users: HashMap<User, OfUser>,
    num_lapses: u64,
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
    status: Option<Status>,
}

/// What is known of a user beside the sessions.
#[derive(Debug, Clone, Copy)]
struct Status {
    state: UserState,
    moment: Moment,
    /// Whose coming or going made it so; nobody's where that is of no account.
    cause: Option<ClientId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UserState {
    Here,
    /// Without a session, and still there.
    Away,
    Gone(Instant),
}

impl MemoryDirectory {
    /// Another node's end of the same directory.
    #[must_use]
    pub fn other_end(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            is_cut: Arc::default(),
            is_deaf: Arc::default(),
        }
    }

    /// Refuses everything at this end, as when the store is away or the node dead.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Makes the changes that this end asks for, and loses the answers.
    pub fn set_deaf(&self, is_deaf: bool) {
        self.is_deaf.store(is_deaf, Ordering::Relaxed);
    }

    /// Loses everything.
    pub fn clear(&self) {
        *self.state.lock() = State::default();
    }

    /// Forgets all users, as when one of several stores comes back empty.
    pub fn clear_users(&self) {
        self.state.lock().users.clear();
    }

    /// Says that something may have been lost.
    pub fn lapse(&self) {
        self.state.lock().num_lapses += 1;
    }

    /// How many lines there are in the books of all nodes, and users who are there.
    pub fn num_lines_and_users(&self) -> (usize, usize) {
        let state = self.state.lock();
        let lines = state.books.values().map(BTreeMap::len).sum();
        let here = state.users.values().filter(|of_user| of_user.is_here());
        (lines, here.count())
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
        self.users.retain(|_, of_user| !of_user.is_over());
        self.users.entry(user.clone()).or_default().turn(change)
    }
}

impl OfUser {
    /// It is long ago that the user went.
    fn is_over(&self) -> bool {
        self.sessions.is_empty()
            && self.status.is_none_or(
                |status| matches!(status.state, UserState::Gone(at) if at.elapsed() >= GONE_LIFE),
            )
    }

    fn is_here(&self) -> bool {
        let is_away = |status: Status| status.state == UserState::Away;
        !self.sessions.is_empty() || self.status.is_some_and(is_away)
    }

    fn turn(&mut self, change: Change) -> Turn {
        match change {
            Change::Came {
                client,
                value,
                answer,
            } => self.came(client, value, answer),
            Change::Left { client } => {
                let is_removed = self.sessions.remove(&client).is_some();
                self.ended(client, is_removed, UserState::Gone(Instant::now()))
            }
            Change::Away { client } => {
                let is_removed = self.sessions.remove(&client).is_some();
                self.ended(client, is_removed, UserState::Away)
            }
            Change::Settle { client } => self.ended(client, false, UserState::Gone(Instant::now())),
            Change::Lost { client, value } => {
                let is_removed = self.sessions.get(&client) == Some(&value);
                if is_removed {
                    self.sessions.remove(&client);
                }
                self.ended(client, is_removed, UserState::Gone(Instant::now()))
            }
        }
    }

    fn came(&mut self, client: ClientId, value: Bytes, answer: Answer) -> Turn {
        let had_none = self.sessions.is_empty();
        self.sessions.insert(client, value);
        match self.status {
            Some(status) if had_none && status.state == UserState::Away => {
                self.status = Some(Status {
                    state: UserState::Here,
                    cause: None,
                    ..status
                });
                Turn::Neither
            }
            Some(_) | None if had_none => Turn::First(self.becomes(UserState::Here, client)),
            Some(status)
                if answer == Answer::Missing
                    && status.state == UserState::Here
                    && status.cause == Some(client) =>
            {
                Turn::First(status.moment)
            }
            Some(_) | None => Turn::Neither,
        }
    }

    fn ended(&mut self, client: ClientId, is_removed: bool, state: UserState) -> Turn {
        if !self.sessions.is_empty() {
            return Turn::Neither;
        }
        // Without a session before, and whoever brought that about is answered.
        let known = self
            .status
            .filter(|status| !is_removed && status.state != UserState::Here);
        match known {
            Some(status) if status.cause != Some(client) => Turn::Neither,
            Some(status) if status.state != UserState::Away || state == UserState::Away => {
                Turn::Last(status.moment)
            }
            Some(_) | None => Turn::Last(self.becomes(state, client)),
        }
    }

    fn becomes(&mut self, state: UserState, client: ClientId) -> Moment {
        let before = self.status.map_or(0, |status| status.moment.unix_millis());
        // Who is away for a moment is there since before.
        let moment = match state {
            UserState::Away => before,
            UserState::Here | UserState::Gone(_) => Now::read().unix_millis.max(before + 1),
        };
        let moment = Moment::new(moment);
        self.status = Some(Status {
            state,
            moment,
            cause: Some(client),
        });
        moment
    }
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
                Progress::Ready(turn) if !self.is_deaf.load(Ordering::Relaxed) => turn,
                Progress::Ready(_) | Progress::Pending(_) => Err(BrokerError::Unavailable),
            }
        });
        Progress::Ready(turns.collect())
    }

    fn num_lapses(&self) -> u64 {
        self.state.lock().num_lapses
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
