//! Content that nodes share beside orders and questions: each tells the others what changed, they merge it.
//!
//! Owns the way there and back, and nothing of what is said: at most once, in order from one node as far as it
//! arrives, and only from nodes that are known. Whoever shares content finds out by itself what did not arrive.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Cluster, Message, NodeUid, Recipient};
use crate::{broker::BrokerError, hooks::Progress};

/// Receives what other nodes share. Must not block.
pub trait Gossip: Send + Sync + 'static {
    /// A node that is alive says something, in JSON. Whatever it may be: it comes from outside.
    fn on_gossip(&self, from: &NodeUid, text: Bytes);

    /// A node is there from now on.
    fn on_joined(&self, node: &NodeUid);

    /// A node left, or was not heard of for too long. It may come back.
    fn on_gone(&self, node: &NodeUid);
}

impl Cluster {
    /// Names who receives what the other nodes share. To be called before the cluster runs; only the first call has
    /// an effect.
    pub fn gossip_to(&self, gossip: Weak<dyn Gossip>) {
        let _ = self.gossip.set(gossip);
    }

    /// Sends something to be merged. The answer says that it left.
    pub fn gossip(&self, to: Recipient, text: Box<RawValue>) -> Progress<Result<(), BrokerError>> {
        self.bus.send(to, Message::Gossip(text).encode(&self.uid))
    }

    /// Whether there is anybody to share with.
    pub fn has_others(&self) -> bool {
        self.core.lock().registry.num_others() > 0
    }

    /// Who merges, if anybody does.
    pub(super) fn gossiping(&self) -> Option<Arc<dyn Gossip>> {
        self.gossip.get().and_then(Weak::upgrade)
    }

    pub(super) fn on_gossip(&self, from: &NodeUid, text: Box<RawValue>) {
        let Some(gossip) = self.gossiping() else {
            return;
        };
        if self.core.lock().registry.knows(from) {
            gossip.on_gossip(from, Bytes::from(String::from(Box::<str>::from(text))));
        } else {
            // Its greeting has not arrived yet, and what it says now will be asked for once it has.
            self.metrics.count_bad("stranger");
        }
    }
}
