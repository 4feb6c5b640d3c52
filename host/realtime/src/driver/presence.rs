//! How questions about who is there are carried out.

use tidegate_protocol::{ErrorCode, PresenceResult};

use super::Resolved;
use crate::{
    hooks::Progress,
    ids::ChannelKey,
    node::Node,
    presence::{MAX_REPLY_BYTES, Member, by_client},
    session::{Answer, Failure},
};

/// Who is there, if one reply holds them all: a part of them would look like everybody.
pub(super) fn members(node: &Node, key: &ChannelKey) -> Progress<Resolved> {
    let found = node
        .roster()
        .store()
        .members(key, MAX_REPLY_BYTES / Member::MIN_COST);
    Progress::Pending(Box::pin(async move {
        let presence = async {
            let members = found.wait().await?;
            let presence = by_client(&members, MAX_REPLY_BYTES, Member::to_info).await;
            let presence = presence
                .map_err(|error| Failure::error(ErrorCode::LimitExceeded, error.to_string()))?;
            Ok(Box::new(PresenceResult { presence }))
        };
        Answer::Presence(presence.await).into()
    }))
}

pub(super) fn stats(node: &Node, key: &ChannelKey) -> Progress<Resolved> {
    let stats = node.roster().store().stats(key);
    stats.map(|stats| Answer::PresenceStats(stats.map_err(Failure::from)).into())
}
