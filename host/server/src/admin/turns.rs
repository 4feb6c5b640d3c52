//! Whose turn it is to change something.
//!
//! An app's changes wait for each other, whatever they do: what is prepared for one is still true when it is
//! stored. What is stored and what runs move together under a second turn that all apps share; it is held for as
//! long as that takes, and never while a plugin is compiled or tried. Whoever holds both took the app's first.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tidegate_control::AppName;
use tokio::sync::{Mutex, MutexGuard, OwnedMutexGuard};

/// The turns of a node.
#[derive(Default)]
pub(super) struct Turns {
    /// Locks that somebody holds or waits for, and a few that nobody does any more.
    by_app: parking_lot::Mutex<HashMap<AppName, Weak<Mutex<()>>>>,
    applying: Mutex<()>,
}

impl Turns {
    /// Waits until the app's earlier changes are done.
    pub(super) async fn of(&self, app: &AppName) -> OwnedMutexGuard<()> {
        let lock = {
            let mut by_app = self.by_app.lock();
            by_app.retain(|_, lock| lock.strong_count() > 0);
            let known = by_app.get(app).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(Mutex::new(()));
                by_app.insert(app.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Waits until nobody stores and applies.
    pub(super) async fn to_apply(&self) -> MutexGuard<'_, ()> {
        self.applying.lock().await
    }
}
