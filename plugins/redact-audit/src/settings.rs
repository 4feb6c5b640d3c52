//! What the operator sets.

use serde::Deserialize;
use tidegate_sdk::config::{BadSetting, Pattern, Template};

use crate::{ids::IdForm, path::FieldPath};

/// What stands where something was.
const DEFAULT_MASK: &str = "[redacted]";

/// An audit record is larger than the message, and must still be one: a node takes 64 KiB unless it was told otherwise.
const DEFAULT_MAX_BYTES: usize = 48 * 1024;

/// Each is compared with every value, and those that were found are listed in the record.
const MAX_FIELDS: usize = 64;
const MAX_IDS: usize = 16;
const MAX_MASK_BYTES: usize = 64;

/// The settings, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawSettings")]
pub(crate) struct Settings {
    /// Channels whose messages are redacted.
    pub(crate) channels: Pattern,
    pub(crate) redaction: Redaction,
    /// Where originals go; nowhere without it.
    pub(crate) full_channel: Option<Template>,
    pub(crate) audit_channel: Template,
    pub(crate) audit: Audit,
    /// Who may subscribe to full channels.
    pub(crate) entitled: People,
    /// Who may subscribe to audit channels.
    pub(crate) auditors: People,
    pub(crate) max_bytes: usize,
}

/// What is masked, and how.
#[derive(Debug)]
pub(crate) struct Redaction {
    pub(crate) fields: Vec<FieldPath>,
    pub(crate) patterns: Vec<Kind>,
    pub(crate) ids: Vec<IdForm>,
    pub(crate) mask: String,
}

/// Data that is known by what it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Email,
    Phone,
    /// Payment cards, IBANs, US social security numbers.
    Identity,
    /// Ids of the operator's own forms, which are always looked for.
    #[serde(skip)]
    Id,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Identity => "identity",
            Self::Id => "id",
        }
    }
}

/// Of which messages a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Audit {
    /// Of those in which something was masked.
    #[default]
    Redacted,
    All,
}

/// Some users, by name or by the role that authentication put into the session's meta.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct People {
    users: Vec<String>,
    roles: Vec<String>,
}

impl People {
    pub(crate) fn include(&self, user: &str, role: Option<&str>) -> bool {
        let is_named = self.users.iter().any(|named| named == user);
        let has_role = role.is_some_and(|role| self.roles.iter().any(|named| named == role));
        !user.is_empty() && (is_named || has_role)
    }
}

impl Settings {
    /// Whether originals go to this channel.
    pub(crate) fn is_full(&self, channel: &str) -> bool {
        let full = self.full_channel.as_ref();
        full.is_some_and(|full| full.pattern().matches(channel))
    }

    /// Whether records go to this channel.
    pub(crate) fn is_audit(&self, channel: &str) -> bool {
        self.audit_channel.pattern().matches(channel)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    channels: Option<Pattern>,
    #[serde(default)]
    fields: Vec<FieldPath>,
    patterns: Option<Vec<Kind>>,
    #[serde(default)]
    ids: Vec<IdForm>,
    mask: Option<String>,
    full_channel: Option<Template>,
    audit_channel: Template,
    #[serde(default)]
    audit: Audit,
    #[serde(default)]
    entitled: People,
    #[serde(default)]
    auditors: People,
    max_bytes: Option<usize>,
}

impl TryFrom<RawSettings> for Settings {
    type Error = BadSetting;

    fn try_from(raw: RawSettings) -> Result<Self, BadSetting> {
        let RawSettings {
            channels,
            fields,
            patterns,
            ids,
            mask,
            full_channel,
            audit_channel,
            audit,
            entitled,
            auditors,
            max_bytes,
        } = raw;
        for (name, len, most) in [
            ("fields", fields.len(), MAX_FIELDS),
            ("ids", ids.len(), MAX_IDS),
        ] {
            if len > most {
                let error = format!("there are {len} of them; at most {most} are allowed");
                return Err(BadSetting::new(error).at(name));
            }
        }
        let patterns = patterns.unwrap_or_else(|| vec![Kind::Email, Kind::Phone, Kind::Identity]);
        if fields.is_empty() && patterns.is_empty() && ids.is_empty() {
            return Err(BadSetting::new(
                "nothing would be masked; name `fields`, `patterns` or `ids`",
            ));
        }
        let mask = mask.unwrap_or_else(|| DEFAULT_MASK.to_owned());
        if mask.len() > MAX_MASK_BYTES {
            let error = format!("a mask has at most {MAX_MASK_BYTES} bytes");
            return Err(BadSetting::new(error).at("mask"));
        }
        audit_channel
            .allow(&["channel"])
            .map_err(|error| error.at("audit_channel"))?;
        if let Some(full) = &full_channel {
            full.allow(&["channel"])
                .map_err(|error| error.at("full_channel"))?;
            if full.places().count() == 0 {
                return Err(BadSetting::new(format!(
                    "`{full}` has no {{channel}}, so the originals of all channels would mix"
                ))
                .at("full_channel"));
            }
        }
        for (name, template) in [
            ("full_channel", full_channel.as_ref()),
            ("audit_channel", Some(&audit_channel)),
        ] {
            let is_itself = |template: &Template| template.as_str() == "{channel}";
            if template.is_some_and(is_itself) {
                return Err(BadSetting::new(
                    "it is the channel itself, whose subscribers must not see originals",
                )
                .at(name));
            }
        }
        if full_channel.as_ref() == Some(&audit_channel) {
            return Err(
                BadSetting::new("it is `audit_channel` too; they have different readers")
                    .at("full_channel"),
            );
        }
        Ok(Self {
            channels: channels.unwrap_or_else(Pattern::any),
            redaction: Redaction {
                fields,
                patterns,
                ids,
                mask,
            },
            full_channel,
            audit_channel,
            audit,
            entitled,
            auditors,
            max_bytes: max_bytes.unwrap_or(DEFAULT_MAX_BYTES),
        })
    }
}
