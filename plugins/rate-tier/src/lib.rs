//! Limits how much each user says by tier, and bans who does not stop.
//!
//! Every message of a client takes a token of its sender's bucket; who has none left is refused and told when to try
//! again. Who is refused too often is banned for a while: all connections are closed, and while the ban lasts the
//! plugin refuses them at connect (where the token names the user), at subscribe and at publish.
//!
//! Buckets, strikes and bans are kept in `state`. A bucket changes by compare-and-set, so calls that run at the same
//! time never give away one token twice. Where `state` cannot be used, the message is refused (error 503).
//!
//! What the server API and other plugins publish is not limited.

mod ban;
mod bucket;
mod settings;

use serde::Deserialize;
use tidegate_sdk::{
    Authentication, Authorization, Configured, Filtering, Message, Refusal,
    authentication::{self, Reason},
    authorization,
    config::{self, BadSetting},
    context::{self, Origin},
    filtering::Verdict,
    log, metrics, plugin,
    settings::Offered,
};

use crate::{ban::Ban, settings::Settings};

/// Too many messages; the reason says when to try again.
pub const TOO_MANY_CODE: u32 = 429;

/// Banned. The client does not come back by itself.
pub const BANNED_CODE: u32 = 4503;

/// The plugin.
#[derive(Debug)]
pub struct RateTier;

/// Who sends: a user, or where an anonymous client comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sender {
    User(String),
    Address(String),
}

impl Sender {
    /// Whoever the session in hand belongs to. An anonymous client is known by its address, so that a new connection
    /// is not a new bucket.
    fn of_session() -> Self {
        match context::user() {
            Some(user) if !user.is_empty() => Self::User(user),
            Some(_) | None => Self::Address(context::remote_address().unwrap_or_default()),
        }
    }

    /// What keys say of it; a user cannot be mistaken for an address.
    fn key(&self, what: &[&str]) -> String {
        let (kind, name) = match self {
            Self::User(user) => ("user", user),
            Self::Address(address) => ("address", address),
        };
        tidegate_sdk::state::key(&[what, &[kind, name]].concat())
    }
}

/// What an authentication plugin may have said about the session.
#[derive(Deserialize)]
struct Meta {
    tier: Option<String>,
    role: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
}

impl Filtering for RateTier {
    fn filter(_: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        match context::origin() {
            Origin::Client => {}
            Origin::ServerApi | Origin::Plugin => return Ok(Verdict::Pass),
        }
        let sender = Sender::of_session();
        if let Some(ban) = Ban::of(&sender)? {
            return Err(ban.refusal());
        }
        // Meta of another form says nothing about a tier.
        let meta = context::meta::<Meta>().ok().flatten();
        let (role, tier) = meta.map_or((None, None), |Meta { tier, role }| (role, tier));
        let (name, tier) = settings.tier(&sender, tier.as_deref(), role.as_deref());
        let Err(wait) = bucket::take(&sender.key(&["bucket", name]), tier)? else {
            return Ok(Verdict::Pass);
        };
        count("refused", name);
        if let Some(rule) = &settings.ban
            && ban::strike(&sender, rule, name)?
        {
            // A refusal would discard the disconnect. This message ends here, and so does the connection.
            return Ok(Verdict::Drop);
        }
        Err(Refusal::error(
            TOO_MANY_CODE,
            format!(
                "too many messages: tier `{name}` has {tier}; retry after {} ms",
                wait.as_millis().max(1)
            ),
        ))
    }
}

impl Authorization for RateTier {
    fn authorize(_: authorization::Request) -> Result<authorization::Verdict, Refusal> {
        match Ban::of(&Sender::of_session())? {
            Some(ban) => Err(ban.refusal()),
            None => Ok(authorization::Verdict::NotMine),
        }
    }
}

impl Authentication for RateTier {
    fn authenticate(request: authentication::Request) -> Result<authentication::Verdict, Refusal> {
        let user = match request.reason() {
            // The session is nobody's yet; only a token that the node has checked tells whose it will be.
            Reason::Connect => context::claims::<Claims>()
                .ok()
                .flatten()
                .and_then(|claims| claims.sub),
            Reason::Refresh => context::user(),
        };
        let Some(user) = user.filter(|user| !user.is_empty()) else {
            return Ok(authentication::Verdict::NotMine);
        };
        match Ban::of(&Sender::User(user))? {
            Some(ban) => Err(ban.refusal()),
            None => Ok(authentication::Verdict::NotMine),
        }
    }
}

/// Counts for the monitoring. Tiers come from the settings, so there are few.
fn count(what: &str, tier: &str) {
    if let Err(error) = metrics::increment(what, &[("tier", tier)], 1) {
        log::debug!("{what} was not counted: {error}");
    }
}

impl Configured for RateTier {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        // At the doors only bans are looked up, which need no settings.
        if offered.hook() != "filtering" {
            return Ok(());
        }
        offered.read::<Settings>().map(drop)
    }
}

plugin!(RateTier: authentication, authorization, filtering, settings);

#[cfg(test)]
mod tests;
