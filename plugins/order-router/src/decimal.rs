//! Decimal numbers without rounding.
//!
//! A number has at most 18 digits before and 18 behind its point, and never more than 18 in all, so that a product of
//! two fits the arithmetic. Negative numbers and exponents are not taken: no order has them.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Digits of a number that is read. Those of a product are twice as many, and `10^36` fits 128 bits.
const MAX_DIGITS: u32 = 18;

/// `digits` divided by ten to the `scale`; no zeros at the end of the fraction, so that equal numbers look equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal {
    /// Less than `10^36`.
    digits: u128,
    /// At most 36.
    scale: u32,
}

/// The text is not such a number; what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotDecimal(String);

impl Decimal {
    pub(crate) fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// The product, exactly. Both numbers were read, and are no products themselves.
    pub(crate) fn times(self, other: Self) -> Self {
        Self::normal(self.digits * other.digits, self.scale + other.scale)
    }

    /// Whether the number is a whole number of steps, which are not zero. Both were read.
    pub(crate) fn is_multiple_of(self, step: Self) -> bool {
        let scale = self.scale.max(step.scale);
        let at = |number: Self| number.digits * 10_u128.pow(scale - number.scale);
        at(self).is_multiple_of(at(step))
    }

    fn normal(mut digits: u128, mut scale: u32) -> Self {
        while scale > 0 && digits.is_multiple_of(10) {
            digits /= 10;
            scale -= 1;
        }
        Self { digits, scale }
    }

    /// What stands before the point, and what stands behind it as a number of `10^-36`.
    fn parts(self) -> (u128, u128) {
        let one = 10_u128.pow(self.scale);
        let fraction = (self.digits % one) * 10_u128.pow(2 * MAX_DIGITS - self.scale);
        (self.digits / one, fraction)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Decimal {
    type Err = NotDecimal;

    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        let wrong = |why: &str| Err(NotDecimal(format!("`{}` {why}", shown(text))));
        if text.starts_with('-') {
            return wrong("is negative");
        }
        if text.contains(['e', 'E']) {
            return wrong("has an exponent; write it out");
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return wrong("is not a decimal number");
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (Ok(num_whole), Ok(scale)) =
            (u32::try_from(whole.len()), u32::try_from(fraction.len()))
        else {
            return wrong("has too many digits");
        };
        if num_whole + scale > MAX_DIGITS {
            return wrong("has more than 18 digits");
        }
        let digits = format!("0{whole}{fraction}").parse().unwrap_or(0);
        Ok(Self { digits, scale })
    }
}

/// So much of what a client sent is repeated to it.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

impl fmt::Display for NotDecimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 0 {
            return write!(f, "{}", self.digits);
        }
        let one = 10_u128.pow(self.scale);
        let width = self.scale as usize;
        write!(f, "{}.{:0width$}", self.digits / one, self.digits % one)
    }
}

/// A JSON number, or a text with one: the digits as they were sent, never through a float.
impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = match raw.get().strip_prefix('"') {
            // A number has no characters that JSON escapes.
            Some(text) => text.strip_suffix('"').unwrap_or(text),
            None => raw.get(),
        };
        text.parse().map_err(D::Error::custom)
    }
}

/// As a text, which nobody reads as a float.
impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_read_from_json_without_a_float() {
        for (json, shown) in [
            ("1", "1"),
            ("0.1", "0.1"),
            ("\"0.10\"", "0.1"),
            ("1.000", "1"),
            ("100", "100"),
            ("0", "0"),
            ("\"0000000000000000000000007\"", "7"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("123456789012345678", "123456789012345678"),
            ("9007199254740993.1", "9007199254740993.1"),
        ] {
            let read: Decimal = serde_json::from_str(json).unwrap();
            assert_eq!(read.to_string(), shown, "{json}");
        }
    }

    #[test]
    fn what_is_no_such_number_is_told() {
        for (json, says) in [
            ("-1", "`-1` is negative"),
            ("1e3", "`1e3` has an exponent"),
            ("\"\"", "is not a decimal number"),
            ("\"1.\"", "is not a decimal number"),
            ("\".5\"", "is not a decimal number"),
            ("\"1,5\"", "is not a decimal number"),
            ("\"\u{661}\"", "is not a decimal number"),
            ("\"+1\"", "is not a decimal number"),
            ("null", "is not a decimal number"),
            ("[1]", "is not a decimal number"),
            ("1234567890123456789", "has more than 18 digits"),
            ("0.1234567890123456789", "has more than 18 digits"),
        ] {
            let error = serde_json::from_str::<Decimal>(json).unwrap_err();
            assert!(error.to_string().contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn arithmetic_is_exact_where_floats_are_not() {
        assert_eq!(decimal("0.1").times(decimal("3")), decimal("0.3"));
        let most = decimal("999999999999999999");
        assert_eq!(
            most.times(most).to_string(),
            "999999999999999998000000000000000001"
        );
        let least = decimal("0.000000000000000001");
        assert!(least.times(least) > decimal("0"));
        assert!(least.times(least) < least);
        assert!(most.times(most) > most);
        assert!(decimal("0.3").is_multiple_of(decimal("0.1")));
        assert!(!decimal("0.35").is_multiple_of(decimal("0.1")));
        assert!(most.is_multiple_of(least));
        assert!(decimal("0").is_multiple_of(most));
        assert!(decimal("100").is_multiple_of(decimal("25")));
    }

    proptest! {
        #[test]
        fn order_and_products_are_those_of_whole_numbers(a in 0_u64..1_000_000_000, b in 0_u64..1_000_000_000, c in 0_u64..1_000_000) {
            // The same numbers in millionths.
            let small = |n: u64| decimal(&format!("{}.{:06}", n / 1_000_000, n % 1_000_000));
            prop_assert_eq!(small(a).cmp(&small(b)), a.cmp(&b));
            prop_assert_eq!(small(a).times(decimal(&c.to_string())), small_of(u128::from(a) * u128::from(c)));
            if c > 0 {
                prop_assert_eq!(small(a).is_multiple_of(small(c)), a % c == 0);
            }
        }

        #[test]
        fn what_is_written_reads_back(text in "[0-9]{1,9}\\.[0-9]{1,9}") {
            let read = decimal(&text);
            prop_assert_eq!(decimal(&read.to_string()), read);
        }

        #[test]
        fn no_text_is_too_odd(text in any::<String>()) {
            drop(text.parse::<Decimal>());
        }
    }

    fn small_of(millionths: u128) -> Decimal {
        Decimal::normal(millionths, 6)
    }
}
