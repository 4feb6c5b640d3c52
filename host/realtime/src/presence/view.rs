//! What a node can say of presence to a caller that cannot wait: plugins in the middle of a hook.
//!
//! Owns the questions and what stands in the way of an answer. Invariant: an answer is true at this moment, or, where
//! the store is not in this process, was so at most [`MAX_AGE`](super::MAX_VIEW_AGE) ago; or there is none. Nobody is
//! told half of it.

use std::sync::Arc;

use super::{Member, PresenceStats};
use crate::ids::AppId;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// The channel's name, or its namespace.
    #[error("there is no channel of this name, or no namespace for it")]
    NoChannel,
    #[error("the namespace of the channel keeps no presence; set its option `presence`")]
    NotKept,
    /// The store has to be asked first, and the caller cannot wait.
    #[error(
        "presence is kept outside this node and is being read now; ask again in a second, or decide without it"
    )]
    Elsewhere,
    /// As many channels, or as much, as the node reads for plugins.
    #[error("plugins ask about more channels than this node reads; decide without presence")]
    Busy,
    /// Members beyond those that were read would have to be looked at.
    #[error("the channel has more members than were read, and the user is none of those")]
    NotAll,
    /// The members show more than an answer holds.
    #[error("the members show more than 1 MiB of themselves; ask for fewer")]
    TooLarge,
}

/// Who is there, at once.
pub trait PresenceView: Send + Sync + 'static {
    /// # Errors
    /// See [`NoView`].
    fn stats(&self, app: &AppId, channel: &str) -> Result<PresenceStats, NoView>;

    /// At most `limit` members, in no particular order.
    ///
    /// # Errors
    /// See [`NoView`].
    fn members(&self, app: &AppId, channel: &str, limit: usize)
    -> Result<Vec<Arc<Member>>, NoView>;

    /// # Errors
    /// See [`NoView`].
    fn is_present(&self, app: &AppId, channel: &str, user: &str) -> Result<bool, NoView>;
}
