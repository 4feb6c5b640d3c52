//! One publication, or one join or leave, on its way to the members of a channel, and its encodings.

use std::sync::{Arc, OnceLock};

use tidegate_protocol::{
    Codec, EncodeError, Frame, Framing, Join, Leave, Publication, Push, Reply, StreamPosition,
};

use super::{channel::Channel, stream::Epoch};
use crate::broker::{JoinLeave, client_info_cost, publication_cost};

/// Number of (codec, framing) pairs.
pub(crate) const NUM_ENCODINGS: usize = 6;

/// What members are told.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Publication(Arc<Publication>),
    /// For the members that listen; has no position and is no part of any stream.
    JoinLeave(JoinLeave),
}

/// What a flusher gets from a broadcast. Shared by the shards.
pub(crate) struct Delivery {
    pub(crate) channel: Arc<Channel>,
    pub(crate) content: Content,
    pub(crate) position: Option<StreamPosition>,
    /// The stream began anew with this publication.
    pub(crate) epoch: Epoch,
    /// Bytes that the queue and buffers account for it.
    pub(crate) cost: usize,
    /// Filled by the first flusher that needs the encoding.
    encodings: [OnceLock<Result<Frame, EncodeError>>; NUM_ENCODINGS],
}

impl Delivery {
    pub(crate) fn new(
        channel: Arc<Channel>,
        publication: &Arc<Publication>,
        position: Option<&StreamPosition>,
        epoch: Epoch,
    ) -> Self {
        Self {
            epoch,
            cost: publication_cost(publication),
            content: Content::Publication(Arc::clone(publication)),
            position: position.cloned(),
            channel,
            encodings: Default::default(),
        }
    }

    pub(crate) fn of_join_leave(channel: Arc<Channel>, event: JoinLeave) -> Self {
        Self {
            epoch: Epoch::Same,
            cost: client_info_cost(event.info()),
            content: Content::JoinLeave(event),
            position: None,
            channel,
            encodings: Default::default(),
        }
    }

    /// Whether only the members that listen to joins and leaves get it.
    pub(crate) fn is_join_leave(&self) -> bool {
        matches!(self.content, Content::JoinLeave(_))
    }

    /// Zero outside a stream.
    pub(crate) fn offset(&self) -> u64 {
        self.position.as_ref().map_or(0, |position| position.offset)
    }

    /// The framed push, encoded at the first call for each pair.
    pub(crate) fn encoded(&self, codec: Codec, framing: Framing) -> Result<&Frame, EncodeError> {
        self.encodings[encoding_index(codec, framing)]
            .get_or_init(|| {
                let channel = self.channel.key.channel();
                match &self.content {
                    Content::Publication(publication) => {
                        Frame::publication(codec, framing, channel, publication)
                    }
                    Content::JoinLeave(event) => {
                        Frame::reply(codec, framing, &join_leave_push(channel, event))
                    }
                }
            })
            .as_ref()
            .map_err(|error| *error)
    }
}

fn join_leave_push(channel: &str, event: &JoinLeave) -> Reply {
    let info = Some(Box::new(event.info().clone()));
    let push = Push {
        channel: channel.to_owned(),
        ..Push::default()
    };
    Reply::from_push(match event {
        JoinLeave::Join(_) => Push {
            join: Some(Box::new(Join { info })),
            ..push
        },
        JoinLeave::Leave(_) => Push {
            leave: Some(Box::new(Leave { info })),
            ..push
        },
    })
}

pub(crate) fn encoding_index(codec: Codec, framing: Framing) -> usize {
    let codec = match codec {
        Codec::Json => 0,
        Codec::Protobuf => 1,
    };
    let framing = match framing {
        Framing::WebSocket => 0,
        Framing::EventStream => 1,
        Framing::HttpStream => 2,
    };
    codec * 3 + framing
}
