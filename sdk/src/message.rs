//! The message in hand, as `filtering` and `routing` get it.

use serde::Deserialize;

use crate::{JsonError, host};

/// A message on its way to a channel.
///
/// It owns what the node handed over: nothing is copied, and nothing is parsed unless [`Message::json`] is asked.
#[derive(Debug)]
pub struct Message {
    channel: String,
    user: String,
    data: Vec<u8>,
}

impl Message {
    pub(crate) fn new(channel: String, user: String, data: Vec<u8>) -> Self {
        Self {
            channel,
            user,
            data,
        }
    }

    /// The channel that the message was published to.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The part of the channel's name before the first `:`, which picks its options; empty without one.
    pub fn namespace(&self) -> &str {
        self.channel
            .split_once(':')
            .map_or("", |(namespace, _)| namespace)
    }

    /// Who published: empty for an anonymous client and for the server API.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What was published: JSON text from JSON clients, any bytes otherwise.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The data as an owned buffer, to be changed in place and handed back in a verdict.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Reads the data as JSON. Text may be borrowed from the message (`&str` fields).
    ///
    /// # Errors
    ///
    /// When the data is not a `T`; with `?` the client gets error 400 and is told what is wrong and where.
    pub fn json<'m, T: Deserialize<'m>>(&'m self) -> Result<T, JsonError> {
        JsonError::parse("data", &self.data)
    }

    /// A tag of the message, as the client or an earlier plugin set it.
    pub fn tag(&self, key: &str) -> Option<String> {
        host::tag(key)
    }

    /// Sets a tag. At most 16; keys of at most 64 bytes, values of at most 256.
    pub fn set_tag(&self, key: &str, value: &str) {
        host::set_tag(key, value);
    }

    /// Removes a tag, if it is there.
    pub fn remove_tag(&self, key: &str) {
        host::remove_tag(key);
    }

    /// Keeps the message out of the channel's history.
    pub fn skip_history(&self) {
        host::skip_history();
    }

    /// Names the message: a second one with the same key in the same channel within five minutes is not published
    /// again. A key has 1 to 64 bytes; any other fails the call.
    pub fn set_idempotency_key(&self, key: &str) {
        host::set_idempotency_key(key);
    }

    /// Lets subscribers that agreed to it receive a difference instead of the whole, or not. Nodes do not have this
    /// yet: `true` fails the call.
    pub fn set_delta(&self, on: bool) {
        host::set_delta(on);
    }
}
