//! Masks medical and personal data for everybody who is not entitled to it, and keeps originals in an audit channel.
//!
//! A message becomes up to three: a record with the original for the audit channel, the original for the channel of the
//! entitled, and the redacted form for the channel that it was published to. They are destinations of one routing
//! verdict, so the node makes all of them or, if one has nowhere to go, none; the sender then gets error 100.
//!
//! It is a router and must be the last one of its scope: the last one that does not keep a message decides where it
//! goes, and one behind this would send the original. As an authorizer it keeps everybody out of the full and the audit
//! channels who is not named in the settings.
//!
//! Invariant: whatever cannot be read, redacted or recorded goes nowhere.

mod ids;
mod path;
mod redact;
mod settings;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_sdk::{
    Authorization, BAD_DATA_CODE, Configured, Grant, Message, Refusal, Routing, authorization,
    clock,
    config::{self, BadSetting},
    context::{self, Origin},
    plugin,
    routing::{Destinations, Target, Verdict},
    settings::Offered,
};

use crate::settings::{Audit, Settings};

/// The message is too large to be recorded.
pub const TOO_LARGE_CODE: u32 = 413;

/// What a record may have beside the message.
const ENVELOPE_BYTES: usize = 16 * 1024;

/// The plugin.
#[derive(Debug)]
pub struct RedactAudit;

/// What the audit channel gets.
#[derive(Serialize)]
struct Record<'a> {
    channel: &'a str,
    /// Who sent it; empty for an anonymous client, the back end and plugins.
    user: &'a str,
    client: Option<String>,
    address: Option<String>,
    origin: &'static str,
    /// Milliseconds since 1970 UTC.
    at: u64,
    /// `tidegate explain` finds the call by it.
    trace_id: String,
    /// Paths of the settings, and kinds of data.
    masked: &'a BTreeSet<String>,
    original: &'a RawValue,
}

#[derive(Deserialize)]
struct Meta {
    role: Option<String>,
}

impl Routing for RedactAudit {
    fn route(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let channel = message.channel();
        if settings.is_full(channel) || settings.is_audit(channel) {
            return match context::origin() {
                Origin::Client => Err(Refusal::denied(
                    "only the node writes to this channel; publish to the one that it belongs to",
                )),
                Origin::ServerApi | Origin::Plugin => Ok(Verdict::Keep),
            };
        }
        if !settings.channels.matches(channel) {
            return Ok(Verdict::Keep);
        }
        redacted(&settings, &message)
    }
}

fn redacted(settings: &Settings, message: &Message) -> Result<Verdict, Refusal> {
    let (channel, data) = (message.channel(), message.data());
    check_size("the message", data.len(), settings.max_bytes)?;
    let unreadable = || {
        let reason = format!(
            "data cannot be read: it holds half a character, or is nested more than {} deep",
            redact::MAX_DEPTH
        );
        Refusal::error(BAD_DATA_CODE, reason)
    };
    // The walk relies on JSON that somebody else has checked.
    let original: &RawValue = message.json()?;
    let text = std::str::from_utf8(data).map_err(|_| unreadable())?;
    let redacted = redact::redact(text, &settings.redaction).map_err(|_| unreadable())?;

    let mut destinations = Destinations::new();
    if settings.audit == Audit::All || !redacted.masked.is_empty() {
        let record = Record {
            channel,
            user: message.user(),
            client: context::client_id(),
            address: context::remote_address(),
            origin: match context::origin() {
                Origin::Client => "client",
                Origin::ServerApi => "server_api",
                Origin::Plugin => "plugin",
            },
            at: clock::unix_millis(),
            trace_id: context::trace_id(),
            masked: &redacted.masked,
            original,
        };
        let audit = settings.audit_channel.fill(&[("channel", channel)]);
        let record = serde_json::to_vec(&record).map_err(|_| unreadable())?;
        let most = settings.max_bytes + ENVELOPE_BYTES;
        check_size("the record of the message", record.len(), most)?;
        destinations = destinations.with_data(Target::Channel(audit), record);
    }
    if let Some(full) = &settings.full_channel {
        // Without data of its own, it gets the message as it is.
        destinations = destinations.channel(full.fill(&[("channel", channel)]));
    }
    Ok(match redacted.json {
        Some(json) => {
            check_size("the redacted message", json.len(), settings.max_bytes)?;
            destinations.with_data(Target::Origin, json).into()
        }
        None if destinations.iter().len() == 0 => Verdict::Keep,
        None => destinations.origin().into(),
    })
}

/// What is larger than a message may be would fail the call, and too many failures would shut everybody out.
fn check_size(what: &str, len: usize, most: usize) -> Result<(), Refusal> {
    if len <= most {
        return Ok(());
    }
    Err(Refusal::error(
        TOO_LARGE_CODE,
        format!("{what} has {len} bytes; at most {most} are allowed here"),
    ))
}

impl Authorization for RedactAudit {
    fn authorize(request: authorization::Request) -> Result<authorization::Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let people = if settings.is_audit(request.channel()) {
            &settings.auditors
        } else if settings.is_full(request.channel()) {
            &settings.entitled
        } else {
            return Ok(authorization::Verdict::NotMine);
        };
        // Meta of another form gives no role.
        let meta = context::meta::<Meta>().ok().flatten();
        let role = meta.and_then(|meta| meta.role);
        if people.include(request.user(), role.as_deref()) {
            Ok(Grant::new().into())
        } else {
            Err(Refusal::denied("you are not entitled to the originals"))
        }
    }
}

impl Configured for RedactAudit {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(RedactAudit: authorization, routing, settings);

#[cfg(test)]
mod tests;
