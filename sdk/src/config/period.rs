//! Lengths of time with their unit.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};

use super::BadSetting;

/// Names and milliseconds of the units, the longest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A length of time in the settings: a whole number and its unit, `250ms`, `30s`, `10m`, `2h` or `7d`; not zero.
///
/// ```
/// use std::time::Duration;
/// use tidegate_sdk::config::Period;
///
/// let period: Period = serde_json::from_str(r#""10m""#)?;
/// assert_eq!(period.duration(), Duration::from_secs(600));
/// let error = serde_json::from_str::<Period>("10").unwrap_err();
/// assert!(error.to_string().contains("such as \"30s\""));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// A period of so many seconds, for defaults.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub const fn from_secs(seconds: u64) -> Self {
        assert!(seconds > 0, "a period is not zero");
        Self(Duration::from_secs(seconds))
    }

    /// How long it is.
    pub fn duration(self) -> Duration {
        self.0
    }

    /// How many milliseconds it has, one at least.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// In the largest unit of which it is a whole number.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.millis();
        let (name, unit) = UNITS
            .into_iter()
            .find(|(_, unit)| millis.is_multiple_of(*unit))
            .unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / unit)
    }
}

impl FromStr for Period {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = UNITS.into_iter().find(|(name, _)| *name == unit);
        let millis = match (number.parse::<u64>(), unit) {
            (Ok(number), Some((_, millis))) => number.checked_mul(millis),
            (Ok(_) | Err(_), _) => None,
        };
        match millis {
            Some(0) => Err(BadSetting::new(format!("`{text}` is no time at all"))),
            Some(millis) => Ok(Self(Duration::from_millis(millis))),
            None => Err(BadSetting::new(format!(
                "`{text}` is not a period; write a whole number and a unit, such as \"250ms\", \"30s\", \"10m\", \"2h\" or \"7d\""
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a period in quotes, such as \"30s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written_again() {
        for (text, millis, again) in [
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("600s", 600_000, "10m"),
            ("10m", 600_000, "10m"),
            ("24h", 86_400_000, "1d"),
            ("7d", 604_800_000, "7d"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.millis(), millis, "{text}");
            assert_eq!(period.to_string(), again, "{text}");
        }
    }

    #[test]
    fn what_is_no_period_says_what_one_is() {
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "1w",
            "99999999999999999999s",
            "999999999999999d",
        ] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(
                error.to_string().contains("whole number and a unit"),
                "{error}"
            );
        }
        let error = "0s".parse::<Period>().unwrap_err();
        assert!(error.to_string().contains("no time at all"), "{error}");
    }
}
