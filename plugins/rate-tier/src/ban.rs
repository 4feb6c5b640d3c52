//! Strikes and bans.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_sdk::{
    Refusal, clock, context, log,
    sessions::{self, Target},
    state::{self, StateError},
};

use crate::{BANNED_CODE, Sender, settings::BanRule};

/// A sender who is not heard for a while.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ban {
    /// When it ends, in milliseconds since 1970 UTC.
    until: u64,
}

impl Ban {
    /// The ban of a sender, if there is one.
    pub(crate) fn of(sender: &Sender) -> Result<Option<Self>, StateError> {
        state::get_json(&sender.key(&["ban"]))
    }

    /// What whoever is banned is told: the connection ends, and how long it lasts.
    pub(crate) fn refusal(self) -> Refusal {
        Refusal::disconnect(BANNED_CODE, self.reason())
    }

    fn reason(self) -> String {
        let left = self.until.saturating_sub(clock::unix_millis());
        format!(
            "banned for sending too much; retry after {} s",
            left.div_ceil(1_000)
        )
    }
}

/// Counts a refusal in a tier. Tells whether it was one too many: then the sender is banned.
pub(crate) fn strike(sender: &Sender, rule: &BanRule, tier: &str) -> Result<bool, StateError> {
    let strikes = sender.key(&["strikes"]);
    let within = rule.within.duration();
    let count = state::increment(&strikes, 1, within)?;
    if count < i64::from(rule.after.get()) {
        return Ok(false);
    }
    let ban = Ban {
        until: clock::unix_millis().saturating_add(rule.period.millis()),
    };
    let is_first = put(sender, ban, rule.period.duration())?;
    if is_first {
        // With the ban over, the sender begins anew.
        state::delete(&strikes)?;
        crate::count("bans", tier);
        log::info!(
            "{} is banned for {} after {} refusals",
            sender.key(&[]),
            rule.period,
            rule.after
        );
    }
    close(sender, ban);
    Ok(true)
}

fn put(sender: &Sender, ban: Ban, ttl: Duration) -> Result<bool, StateError> {
    let written = format!(r#"{{"until":{}}}"#, ban.until);
    state::compare_and_set(&sender.key(&["ban"]), None, written.as_bytes(), ttl)
}

/// Closes the connections of whoever was banned: all of a user, the one in hand of an anonymous client. Others from the
/// same address end with their next message.
fn close(sender: &Sender, ban: Ban) {
    let target = match sender {
        Sender::User(user) => Some(Target::User(user.clone())),
        Sender::Address(_) => context::client_id().map(Target::Client),
    };
    let closed = target.map(|target| sessions::disconnect(&target, BANNED_CODE, &ban.reason()));
    if let Some(Err(error)) = closed {
        log::error!("banned, but not disconnected: {error}");
    }
}
