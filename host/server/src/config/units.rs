//! Text with units: durations as the reference writes them (`"1m30s"`) and sizes (`"64KiB"`).
//!
//! Pure parsing and printing. Invariant: what [`format_duration`] and [`format_size`] print, the parsers read back.

use std::time::Duration;

/// Longest duration accepted anywhere: the protocol's greatest time to live.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads `"1h2m3s"`, `"250ms"`, `"1.5s"`, `"0"`.
///
/// # Errors
/// A sentence that says what is wrong and what to write.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let wrong = || {
        format!(
            "`{text}` is not a duration; write a number with a unit, for example \"25s\", \"1m30s\" or \"250ms\""
        )
    };
    if text.is_empty() {
        return Err(wrong());
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .ok_or_else(|| {
                format!("`{text}` has no unit; write \"{text}s\" if you mean seconds")
            })?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail
            .find(|char: char| char.is_ascii_digit() || char == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => {
                return Err(format!(
                    "`{text}`: days are not a unit here; write hours, for example \"24h\""
                ));
            }
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    if total > MAX_DURATION {
        return Err(format!(
            "`{text}` is longer than a year; use at most \"8784h\""
        ));
    }
    Ok(total)
}

/// Prints a duration in the form that [`parse_duration`] reads: `"1m30s"`.
pub fn format_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    let nanos = duration.subsec_nanos();
    if nanos != 0 {
        return match nanos {
            n if n % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
            n if n % 1_000 == 0 => format!("{}us", duration.as_micros()),
            _ => format!("{}ns", duration.as_nanos()),
        };
    }
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

/// Reads `"64KiB"`, `"4MiB"`, `"65536"`.
///
/// # Errors
/// A sentence that says what is wrong and what to write.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "`{text}` is not a size; write bytes or a binary unit, for example 65536, \"64KiB\" or \"4MiB\""
        )
    };
    let digits = text
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" | "kB" | "K" | "k" => {
            return Err(format!(
                "`{text}`: the unit is ambiguous; write \"{number}KiB\" for 1024s"
            ));
        }
        "MB" | "M" | "GB" | "G" => {
            return Err(format!(
                "`{text}`: the unit is ambiguous; write \"MiB\" or \"GiB\""
            ));
        }
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Prints a size in the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_duration(text: &str, millis: u64) {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }

    #[test]
    fn durations_of_the_reference_are_read() {
        check_duration("25s", 25_000);
        check_duration("1m0s", 60_000);
        check_duration("720h0m0s", 720 * 3_600_000);
        check_duration("250ms", 250);
        check_duration("1.5s", 1_500);
        check_duration("0", 0);
        check_duration("0s", 0);
        check_duration(" 10s ", 10_000);
    }

    #[test]
    fn a_duration_without_a_unit_says_what_to_write() {
        assert!(parse_duration("25").unwrap_err().contains("\"25s\""));
        assert!(parse_duration("").unwrap_err().contains("\"25s\""));
        assert!(parse_duration("5 apples").is_err());
        assert!(parse_duration("-5s").is_err());
        assert!(parse_duration("1d").unwrap_err().contains("24h"));
        assert!(parse_duration("99999h").unwrap_err().contains("year"));
        assert!(parse_duration("1e400s").is_err());
    }

    #[test]
    fn printed_durations_are_read_back() {
        for millis in [
            0, 1, 250, 999, 1_000, 1_500, 60_000, 90_000, 3_600_000, 3_661_000,
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("4 MiB"), Ok(4 << 20));
        assert!(parse_size("64KB").unwrap_err().contains("64KiB"));
        assert!(parse_size("many").is_err());
        assert!(parse_size("99999999999GiB").is_err());
        assert_eq!(format_size(65_536), "64KiB");
        assert_eq!(format_size(65_537), "65537");
        assert_eq!(format_size(0), "0");
    }
}
