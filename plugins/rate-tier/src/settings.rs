//! What the operator sets.

use std::{collections::BTreeMap, fmt, num::NonZeroU32, time::Duration};

use serde::Deserialize;
use tidegate_sdk::config::{BadSetting, Period};

use crate::Sender;

/// Names are labels of metrics, and a label has so many bytes.
const MAX_NAME_BYTES: usize = 64;

/// The node remembers nothing for longer.
const MAX_PERIOD: Period = Period::from_secs(7 * 24 * 60 * 60);

/// Tiers are labels of metrics, of which a plugin has 128 series.
const MAX_TIERS: usize = 32;

/// The settings, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawSettings")]
pub(crate) struct Settings {
    tiers: BTreeMap<String, Tier>,
    /// One of `tiers`, as are all values of `users` and `roles`.
    default_tier: String,
    users: BTreeMap<String, String>,
    roles: BTreeMap<String, String>,
    pub(crate) ban: Option<BanRule>,
}

/// How much its members may say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    rate: NonZeroU32,
    per: Period,
    /// As many as `rate`, if absent.
    burst: Option<NonZeroU32>,
}

/// When too much is enough.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BanRule {
    /// So many refusals …
    pub(crate) after: NonZeroU32,
    /// … in so long …
    pub(crate) within: Period,
    /// … and for so long nothing is heard.
    #[serde(rename = "for")]
    pub(crate) period: Period,
}

impl Settings {
    /// Name and limits of a sender's tier. A user that is named comes first, then what authentication said: the tier
    /// itself, then the role's.
    pub(crate) fn tier(
        &self,
        sender: &Sender,
        given: Option<&str>,
        role: Option<&str>,
    ) -> (&str, &Tier) {
        let named = match sender {
            Sender::User(user) => self.users.get(user),
            Sender::Address(_) => None,
        };
        let of_role = || role.and_then(|role| self.roles.get(role));
        let name = named
            .map(String::as_str)
            .or(given.filter(|name| self.tiers.contains_key(*name)))
            .or_else(|| of_role().map(String::as_str))
            .unwrap_or(&self.default_tier);
        self.tiers
            .get_key_value(name)
            .map(|(name, tier)| (name.as_str(), tier))
            .expect("every name that the settings have was looked up when they were checked")
    }
}

impl Tier {
    pub(crate) fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.rate).get()
    }

    /// What a token takes to grow; not zero, as the check makes sure.
    pub(crate) fn interval_micros(&self) -> u64 {
        self.per.millis() * 1_000 / u64::from(self.rate.get())
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_micros())
    }

    fn check(&self) -> Result<(), BadSetting> {
        if self.per > MAX_PERIOD {
            let error = format!("{} is longer than {MAX_PERIOD}", self.per);
            return Err(BadSetting::new(error).at("per"));
        }
        if self.interval_micros() == 0 {
            return Err(BadSetting::new(format!(
                "{} in {} is more than one in a microsecond",
                self.rate, self.per
            )));
        }
        let whole = self.interval().checked_mul(self.burst());
        if whole.is_none_or(|whole| whole > MAX_PERIOD.duration()) {
            return Err(BadSetting::new(format!(
                "a burst of {} takes longer than {MAX_PERIOD} to grow at {} in {}; choose a smaller burst",
                self.burst(),
                self.rate,
                self.per
            )));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn parse(json: &str) -> Self {
        serde_json::from_str(json).expect("the test writes a tier")
    }
}

/// As a sender is told.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}, {} at once", self.rate, self.per, self.burst())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    tiers: BTreeMap<String, Tier>,
    default_tier: String,
    #[serde(default)]
    users: BTreeMap<String, String>,
    #[serde(default)]
    roles: BTreeMap<String, String>,
    ban: Option<BanRule>,
}

impl TryFrom<RawSettings> for Settings {
    type Error = BadSetting;

    fn try_from(raw: RawSettings) -> Result<Self, BadSetting> {
        let RawSettings {
            tiers,
            default_tier,
            users,
            roles,
            ban,
        } = raw;
        if tiers.len() > MAX_TIERS {
            let error = format!("there are {}; at most {MAX_TIERS} are allowed", tiers.len());
            return Err(BadSetting::new(error).at("tiers"));
        }
        for (name, tier) in &tiers {
            let place = format!("tiers.{name}");
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
                let error = format!("a tier's name has 1 to {MAX_NAME_BYTES} bytes");
                return Err(BadSetting::new(error).at(place));
            }
            tier.check().map_err(|error| error.at(place))?;
        }
        let check = |name: &str, place: String| {
            if tiers.contains_key(name) {
                return Ok(());
            }
            let known: Vec<&str> = tiers.keys().map(String::as_str).collect();
            let error = format!("`{name}` is none of the tiers: {}", known.join(", "));
            Err(BadSetting::new(error).at(place))
        };
        check(&default_tier, "default_tier".to_owned())?;
        for (user, tier) in &users {
            check(tier, format!("users.{user}"))?;
        }
        for (role, tier) in &roles {
            check(tier, format!("roles.{role}"))?;
        }
        if let Some(BanRule { within, period, .. }) = &ban {
            for (name, value) in [("ban.within", within), ("ban.for", period)] {
                if *value > MAX_PERIOD {
                    let error = format!(
                        "{value} is longer than {MAX_PERIOD}, the most that the node remembers"
                    );
                    return Err(BadSetting::new(error).at(name));
                }
            }
        }
        Ok(Self {
            tiers,
            default_tier,
            users,
            roles,
            ban,
        })
    }
}
