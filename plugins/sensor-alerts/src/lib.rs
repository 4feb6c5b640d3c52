//! Raises an alarm on another channel when a measured value crosses a threshold, and tells when it is over.
//!
//! It is a router, so that it sees what all filters have let through, and it always answers *keep*: the message goes
//! where it would go anyway. What it does is publish, as an effect of the call: one alert when a value enters, one when
//! it has recovered. Whether there is an alarm is remembered in `state`, by rule, channel and device; of calls that run
//! at the same time one wins and tells.
//!
//! Invariant: a refusal comes before anything is remembered, so no alarm is taken for told that was not.

mod alarm;
mod settings;

use tidegate_sdk::{
    BAD_DATA_CODE, Configured, Message, Refusal, Routing, clock,
    config::{self, BadSetting},
    context::{self, Origin},
    json::{self, FieldError},
    plugin,
    routing::Verdict,
    settings::Offered,
};

use crate::{
    alarm::Sighting,
    settings::{Direction, Policy, Rule, Settings},
};

/// Longer device ids are none.
const MAX_DEVICE_BYTES: usize = 128;

/// The plugin.
#[derive(Debug)]
pub struct SensorAlerts;

/// Where a value is, seen from a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// On the wrong side of the threshold.
    Beyond,
    /// Between the two thresholds: an alarm stays, and none begins.
    Between,
    /// Where it should be.
    Normal,
}

impl Routing for SensorAlerts {
    fn route(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        if is_own_alert(&settings, &message) {
            return Ok(Verdict::Keep);
        }
        let mut sightings = Vec::new();
        for rule in &settings.rules {
            if rule.channels.matches(message.channel())
                && let Some(sighting) = look(rule)?
            {
                sightings.push(sighting);
            }
        }
        if !sightings.is_empty() {
            let now = clock::unix_millis();
            for sighting in &sightings {
                alarm::tell(sighting, message.channel(), now);
            }
        }
        Ok(Verdict::Keep)
    }
}

/// An alert must not raise another one.
fn is_own_alert(settings: &Settings, message: &Message) -> bool {
    let is_alert = |rule: &Rule| rule.alert_channel.pattern().matches(message.channel());
    context::origin() == Origin::Plugin && settings.rules.iter().any(is_alert)
}

/// What the message says that a rule cares for.
fn look(rule: &Rule) -> Result<Option<Sighting<'_>>, Refusal> {
    let device = match &rule.device {
        None => None,
        Some(pointer) => match device(pointer) {
            Some(device) => Some(device),
            None => return by_policy(rule, rule.missing, pointer, "is missing", None),
        },
    };
    match json::number(&rule.field) {
        Ok(Some(value)) => Ok(Some(Sighting {
            rule,
            level: level(rule, value),
            device,
        })),
        Ok(None) | Err(FieldError::NotJson(_) | FieldError::BadPointer(_)) => {
            by_policy(rule, rule.missing, &rule.field, "is missing", device)
        }
        Err(FieldError::WrongKind { .. }) => {
            let what = "is not a number";
            by_policy(rule, rule.not_a_number, &rule.field, what, device)
        }
    }
}

fn by_policy<'r>(
    rule: &'r Rule,
    policy: Policy,
    pointer: &str,
    what: &str,
    device: Option<String>,
) -> Result<Option<Sighting<'r>>, Refusal> {
    match policy {
        Policy::Ignore => Ok(None),
        Policy::Refuse => Err(Refusal::error(
            BAD_DATA_CODE,
            format!("`{pointer}` {what}, and `{}` needs it", rule.name),
        )),
        Policy::Alarm => Ok(Some(Sighting {
            rule,
            level: Level::Beyond,
            device,
        })),
    }
}

fn level(rule: &Rule, value: f64) -> Level {
    let (is_beyond, is_normal) = match rule.direction {
        Direction::Above => (value >= rule.high, value <= rule.low),
        Direction::Below => (value <= rule.low, value >= rule.high),
    };
    match (is_beyond, is_normal) {
        (true, _) => Level::Beyond,
        (false, true) => Level::Normal,
        (false, false) => Level::Between,
    }
}

/// A device's id: a text or a whole number.
fn device(pointer: &str) -> Option<String> {
    let id = match json::text(pointer) {
        Ok(id) => id,
        Err(_) => json::integer(pointer).ok()?.map(|id| id.to_string()),
    };
    id.filter(|id| (1..=MAX_DEVICE_BYTES).contains(&id.len()))
}

impl Configured for SensorAlerts {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(SensorAlerts: routing, settings);

#[cfg(test)]
mod tests;
