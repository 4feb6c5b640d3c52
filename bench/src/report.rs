//! Bars and what was found: the table on the screen and in `docs/performance.md`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The median, or 0 of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// One line of the table of bars.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bar {
    pub what: String,
    /// What was found, with its unit.
    pub found: String,
    /// What it may be at most, with its unit.
    pub bar: String,
    pub is_met: bool,
    /// How it was found: the two sides, the samples.
    pub how: String,
}

/// A bar that a figure with its unit must not be above.
pub fn at_most(what: &str, (found, bar, unit): (f64, f64, &str), how: String) -> Bar {
    Bar {
        what: what.to_owned(),
        found: format!("{} {unit}", figure(found)),
        bar: format!("≤ {} {unit}", figure(bar)),
        is_met: found <= bar,
        how,
    }
}

/// A bar that a figure with its unit must not be below.
pub fn at_least(what: &str, (found, bar, unit): (f64, f64, &str), how: String) -> Bar {
    Bar {
        what: what.to_owned(),
        found: format!("{} {unit}", figure(found)),
        bar: format!("≥ {} {unit}", figure(bar)),
        is_met: found >= bar,
        how,
    }
}

/// Three digits, and no more after the point than say something.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        _ => text,
    }
}

/// A report under way; also what one program leaves for another's report.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub bars: Vec<Bar>,
    /// Further sections: a title and Markdown text.
    pub sections: Vec<(String, String)>,
}

impl Report {
    /// Notes a bar and says so at once.
    pub fn add(&mut self, bar: Bar) -> String {
        let line = format!(
            "{} {}: {} (bar {}) — {}",
            if bar.is_met { "met   " } else { "MISSED" },
            bar.what,
            bar.found,
            bar.bar,
            bar.how
        );
        self.bars.push(bar);
        line
    }

    /// Puts what another program found behind what is here.
    pub fn append(&mut self, mut other: Self) {
        self.bars.append(&mut other.bars);
        self.sections.append(&mut other.sections);
    }

    pub fn missed(&self) -> usize {
        self.bars.iter().filter(|bar| !bar.is_met).count()
    }

    /// The bars, a line each.
    pub fn table(&self) -> String {
        let mut text = String::from("| What | Found | Bar | |\n|---|---|---|---|\n");
        for bar in &self.bars {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                bar.what,
                bar.found,
                bar.bar,
                if bar.is_met { "met" } else { "**missed**" }
            );
        }
        text
    }

    /// Leaves the report for another program's.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn leave(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What another program has left.
    ///
    /// # Errors
    /// When it has not, or something else.
    pub fn left(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no report", file.display()))
    }

    /// The whole document.
    pub fn markdown(&self, date: &str, machine: &str, load_before: f64, command: &str) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# Performance\n\nMeasured on {date} by `{command}`, which rewrites this page.\n\nMachine: {machine}.\n\
             Load average before the first sample: {load_before:.1}. Where it is not near 0, something else was running, and\n\
             absolute figures are too high; ratios are not.\n\n\
             Absolute figures move by up to twice between machines and hours; ratios hold. That is why the *ceiling* runs in\n\
             the same command, sample by sample in turn with Tidegate: a server of our own in `bench/` with the same socket\n\
             design and nothing else (no protocol, no channels, no identity, no limits). CPU is the server process's own,\n\
             per delivered message; both servers have one worker thread and the same allocator.\n\n"
        );
        text.push_str(&self.table());
        text.push_str("\nHow each line was found:\n\n");
        for bar in &self.bars {
            let _ = writeln!(text, "- {}: {}.", bar.what, bar.how);
        }
        for (title, body) in &self.sections {
            let _ = write!(text, "\n## {title}\n\n{}\n", body.trim_end());
        }
        text
    }
}

/// Today in UTC, from the seconds since 1970.
pub fn date(seconds: u64) -> String {
    // Days to civil date, after Howard Hinnant: eras of 400 years that begin in March.
    let days = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn figures_have_three_digits_and_their_side_of_the_bar() {
        let bar = at_most("a", (349.6, 350.0, "ns"), String::new());
        assert_eq!(
            (&*bar.found, &*bar.bar, bar.is_met),
            ("350 ns", "≤ 350 ns", true)
        );
        let bar = at_least("a", (1.799, 1.8, "x"), String::new());
        assert_eq!(
            (&*bar.found, &*bar.bar, bar.is_met),
            ("1.80 x", "≥ 1.80 x", false)
        );
        assert_eq!(
            at_most("a", (12.34, 12.0, "ms"), String::new()).found,
            "12.3 ms"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_219_200), "2026-11-21");
    }

    #[test]
    fn a_missed_bar_is_named_in_the_table() {
        let mut report = Report::default();
        let bar = |what: &str, is_met| Bar {
            what: what.into(),
            found: "2".into(),
            bar: "≤ 1".into(),
            is_met,
            how: "once".into(),
        };
        report.add(bar("good", true));
        report.add(bar("bad", false));
        assert_eq!(report.missed(), 1);
        assert!(
            report
                .markdown("d", "m", 0.5, "c")
                .contains("| bad | 2 | ≤ 1 | **missed** |")
        );
    }
}
