//! A bus within one process, for tests: joins several nodes, loses and delays what it is told to.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Duration;

use super::{Bus, BusEvents, NodeUid, Recipient};
use crate::{broker::BrokerError, hooks::Progress};

/// What joins the nodes; each gets a [`TestBus::handle`].
#[derive(Clone, Default)]
pub struct TestBus(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    members: Vec<(NodeUid, Weak<dyn BusEvents>)>,
    /// Deliveries to other nodes that take place before some are lost, and how many those are.
    lost: (usize, usize),
    /// Nodes that neither hear nor are heard.
    cut: Vec<NodeUid>,
    delay: Duration,
    is_down: bool,
}

impl TestBus {
    /// A node's own end of the bus.
    pub fn handle(&self) -> Arc<dyn Bus> {
        Arc::new(Handle {
            bus: self.clone(),
            own: Mutex::new(None),
        })
    }

    /// Loses as many deliveries as `deliveries` after `kept` others.
    pub fn lose(&self, kept: usize, deliveries: usize) {
        self.0.lock().lost = (kept, deliveries);
    }

    /// Cuts a node off, as when it was killed.
    pub fn cut(&self, uid: &str) {
        self.0.lock().cut.extend(NodeUid::parse(uid));
    }

    /// Takes it back, as when a node was only stopped.
    pub fn mend(&self, uid: &str) {
        let uid = NodeUid::parse(uid);
        self.0.lock().cut.retain(|cut| Some(cut) != uid.as_ref());
    }

    pub fn delay(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    /// Refuses everything, as when the store is away.
    pub fn set_down(&self, is_down: bool) {
        self.0.lock().is_down = is_down;
    }

    /// Hands bytes to every node as they are.
    pub fn inject(&self, payload: &[u8]) {
        let members = self.0.lock().members.clone();
        for (_, events) in members {
            if let Some(events) = events.upgrade() {
                events.on_message(Bytes::copy_from_slice(payload));
            }
        }
    }
}

impl std::fmt::Debug for TestBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBus").finish_non_exhaustive()
    }
}

struct Handle {
    bus: TestBus,
    own: Mutex<Option<NodeUid>>,
}

impl Bus for Handle {
    fn attach(
        &self,
        uid: &NodeUid,
        events: Weak<dyn BusEvents>,
    ) -> Progress<Result<(), BrokerError>> {
        *self.own.lock() = Some(uid.clone());
        let mut state = self.bus.0.lock();
        if state.is_down {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        state.members.push((uid.clone(), events));
        Progress::Ready(Ok(()))
    }

    fn send(&self, to: Recipient, payload: Bytes) -> Progress<Result<(), BrokerError>> {
        let own = self.own.lock().clone();
        let (found, delay) = {
            let mut state = self.bus.0.lock();
            if state.is_down {
                return Progress::Ready(Err(BrokerError::Unavailable));
            }
            let is_cut = |state: &State, uid: &NodeUid| state.cut.contains(uid);
            let mut found = Vec::new();
            for index in 0..state.members.len() {
                let (uid, events) = state.members[index].clone();
                let is_meant = match &to {
                    Recipient::Everyone => true,
                    Recipient::Node(node) => *node == uid,
                };
                let is_reached =
                    !is_cut(&state, &uid) && !own.as_ref().is_some_and(|own| is_cut(&state, own));
                if !is_meant || !is_reached {
                    continue;
                }
                let is_other = own.as_ref() != Some(&uid);
                match &mut state.lost {
                    (0, 0) => {}
                    (0, lost) if is_other => {
                        *lost -= 1;
                        continue;
                    }
                    (kept, 1..) if is_other => *kept -= 1,
                    _ => {}
                }
                found.push(events);
            }
            (found, state.delay)
        };
        let deliver = move || {
            for events in found.iter().filter_map(Weak::upgrade) {
                events.on_message(payload.clone());
            }
        };
        if delay.is_zero() {
            deliver();
            return Progress::Ready(Ok(()));
        }
        Progress::Pending(Box::pin(async move {
            tokio::time::sleep(delay).await;
            deliver();
            Ok(())
        }))
    }
}
