//! What nodes say to each other, over Redis: the [`Bus`] of a cluster.
//!
//! Owns two pub/sub names, one that every node hears and one of this node, on the first shard. Does not read what it
//! carries. Delivery is that of pub/sub: at most once, in the order of sending as far as it arrives; who needs more
//! asks again (`tidegate_realtime::cluster`). Whoever may publish to these names commands the nodes: the ACL example
//! in the guide lets nobody but the nodes do so.

use std::sync::{OnceLock, Weak};

use bytes::Bytes;
use tidegate_realtime::{
    broker::BrokerError,
    cluster::{Bus, BusEvents, NodeUid, Recipient},
    hooks::Progress,
};

use crate::{
    commands::{Pipe, Route, Shards},
    keys::Keys,
    pubsub::Subscriptions,
};

/// The bus of a node.
pub struct ControlBus {
    keys: Keys,
    /// Everybody's name.
    everyone: String,
    pipe: Pipe,
    /// Set before the node attaches.
    subscriptions: OnceLock<Subscriptions>,
    attached: OnceLock<Attached>,
}

struct Attached {
    own: String,
    events: Weak<dyn BusEvents>,
}

impl ControlBus {
    pub fn new(shards: &Shards, keys: Keys) -> Self {
        Self {
            everyone: keys.control(),
            keys,
            pipe: shards.first().clone(),
            subscriptions: OnceLock::new(),
            attached: OnceLock::new(),
        }
    }

    /// Names the subscriptions whose payloads come to [`ControlBus::on_payload`]. Only the first call has an effect.
    pub fn hear_by(&self, subscriptions: Subscriptions) {
        let _ = self.subscriptions.set(subscriptions);
    }

    /// Takes a payload that is for the node; whether it was one of ours.
    pub fn on_payload(&self, name: &str, payload: &Bytes) -> bool {
        let Some(attached) = self.attached.get() else {
            return false;
        };
        if name != self.everyone && name != attached.own {
            return false;
        }
        if let Some(events) = attached.events.upgrade() {
            events.on_message(payload.clone());
        }
        true
    }
}

impl Bus for ControlBus {
    fn attach(
        &self,
        uid: &NodeUid,
        events: Weak<dyn BusEvents>,
    ) -> Progress<Result<(), BrokerError>> {
        let Some(subscriptions) = self.subscriptions.get() else {
            return Progress::Ready(Err(BrokerError::Unavailable));
        };
        let attached = self.attached.get_or_init(|| Attached {
            own: self.keys.node(uid.as_str()),
            events,
        });
        let own = subscriptions.subscribe_plain(&attached.own);
        let everyone = subscriptions.subscribe_plain(&self.everyone);
        own.and_then(|own| everyone.map(|everyone| own.and(everyone)))
    }

    fn send(&self, to: Recipient, payload: Bytes) -> Progress<Result<(), BrokerError>> {
        let name = match &to {
            Recipient::Everyone => self.everyone.clone(),
            Recipient::Node(uid) => self.keys.node(uid.as_str()),
        };
        let pipe = self.pipe.clone();
        Progress::Pending(Box::pin(async move {
            let is_sharded = pipe.is_cluster();
            let mut command = redis::cmd(if is_sharded { "SPUBLISH" } else { "PUBLISH" });
            command.arg(name.as_str()).arg(&payload[..]);
            let route = if is_sharded {
                Route::Key(&name)
            } else {
                Route::Any
            };
            pipe.run(&command, route).await?;
            Ok(())
        }))
    }
}

impl std::fmt::Debug for ControlBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlBus")
            .field("everyone", &self.everyone)
            .finish_non_exhaustive()
    }
}
