//! The call `channels` of the server API (client-protocol section 15.2): which channels have members, over all nodes.
//!
//! Invariant: an answer holds all of them or none. Who has more channels than an answer holds asks with a pattern.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::{
    ErrorCode,
    server_api::{ApiError, ChannelStats, ChannelsRequest, ChannelsResult},
};

use super::{
    Node,
    calls::{Called, from_bus},
};
use crate::{
    cluster::{Query, Reply},
    hooks::Progress,
    ids::AppId,
};

/// What the channels of one answer may take, as for the members of one (`presence`): some 400,000 with short names.
const MAX_BYTES: usize = 32 << 20;

/// What a channel takes besides its name, in the answer and while it is put together.
const CHANNEL_COST: usize = 64;

impl Node {
    /// The app's channels with members, of all nodes; `pattern` is matched with `*` and `?`. What a node that does
    /// not answer in time would have said is missing. Error 106 if they are more than an answer holds.
    pub fn channels(
        self: &Arc<Self>,
        id: &AppId,
        request: ChannelsRequest,
    ) -> Called<ChannelsResult> {
        let pattern = request.pattern;
        let surveyed = self.cluster().map(|cluster| {
            let pattern = pattern.clone();
            cluster.survey(id, Query::Channels { pattern })
        });
        let (node, id) = (Arc::clone(self), id.clone());
        Progress::Pending(Box::pin(async move {
            let mut tally = Tally::new(MAX_BYTES);
            for (channel, members) in node.own_channels(&id, &pattern).await {
                tally.add(channel, members)?;
            }
            if let Some(surveyed) = surveyed {
                let surveyed = surveyed.wait().await.map_err(|failed| from_bus(&failed))?;
                for reply in surveyed.replies.into_iter().flat_map(|(_, parts)| parts) {
                    let Reply::Channels(of_part) = reply else {
                        continue;
                    };
                    for (channel, members) in of_part {
                        tally.add(channel, members)?;
                    }
                    tokio::task::yield_now().await;
                }
            }
            let channels = tally.counts.into_iter();
            let channels =
                channels.map(|(channel, num_clients)| (channel, ChannelStats { num_clients }));
            Ok(ChannelsResult {
                channels: channels.collect(),
            })
        }))
    }
}

/// Members by channel, as far as an answer holds them.
struct Tally {
    counts: BTreeMap<String, u32>,
    bytes_left: usize,
}

impl Tally {
    fn new(max_bytes: usize) -> Self {
        Self {
            counts: BTreeMap::new(),
            bytes_left: max_bytes,
        }
    }

    fn add(&mut self, channel: String, members: u32) -> Result<(), ApiError> {
        if let Some(sum) = self.counts.get_mut(&channel) {
            *sum = sum.saturating_add(members);
            return Ok(());
        }
        let left = self.bytes_left.checked_sub(channel.len() + CHANNEL_COST);
        self.bytes_left = left.ok_or_else(|| ApiError {
            code: ErrorCode::LimitExceeded.code(),
            message: "limit exceeded: more channels than an answer holds; ask for a part of them with `pattern`"
                .to_owned(),
        })?;
        self.counts.insert(channel, members);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_several_nodes_are_one_and_cost_once() {
        let mut tally = Tally::new("room".len() + CHANNEL_COST);
        for members in [2, 3, u32::MAX] {
            tally.add("room".to_owned(), members).unwrap();
        }
        assert_eq!(tally.counts, [("room".to_owned(), u32::MAX)].into());
    }

    #[test]
    fn more_than_an_answer_holds_is_refused_and_says_what_to_do() {
        let mut tally = Tally::new(3 * (CHANNEL_COST + 1));
        for channel in ["a", "b", "c"] {
            tally.add(channel.to_owned(), 1).unwrap();
        }
        let refused = tally.add("d".to_owned(), 1).unwrap_err();
        assert_eq!(refused.code, 106);
        assert!(refused.message.contains("pattern"), "{}", refused.message);
        tally.add("a".to_owned(), 1).expect("it is there already");
    }
}
