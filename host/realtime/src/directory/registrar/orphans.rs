//! Lines of this node's own book that nobody has in hand: what they are about has ended, and somebody was not told.
//!
//! A note that found no room, a leave that could not be published, an event that was dropped with its queue: whatever
//! became of it, the line is still there. Owns telling such lines from those whose end is under way; what is done about
//! them is the survivor's, who does it for dead nodes, too.

use hashbrown::HashSet;

use super::Registrar;
use crate::{
    broker::BrokerError,
    directory::{Page, Record, Slot, entry::decode_session},
    ids::ClientId,
    node::Node,
};

impl Registrar {
    /// A page of the book, with the lines that nobody has in hand.
    pub(in crate::directory) async fn orphans(
        &self,
        node: &Node,
        from: u64,
    ) -> Result<Page, BrokerError> {
        // Nothing is on its way meanwhile: what is not noted, awaited or held is not in hand.
        let _writing = self.writing.lock().await;
        let mut page = self.store.read(&self.uid, from).wait().await?;
        let awaited: HashSet<ClientId> = {
            let awaited = self.awaited.lock();
            awaited.iter().map(|one| one.client).collect()
        };
        page.records.retain(|record| {
            let is_awaited =
                matches!(record.slot, Slot::Session(client) if awaited.contains(&client));
            !is_awaited && !self.is_in_hand(&record.slot) && !is_there(node, record)
        });
        Ok(page)
    }

    fn is_in_hand(&self, slot: &Slot) -> bool {
        self.notes.lock().contains_key(slot) || self.holds.has(slot)
    }
}

/// Whether the node has what the line is about, or is about to tell that it ended.
fn is_there(node: &Node, record: &Record) -> bool {
    match &record.slot {
        Slot::Seat(key, client) => node.roster().answers_for(key, *client),
        Slot::Session(client) => decode_session(&record.value).is_some_and(|entry| {
            node.app(&entry.app)
                .is_some_and(|app| app.seen(*client).is_some())
        }),
    }
}
