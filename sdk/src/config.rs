//! The settings that the operator gave this binding of the plugin.
//!
//! ```
//! use serde::Deserialize;
//! use tidegate_sdk::{Filtering, Message, Refusal, config, filtering::Verdict, testing::Host};
//!
//! #[derive(Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Settings {
//!     max_bytes: usize,
//! }
//!
//! impl Default for Settings {
//!     fn default() -> Self {
//!         Self { max_bytes: 4096 }
//!     }
//! }
//!
//! struct Sized;
//!
//! impl Filtering for Sized {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         let settings = config::settings::<Settings>();
//!         if message.data().len() > settings.max_bytes {
//!             return Err(Refusal::error(413, "the message is too long"));
//!         }
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new().config(serde_json::json!({ "max_bytes": 4 }));
//! assert!(host.filter::<Sized>("room", "12345").is_err());
//! assert!(host.filter::<Sized>("room", "1234").is_ok());
//! ```

//!
//! [`Pattern`], [`Period`] and [`Template`] are settings that many plugins have: `sensors:*`, `10m`,
//! `alerts:{channel}`. They check themselves while they are read. What needs a look at several settings together is
//! checked by `#[serde(try_from = "RawSettings")]`, so that a `Settings` that exists is one that can be used:
//!
//! ```
//! use serde::Deserialize;
//! use tidegate_sdk::config::{BadSetting, Period, Template};
//!
//! #[derive(Deserialize)]
//! #[serde(try_from = "RawSettings")]
//! struct Settings {
//!     alerts: Template,
//!     every: Period,
//! }
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct RawSettings {
//!     alerts: Template,
//!     every: Period,
//! }
//!
//! impl TryFrom<RawSettings> for Settings {
//!     type Error = BadSetting;
//!
//!     fn try_from(RawSettings { alerts, every }: RawSettings) -> Result<Self, BadSetting> {
//!         alerts.allow(&["channel"]).map_err(|error| error.at("alerts"))?;
//!         Ok(Self { alerts, every })
//!     }
//! }
//!
//! let bad = r#"{"alerts": "alerts:{chan}", "every": "10m"}"#;
//! let error = serde_json::from_str::<Settings>(bad).err().unwrap();
//! assert!(error.to_string().starts_with("`alerts`: `{chan}` in `alerts:{chan}` is not known"));
//! ```

mod pattern;
mod period;
mod template;

use std::{any::Any, cell::RefCell, fmt, rc::Rc, str::FromStr};

use serde::de::{Deserialize as _, DeserializeOwned, Deserializer, Error as _};

use crate::host;

pub use self::{pattern::Pattern, period::Period, template::Template};

/// One setting is not what it may be; the text says what is wrong and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting(String);

impl BadSetting {
    /// What is wrong, and what to do.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Says at which setting: `` `rules[2].field`: … ``.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self(format!("`{place}`: {}", self.0))
    }
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSetting {}

/// Reads a setting that is written as a text: what a type of yours that parses one has in its `Deserialize`.
///
/// ```
/// use std::str::FromStr;
///
/// use serde::{Deserialize, Deserializer};
/// use tidegate_sdk::config::{BadSetting, from_text};
///
/// struct Weekday(usize);
///
/// impl FromStr for Weekday {
///     type Err = BadSetting;
///
///     fn from_str(text: &str) -> Result<Self, BadSetting> {
///         let day = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].iter().position(|day| *day == text);
///         let day = day.ok_or_else(|| BadSetting::new(format!("`{text}` is no day; write `mon`, `tue`, …")))?;
///         Ok(Self(day))
///     }
/// }
///
/// impl<'de> Deserialize<'de> for Weekday {
///     fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
///         from_text(deserializer)
///     }
/// }
///
/// assert_eq!(serde_json::from_str::<Weekday>("\"wed\"").unwrap().0, 2);
/// assert!(serde_json::from_str::<Weekday>("\"noon\"").is_err());
/// ```
///
/// # Errors
///
/// When it is no text, or one that does not parse.
pub fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err = BadSetting>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// The settings are not what the plugin takes.
#[derive(Debug)]
pub struct ConfigError(serde_json::Error);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the settings of this binding are not what the plugin takes: {}; bind it again with better ones",
            self.0
        )
    }
}

impl std::error::Error for ConfigError {}

thread_local! {
    /// Settings that were parsed before, one per type. An instance sees one text only, so they stay right.
    static PARSED: RefCell<Vec<Rc<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// The settings as JSON text; `{}` when none were given.
pub fn text() -> String {
    host::config()
}

/// Parses the settings anew.
///
/// # Errors
///
/// When they are not a `T`. The text of the error names the place.
pub fn parse<T: DeserializeOwned>() -> Result<T, ConfigError> {
    serde_json::from_str(&text()).map_err(ConfigError)
}

/// The settings, parsed at the first call of an instance and remembered.
///
/// # Panics
///
/// When they are not a `T`. The hook call then fails, which is the safe thing to do: the client gets error 100
/// with a trace id, and the plugin's log says what is wrong with the settings.
pub fn settings<T: DeserializeOwned + 'static>() -> Rc<T> {
    let known = PARSED.with_borrow(|parsed| {
        parsed
            .iter()
            .find_map(|settings| Rc::clone(settings).downcast::<T>().ok())
    });
    if let Some(settings) = known {
        return settings;
    }
    match parse::<T>() {
        Ok(settings) => {
            let settings = Rc::new(settings);
            PARSED.with_borrow_mut(|parsed| parsed.push(Rc::clone(&settings) as Rc<dyn Any>));
            settings
        }
        Err(error) => panic!("{error}"),
    }
}

/// Forgets what was parsed: the test kit's next call is one of a new instance.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn forget() {
    PARSED.take();
}
