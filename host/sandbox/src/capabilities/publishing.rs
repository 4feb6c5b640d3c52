//! `publishing`: messages made by the plugin, queued and made after the call succeeded.
//!
//! They carry a hop count, so that plugins which answer each other cannot run in a circle.

use tidegate_realtime::hooks::{Effect, MAX_HOPS};

use crate::{
    capabilities::{MAX_EFFECTS, check_channel},
    generated::tidegate::plugin::publishing::{Host, PublishError},
    guest::GuestState,
};

impl Host for GuestState {
    fn publish(
        &mut self,
        channel: String,
        data: Vec<u8>,
    ) -> wasmtime::Result<Result<(), PublishError>> {
        self.call.enter_host()?;
        Ok(self.queue(channel, data, 0))
    }

    fn publish_newer(
        &mut self,
        channel: String,
        data: Vec<u8>,
        version: u64,
    ) -> wasmtime::Result<Result<(), PublishError>> {
        self.call.enter_host()?;
        Ok(self.queue(channel, data, version))
    }
}

impl GuestState {
    fn queue(&mut self, channel: String, data: Vec<u8>, version: u64) -> Result<(), PublishError> {
        let common = self.unit.common;
        check_channel(&channel, common.max_channel_bytes).map_err(PublishError::Invalid)?;
        if data.is_empty() {
            return Err(PublishError::Invalid("data is empty".to_owned()));
        }
        if data.len() > common.max_message_bytes {
            return Err(PublishError::Invalid(format!(
                "data has more than {} bytes",
                common.max_message_bytes
            )));
        }
        if self.call.facts.hops() + 1 >= MAX_HOPS {
            return Err(PublishError::Limit(format!(
                "the message in hand was made by {} plugins in a row",
                self.call.facts.hops()
            )));
        }
        if self.call.queued.len() >= MAX_EFFECTS {
            return Err(PublishError::Limit(format!(
                "{MAX_EFFECTS} effects are queued already"
            )));
        }
        self.call.queued.push(Effect::Publish {
            channel: channel.into(),
            data: data.into(),
            version,
        });
        Ok(())
    }
}
