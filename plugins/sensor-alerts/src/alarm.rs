//! Alarms: whether there is one, and telling of its beginning and end.
//!
//! An alarm is a key in `state` that holds when it began. Whoever puts it there tells that it began, whoever takes it
//! away tells that it is over, and the node lets only one do either. If `state` cannot be used, nobody knows, and every
//! bad value is told: an alert too many is better than none.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_sdk::{
    json, log, publishing,
    state::{self, StateError},
};

use crate::{
    Level,
    settings::{Direction, Rule},
};

/// Longer values, which are no measurements, are not repeated in alerts.
const MAX_VALUE_BYTES: usize = 256;

/// A value that a rule has an opinion on.
#[derive(Debug)]
pub(crate) struct Sighting<'r> {
    pub(crate) rule: &'r Rule,
    pub(crate) level: Level,
    pub(crate) device: Option<String>,
}

/// What `state` keeps of an alarm.
#[derive(Serialize, Deserialize)]
struct Alarm {
    /// Milliseconds since 1970 UTC.
    since: u64,
}

/// What the alert channel hears.
#[derive(Serialize)]
struct Alert<'a> {
    alert: &'a str,
    state: Change,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    field: &'a str,
    /// As it was sent; `null` if there is none, or it is long.
    value: Option<Box<RawValue>>,
    /// The threshold that was crossed.
    threshold: f64,
    at: u64,
    since: u64,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Change {
    Entered,
    Recovered,
}

/// Remembers what was seen, and tells it if that is news.
pub(crate) fn tell(sighting: &Sighting<'_>, channel: &str, now: u64) {
    let Sighting {
        rule,
        level,
        device,
    } = sighting;
    let key = state::key(&[&rule.name, channel, device.as_deref().unwrap_or("")]);
    match change(rule, *level, &key, now) {
        Ok(None) => {}
        Ok(Some((change, since))) => {
            let is_told = publish(sighting, channel, (change, since, now));
            // The next bad value tries again.
            if !is_told && change == Change::Entered && state::delete(&key).is_err() {
                log::error!(
                    "alarm `{}` of {channel} counts as told and was not",
                    rule.name
                );
            }
        }
        Err(error) => {
            log::warn!("alarm `{}` cannot be remembered: {error}", rule.name);
            if *level == Level::Beyond {
                publish(sighting, channel, (Change::Entered, now, now));
            }
        }
    }
}

/// What is new, and since when there is or was an alarm.
fn change(
    rule: &Rule,
    level: Level,
    key: &str,
    now: u64,
) -> Result<Option<(Change, u64)>, StateError> {
    let remember = rule.remember.duration();
    let Some(held) = state::get(key)? else {
        if level != Level::Beyond {
            return Ok(None);
        }
        let is_first = state::compare_and_set(key, None, &written(now), remember)?;
        return Ok(is_first.then_some((Change::Entered, now)));
    };
    match level {
        Level::Normal => {
            let since = serde_json::from_slice(&held).map_or(now, |Alarm { since }| since);
            let is_first = state::delete(key)?;
            Ok(is_first.then_some((Change::Recovered, since)))
        }
        // An alarm that goes on is not forgotten. If that fails somebody has just ended or prolonged it.
        Level::Beyond | Level::Between => {
            if state::time_left(key)?.is_some_and(|left| left < remember / 2) {
                state::compare_and_set(key, Some(&held), &held, remember)?;
            }
            Ok(None)
        }
    }
}

fn written(since: u64) -> Vec<u8> {
    format!(r#"{{"since":{since}}}"#).into_bytes()
}

fn publish(
    Sighting { rule, device, .. }: &Sighting<'_>,
    channel: &str,
    (change, since, at): (Change, u64, u64),
) -> bool {
    let value = json::raw(&rule.field).ok().flatten();
    let value = value.filter(|value| value.len() <= MAX_VALUE_BYTES);
    let value = value.and_then(|value| serde_json::from_slice(&value).ok());
    let alert = Alert {
        alert: &rule.name,
        state: change,
        channel,
        device: device.as_deref(),
        field: &rule.field,
        value,
        threshold: match (rule.direction, change) {
            (Direction::Above, Change::Entered) | (Direction::Below, Change::Recovered) => {
                rule.high
            }
            (Direction::Above, Change::Recovered) | (Direction::Below, Change::Entered) => rule.low,
        },
        at,
        since,
    };
    let device = plain(device.as_deref().unwrap_or(""));
    let places = [
        ("channel", channel),
        ("device", &device),
        ("rule", &rule.name),
    ];
    let alert_channel = rule.alert_channel.fill(&places);
    match publishing::publish_json(&alert_channel, &alert) {
        Ok(()) => true,
        Err(error) => {
            log::error!(
                "alarm `{}` was not told to {alert_channel}: {error}",
                rule.name
            );
            false
        }
    }
}

/// A device's id as part of a channel's name: whoever sends it must not choose the channel by it.
fn plain(id: &str) -> String {
    let is_plain = |char: &char| char.is_ascii_alphanumeric() || "-_.".contains(*char);
    id.chars()
        .map(|char| if is_plain(&char) { char } else { '_' })
        .collect()
}
