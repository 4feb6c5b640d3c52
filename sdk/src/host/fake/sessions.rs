//! `sessions` and `presence` without a node: what was queued, and whom the test lets be seen.

use std::collections::BTreeSet;

use super::{MAX_EFFECTS, with};
use crate::{
    presence::{Member, PresenceError, Stats},
    sessions::{SessionsError, Target},
};

/// Limits of `wit/capabilities.wit`.
const MAX_USER_BYTES: usize = 255;
const MAX_REASON_BYTES: usize = 123;
/// Members in one answer.
const MAX_MEMBERS: u32 = 1_000;
/// What code 0 stands for.
const USUAL_CODE: u32 = 4_500;
const USUAL_REASON: &str = "disconnected";

fn invalid<T>(text: impl Into<String>) -> Result<T, SessionsError> {
    Err(SessionsError::Invalid(text.into()))
}

fn check(target: &Target) -> Result<(), SessionsError> {
    match target {
        Target::User(user) if user.is_empty() || user.len() > MAX_USER_BYTES => {
            invalid(format!("a user id has 1 to {MAX_USER_BYTES} bytes"))
        }
        Target::Client(client) if !is_uuid(client) => {
            invalid("a session is named by its client id")
        }
        Target::User(_) | Target::Client(_) => Ok(()),
    }
}

/// Client ids are UUIDs.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn check_room(num_effects: usize) -> Result<(), SessionsError> {
    if num_effects < MAX_EFFECTS {
        return Ok(());
    }
    Err(SessionsError::Limit(format!(
        "{MAX_EFFECTS} effects are queued already"
    )))
}

pub(crate) fn sessions_disconnect(
    target: &Target,
    code: u32,
    reason: &str,
) -> Result<(), SessionsError> {
    check(target)?;
    let code = match code {
        0 => USUAL_CODE,
        4_000..=4_999 => code,
        _ => return invalid(format!("disconnect code {code} is not 0 or 4000 to 4999")),
    };
    if reason.len() > MAX_REASON_BYTES {
        return invalid(format!(
            "a disconnect's reason has at most {MAX_REASON_BYTES} bytes"
        ));
    }
    let reason = if reason.is_empty() {
        USUAL_REASON
    } else {
        reason
    };
    with(|state| {
        check_room(state.effects.queued())?;
        let disconnect = (target.clone(), code, reason.to_owned());
        state.effects.disconnects.push(disconnect);
        Ok(())
    })
}

pub(crate) fn sessions_unsubscribe(target: &Target, channel: &str) -> Result<(), SessionsError> {
    check(target)?;
    if channel.is_empty() {
        return invalid("the channel is empty");
    }
    with(|state| {
        check_room(state.effects.queued())?;
        let unsubscribe = (target.clone(), channel.to_owned());
        state.effects.unsubscribes.push(unsubscribe);
        Ok(())
    })
}

/// Users who are subscribed, where the test says so.
fn present<T>(channel: &str, look: impl FnOnce(&[String]) -> T) -> Result<T, PresenceError> {
    with(|state| match state.facts.presence.get(channel) {
        Some(users) => Ok(look(users)),
        None => {
            let text = "presence of this channel is not known yet; decide without it".to_owned();
            Err(PresenceError::Unavailable(text))
        }
    })
}

pub(crate) fn presence_count(channel: &str) -> Result<Stats, PresenceError> {
    present(channel, |users| {
        let different: BTreeSet<_> = users.iter().collect();
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Stats {
            clients: count(users.len()),
            users: count(different.len()),
        }
    })
}

pub(crate) fn presence_members(channel: &str, limit: u32) -> Result<Vec<Member>, PresenceError> {
    if !(1..=MAX_MEMBERS).contains(&limit) {
        let text = format!("the limit is 1 to {MAX_MEMBERS}");
        return Err(PresenceError::Invalid(text));
    }
    present(channel, |users| {
        let members = (1..).zip(users).take(limit as usize);
        members
            .map(|(number, user): (u64, _)| Member {
                client_id: format!("00000000-0000-4000-8000-{number:012}"),
                user: user.clone(),
                info: None,
                channel_info: None,
            })
            .collect()
    })
}

pub(crate) fn presence_is_present(channel: &str, user: &str) -> Result<bool, PresenceError> {
    present(channel, |users| users.iter().any(|one| one == user))
}
