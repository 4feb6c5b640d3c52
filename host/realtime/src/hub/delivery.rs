//! One publication on its way to the members of a channel, and its encodings.

use std::sync::{Arc, OnceLock};

use tidegate_protocol::{Codec, EncodeError, Frame, Framing, Publication, StreamPosition};

use super::{channel::Channel, stream::Epoch};
use crate::broker::publication_cost;

/// Number of (codec, framing) pairs.
pub(crate) const NUM_ENCODINGS: usize = 6;

/// What a flusher gets from a broadcast. Shared by the shards.
pub(crate) struct Delivery {
    pub(crate) channel: Arc<Channel>,
    pub(crate) publication: Arc<Publication>,
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
            publication: Arc::clone(publication),
            position: position.cloned(),
            channel,
            encodings: Default::default(),
        }
    }

    /// Zero outside a stream.
    pub(crate) fn offset(&self) -> u64 {
        self.position.as_ref().map_or(0, |position| position.offset)
    }

    /// The framed publication, encoded at the first call for each pair.
    pub(crate) fn encoded(&self, codec: Codec, framing: Framing) -> Result<&Frame, EncodeError> {
        self.encodings[encoding_index(codec, framing)]
            .get_or_init(|| {
                let channel = self.channel.key.channel();
                Frame::publication(codec, framing, channel, &self.publication)
            })
            .as_ref()
            .map_err(|error| *error)
    }
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
