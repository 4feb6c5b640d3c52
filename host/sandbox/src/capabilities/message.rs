//! `message`: changes to the message in hand, and where it goes.
//!
//! Everything is kept beside the draft and carried over only when the call succeeded.

use std::sync::Arc;

use tidegate_realtime::{
    hooks::{Destination, Target},
    ids::ClientId,
    session::MAX_LABEL_BYTES,
};

use crate::{
    capabilities::{USER_BYTES, check_channel, check_size},
    failure::GuestFault,
    generated::tidegate::plugin::message::Host,
    guest::{Destinations, Edits, Facts, GuestState, Tags},
};

const MAX_TAGS: usize = 16;
const TAG_KEY_BYTES: usize = 64;
const TAG_VALUE_BYTES: usize = 256;
const MAX_DESTINATIONS: usize = 64;
/// What the node accepts of everybody.
const IDEMPOTENCY_KEY_BYTES: usize = MAX_LABEL_BYTES;

impl GuestState {
    /// Counts the host call and gives the edits of the message in hand, if there is one.
    fn edits(&mut self) -> wasmtime::Result<&mut Edits> {
        self.call.enter_host()?;
        match &self.call.facts {
            Facts::Message { .. } => Ok(self.call.edits.get_or_insert_default()),
            Facts::Idle
            | Facts::Authentication { .. }
            | Facts::Session { .. }
            | Facts::Alone { .. } => Err(GuestFault::limit(
                "message was called outside filtering and routing: there is no message in hand",
            )
            .into()),
        }
    }

    /// The tags as they stand after the changes so far.
    fn edited_tags(&mut self) -> wasmtime::Result<&mut Tags> {
        self.edits()?;
        let call = &mut self.call;
        let edits = call.edits.get_or_insert_default();
        let given = match &call.facts {
            Facts::Message { tags, .. } => tags.as_slice(),
            Facts::Idle
            | Facts::Authentication { .. }
            | Facts::Session { .. }
            | Facts::Alone { .. } => &[],
        };
        Ok(edits.tags.get_or_insert_with(|| given.to_vec()))
    }

    fn send_to(&mut self, target: Target, data: Option<Vec<u8>>) -> wasmtime::Result<()> {
        let max_message_bytes = self.unit.common.max_message_bytes;
        let is_routing = matches!(
            self.call.facts,
            Facts::Message {
                destinations: Destinations::Free,
                ..
            }
        );
        let edits = self.edits()?;
        if !is_routing {
            return Err(GuestFault::limit("only routing names destinations").into());
        }
        if edits.destinations.len() >= MAX_DESTINATIONS {
            return Err(GuestFault::limit(format!(
                "more than {MAX_DESTINATIONS} destinations in one call"
            ))
            .into());
        }
        let data = data
            .map(|data| check_size("a destination's data", data, max_message_bytes))
            .transpose()?;
        edits.destinations.push(Destination { target, data });
        Ok(())
    }
}

fn bad(detail: String) -> wasmtime::Error {
    GuestFault::bad_value(detail).into()
}

impl Host for GuestState {
    fn set_tag(&mut self, key: String, value: String) -> wasmtime::Result<()> {
        let tags = self.edited_tags()?;
        if key.is_empty() || key.len() > TAG_KEY_BYTES {
            return Err(bad(format!("a tag's key has 1 to {TAG_KEY_BYTES} bytes")));
        }
        if value.len() > TAG_VALUE_BYTES {
            return Err(bad(format!(
                "a tag's value has at most {TAG_VALUE_BYTES} bytes"
            )));
        }
        if let Some((_, held)) = tags.iter_mut().find(|(name, _)| **name == *key) {
            *held = value.into();
            return Ok(());
        }
        if tags.len() >= MAX_TAGS {
            return Err(
                GuestFault::limit(format!("more than {MAX_TAGS} tags on one message")).into(),
            );
        }
        tags.push((key.into(), value.into()));
        Ok(())
    }

    fn remove_tag(&mut self, key: String) -> wasmtime::Result<()> {
        self.edited_tags()?.retain(|(name, _)| **name != *key);
        Ok(())
    }

    fn skip_history(&mut self) -> wasmtime::Result<()> {
        self.edits()?.skip_history = true;
        Ok(())
    }

    fn set_idempotency_key(&mut self, key: String) -> wasmtime::Result<()> {
        let edits = self.edits()?;
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES {
            return Err(bad(format!(
                "an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES} bytes"
            )));
        }
        edits.idempotency_key = Some(key.into());
        Ok(())
    }

    fn set_delta(&mut self, on: bool) -> wasmtime::Result<()> {
        let edits = self.edits()?;
        if on {
            return Err(bad(
                "delta compression is not available on this node".to_owned()
            ));
        }
        edits.delta = Some(false);
        Ok(())
    }

    fn to_origin(&mut self, data: Option<Vec<u8>>) -> wasmtime::Result<()> {
        self.send_to(Target::Origin, data)
    }

    fn to_channel(&mut self, channel: String, data: Option<Vec<u8>>) -> wasmtime::Result<()> {
        check_channel(&channel, self.unit.common.max_channel_bytes).map_err(bad)?;
        self.send_to(Target::Channel(channel.into()), data)
    }

    fn to_user(&mut self, user: String, data: Option<Vec<u8>>) -> wasmtime::Result<()> {
        if user.is_empty() || user.len() > USER_BYTES {
            return Err(bad(format!("a user id has 1 to {USER_BYTES} bytes")));
        }
        self.send_to(Target::User(user.into()), data)
    }

    fn to_session(&mut self, client_id: String, data: Option<Vec<u8>>) -> wasmtime::Result<()> {
        if ClientId::parse(&client_id).is_none() {
            return Err(bad("a session is named by its client id".to_owned()));
        }
        self.send_to(Target::Session(Arc::from(client_id)), data)
    }
}
