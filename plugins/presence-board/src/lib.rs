//! Friends see who of them is online.
//!
//! Each user has a channel, `status:USER`, where the plugin publishes when they come online and when their last device
//! is gone. It lets a user's friends subscribe to it, and the user, and nobody else.
//!
//! Who is whose friend comes from two places: the `friends` of the session's meta, which the app's back end puts into
//! the token, and the settings, where two users of one circle are friends. The method `board` answers what the node
//! knows of several friends at once.
//!
//! Invariant: a status that is told twice, late or by two nodes at once never replaces a later one. The time of such an
//! event rises from one word about a user to the next, whichever nodes tell them: so the channel takes only what is newer
//! than what it has, and what the board remembers is a time for each of the two words, of which the later one holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidegate_sdk::{
    Authorization, Configured, Events, Refusal, Rpc, Trouble, authorization,
    config::{self, BadSetting},
    context,
    events::{Event, Kind},
    log, plugin, publishing,
    publishing::PublishError,
    rpc,
    settings::Offered,
    state::{self, StateError},
};

/// The method that answers the whole board.
pub const METHOD: &str = "board";

/// Friends on one board: a call reads so many keys, and there are two for each.
const MAX_FRIENDS: usize = 16;

/// The plugin.
#[derive(Debug)]
pub struct PresenceBoard;

/// What the operator may set.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// The namespace of the status channels.
    namespace: String,
    /// Users who see each other, whatever their tokens say.
    circles: Vec<BTreeSet<String>>,
    /// How long the board remembers a word; beyond it it says `unknown`. 0 for no board.
    remember_hours: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "status".to_owned(),
            circles: Vec::new(),
            remember_hours: 24,
        }
    }
}

impl Settings {
    fn channel(&self, user: &str) -> String {
        format!("{}:{user}", self.namespace)
    }

    /// The user whose status a channel tells.
    fn user<'c>(&self, channel: &'c str) -> Option<&'c str> {
        let user = channel.strip_prefix(&self.namespace)?.strip_prefix(':')?;
        (!user.is_empty()).then_some(user)
    }

    /// Whose status `user` may see, beside their own.
    fn friends(&self, user: &str, meta: Meta) -> BTreeSet<String> {
        let circles = self.circles.iter().filter(|circle| circle.contains(user));
        let mut friends: BTreeSet<String> = circles.flatten().cloned().collect();
        friends.extend(meta.friends);
        friends.remove(user);
        friends
    }
}

/// What the plugin reads of a session's meta.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Meta {
    friends: BTreeSet<String>,
}

/// What a friend is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Status {
    user: String,
    status: String,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
}

/// Since when a user is, or was, what the kind says.
fn key(kind: Kind, user: &str) -> String {
    state::key(&[kind.name(), user])
}

/// Remembers a word, unless a later one of its kind is known.
fn remember(event: &Event, hours: u8) -> Result<(), StateError> {
    let key = key(event.kind(), event.user());
    let known = state::get_json::<u64>(&key)?;
    if known.is_none_or(|known| known < event.time_ms()) {
        let lives = Duration::from_secs(u64::from(hours) * 3_600);
        state::set_json(&key, &event.time_ms(), lives)?;
    }
    Ok(())
}

/// What is known of a user.
fn status(user: String) -> Result<Status, StateError> {
    let since = |kind| state::get_json::<u64>(&key(kind, &user));
    let (online, offline) = (since(Kind::Online)?, since(Kind::Offline)?);
    let (status, since_ms) = match (online, offline) {
        (None, None) => ("unknown", 0),
        // `None` is before everything.
        (online, offline) if online > offline => (Kind::Online.name(), online.unwrap_or(0)),
        (_, offline) => (Kind::Offline.name(), offline.unwrap_or(0)),
    };
    Ok(Status {
        status: status.to_owned(),
        since_ms,
        user,
    })
}

impl Events for PresenceBoard {
    const WANTED: &'static [Kind] = &[Kind::Online, Kind::Offline];

    fn handle(batch: Vec<Event>) -> Result<(), Trouble> {
        let settings = config::settings::<Settings>();
        // The last word about each user counts, in whatever order the words came.
        let mut latest: BTreeMap<String, Event> = BTreeMap::new();
        for event in batch {
            let user = event.user();
            let known = latest.get(user).map(Event::time_ms);
            if !user.is_empty() && known.is_none_or(|at| at <= event.time_ms()) {
                latest.insert(user.to_owned(), event);
            }
        }
        for (user, event) in latest {
            let status = Status {
                status: event.kind().name().to_owned(),
                since_ms: event.time_ms(),
                user,
            };
            // One user whose name no channel can have, or a full memory, is nobody else's trouble.
            let channel = settings.channel(&status.user);
            match publishing::publish_json_newer(&channel, &status, event.time_ms()) {
                Err(PublishError::Invalid(reason)) => {
                    log::warn!("{:?} has no status: {reason}", status.user);
                    continue;
                }
                other => other?,
            }
            if settings.remember_hours > 0
                && let Err(error) = remember(&event, settings.remember_hours)
            {
                log::warn!("{:?}: told, but not remembered: {error}", status.user);
            }
        }
        Ok(())
    }
}

impl Authorization for PresenceBoard {
    fn authorize(request: authorization::Request) -> Result<authorization::Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let Some(owner) = settings.user(request.channel()) else {
            return Ok(authorization::Verdict::NotMine);
        };
        let user = request.user();
        let meta = context::meta::<Meta>()?.unwrap_or_default();
        let may_see = owner == user || settings.friends(user, meta).contains(owner);
        if user.is_empty() || !may_see {
            return Err(Refusal::denied("you are no friend of theirs"));
        }
        Ok(authorization::Verdict::Allow(Box::default()))
    }
}

impl Rpc for PresenceBoard {
    fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
        if request.method() != METHOD {
            return Ok(rpc::Verdict::NotMine);
        }
        let settings = config::settings::<Settings>();
        let meta = context::meta::<Meta>()?.unwrap_or_default();
        let friends = settings.friends(request.user(), meta);
        let friends = friends.into_iter().take(MAX_FRIENDS);
        let board = friends.map(status).collect::<Result<Vec<_>, _>>()?;
        rpc::Verdict::json(&board)
    }
}

impl Configured for PresenceBoard {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(PresenceBoard: events, authorization, rpc, settings);

#[cfg(test)]
mod tests;
