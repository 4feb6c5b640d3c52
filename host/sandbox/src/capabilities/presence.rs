//! `presence`: who is subscribed, as far as the node knows it without asking anybody.
//!
//! Everything is answered at once or not at all: a host function does not wait. The app is that of the plugin
//! (threat model W5).

use std::sync::Arc;

use tidegate_realtime::{
    ids::AppId,
    presence::{self, NoView, PresenceView},
};

use super::{USER_BYTES, check_channel};
use crate::{
    generated::tidegate::plugin::presence::{Host, Member, PresenceError, Stats},
    guest::GuestState,
};

/// Members in one answer.
const MAX_MEMBERS: u32 = 1_000;

impl GuestState {
    /// Counts the host call, checks the channel, and asks the node.
    fn look<T>(
        &mut self,
        channel: &str,
        look: impl FnOnce(&dyn PresenceView, &AppId) -> Result<T, NoView>,
    ) -> wasmtime::Result<Result<T, PresenceError>> {
        self.call.enter_host()?;
        if let Err(text) = check_channel(channel, self.unit.common.max_channel_bytes) {
            return Ok(Err(PresenceError::Invalid(text)));
        }
        let Some(view) = self.unit.kept().presence.get() else {
            let text = "this node keeps no presence; decide without it".to_owned();
            return Ok(Err(PresenceError::Unavailable(text)));
        };
        Ok(look(&**view, &self.unit.app).map_err(PresenceError::from))
    }
}

impl From<NoView> for PresenceError {
    fn from(none: NoView) -> Self {
        let text = none.to_string();
        match none {
            NoView::NoChannel => Self::Invalid(text),
            NoView::NotKept => Self::NotEnabled(text),
            NoView::Elsewhere | NoView::TooLarge | NoView::Busy | NoView::NotAll => {
                Self::Unavailable(text)
            }
        }
    }
}

fn shown(member: &Arc<presence::Member>) -> Member {
    let info = |info: &bytes::Bytes| (!info.is_empty()).then(|| info.to_vec());
    Member {
        client_id: member.client.to_string(),
        user: member.user.as_ref().to_owned(),
        info: info(&member.conn_info),
        channel_info: info(&member.chan_info),
    }
}

impl Host for GuestState {
    fn count(&mut self, channel: String) -> wasmtime::Result<Result<Stats, PresenceError>> {
        let stats = self.look(&channel, |view, app| view.stats(app, &channel))?;
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(stats.map(|stats| Stats {
            clients: count(stats.num_clients),
            users: count(stats.num_users),
        }))
    }

    fn members(
        &mut self,
        channel: String,
        limit: u32,
    ) -> wasmtime::Result<Result<Vec<Member>, PresenceError>> {
        if !(1..=MAX_MEMBERS).contains(&limit) {
            self.call.enter_host()?;
            let text = format!("the limit is 1 to {MAX_MEMBERS}");
            return Ok(Err(PresenceError::Invalid(text)));
        }
        let members = self.look(&channel, |view, app| {
            view.members(app, &channel, limit as usize)
        })?;
        Ok(members.map(|members| members.iter().map(shown).collect()))
    }

    fn is_present(
        &mut self,
        channel: String,
        user: String,
    ) -> wasmtime::Result<Result<bool, PresenceError>> {
        if user.len() > USER_BYTES {
            self.call.enter_host()?;
            let text = format!("a user id has at most {USER_BYTES} bytes");
            return Ok(Err(PresenceError::Invalid(text)));
        }
        self.look(&channel, |view, app| view.is_present(app, &channel, &user))
    }
}
