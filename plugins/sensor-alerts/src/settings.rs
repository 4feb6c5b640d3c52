//! What the operator sets.

use serde::Deserialize;
use tidegate_sdk::config::{BadSetting, Pattern, Period, Template};

/// Each rule asks the node up to ten things; a call may ask a hundred, of `state` thirty-two.
const MAX_RULES: usize = 8;

/// Names are part of keys and alerts.
const MAX_NAME_BYTES: usize = 64;

/// The node reads no longer pointers.
const MAX_POINTER_BYTES: usize = 256;

/// What an alarm is remembered for unless a rule says otherwise.
const DEFAULT_REMEMBER: Period = Period::from_secs(24 * 60 * 60);

/// The node remembers nothing for longer.
const MAX_REMEMBER: Period = Period::from_secs(7 * 24 * 60 * 60);

/// The settings, checked.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawSettings")]
pub(crate) struct Settings {
    /// One at least.
    pub(crate) rules: Vec<Rule>,
}

/// When an alarm begins and ends, and who hears of it.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Channels that it watches.
    pub(crate) channels: Pattern,
    /// JSON pointer to the value.
    pub(crate) field: String,
    /// JSON pointer to the id of who measured; alarms are per channel without it.
    pub(crate) device: Option<String>,
    pub(crate) direction: Direction,
    /// More than `low`.
    pub(crate) high: f64,
    pub(crate) low: f64,
    pub(crate) alert_channel: Template,
    pub(crate) missing: Policy,
    pub(crate) not_a_number: Policy,
    pub(crate) remember: Period,
}

/// Which values are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// Those of `high` and above; `low` and below is normal again.
    #[default]
    Above,
    /// Those of `low` and below; `high` and above is normal again.
    Below,
}

/// What becomes of a message without a number to judge by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Policy {
    /// The rule is not for it.
    #[default]
    Ignore,
    /// It is refused.
    Refuse,
    /// It counts as a bad value.
    Alarm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    channels: Option<Pattern>,
    field: String,
    device: Option<String>,
    #[serde(default)]
    direction: Direction,
    high: f64,
    low: f64,
    alert_channel: Template,
    #[serde(default)]
    missing: Policy,
    #[serde(default)]
    not_a_number: Policy,
    remember: Option<Period>,
}

impl TryFrom<RawSettings> for Settings {
    type Error = BadSetting;

    fn try_from(RawSettings { rules }: RawSettings) -> Result<Self, BadSetting> {
        if !(1..=MAX_RULES).contains(&rules.len()) {
            let error = format!(
                "there are {} of them; a binding has 1 to {MAX_RULES}, and a plugin several bindings",
                rules.len()
            );
            return Err(BadSetting::new(error).at("rules"));
        }
        for (nth, rule) in rules.iter().enumerate() {
            if rules[..nth].iter().any(|before| before.name == rule.name) {
                let error = BadSetting::new(format!("two rules are called `{}`", rule.name));
                return Err(error.at(format_args!("rules[{nth}].name")));
            }
        }
        let rules = rules.into_iter().enumerate();
        let rules = rules.map(|(nth, rule)| {
            rule.check()
                .map_err(|error| error.at(format_args!("rules[{nth}]")))
        });
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

impl RawRule {
    fn check(self) -> Result<Rule, BadSetting> {
        let Self {
            name,
            channels,
            field,
            device,
            direction,
            high,
            low,
            alert_channel,
            missing,
            not_a_number,
            remember,
        } = self;
        if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
            let error = format!("a name has 1 to {MAX_NAME_BYTES} bytes, not {}", name.len());
            return Err(BadSetting::new(error).at("name"));
        }
        check_pointer(&field).map_err(|error| error.at("field"))?;
        if let Some(device) = &device {
            check_pointer(device).map_err(|error| error.at("device"))?;
        }
        if low >= high {
            return Err(BadSetting::new(format!(
                "`low` ({low}) is not less than `high` ({high}); the distance between them keeps an alarm from flickering"
            )));
        }
        let places: &[&str] = match device {
            Some(_) => &["channel", "device", "rule"],
            None => &["channel", "rule"],
        };
        alert_channel
            .allow(places)
            .map_err(|error| error.at("alert_channel"))?;
        let remember = remember.unwrap_or(DEFAULT_REMEMBER);
        if remember > MAX_REMEMBER {
            let error = format!(
                "{remember} is longer than {MAX_REMEMBER}, the most that the node remembers"
            );
            return Err(BadSetting::new(error).at("remember"));
        }
        Ok(Rule {
            name,
            channels: channels.unwrap_or_else(Pattern::any),
            field,
            device,
            direction,
            high,
            low,
            alert_channel,
            missing,
            not_a_number,
            remember,
        })
    }
}

/// RFC 6901: empty, or segments that begin with `/`, in which `~` is followed by `0` or `1`.
fn check_pointer(pointer: &str) -> Result<(), BadSetting> {
    let is_begun = pointer.is_empty() || pointer.starts_with('/');
    let mut escapes = pointer.split('~').skip(1);
    let is_escaped = escapes.all(|after| after.starts_with(['0', '1']));
    if is_begun && is_escaped && pointer.len() <= MAX_POINTER_BYTES {
        return Ok(());
    }
    Err(BadSetting::new(format!(
        "`{pointer}` is not a JSON pointer of at most {MAX_POINTER_BYTES} bytes; write one such as \"/readings/temperature\""
    )))
}
