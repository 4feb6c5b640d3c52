//! A run of a program that measures: how long, and the report that it fills and ends with.
#![expect(clippy::print_stdout, reason = "its programs' result is their output")]

use std::{process::ExitCode, time::Duration};

use crate::report::{Bar, Report};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    Full,
    /// A tenth of everything: to see that it works, not to believe.
    Quick,
}

impl Thoroughness {
    /// As the option `--quick` says.
    pub fn of_option(is_quick: bool) -> Self {
        if is_quick { Self::Quick } else { Self::Full }
    }

    /// So much, or what is enough for a quick run.
    pub fn or<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Run {
    pub thoroughness: Thoroughness,
    pub report: Report,
}

impl Run {
    pub fn new(thoroughness: Thoroughness) -> Self {
        Self {
            thoroughness,
            report: Report::default(),
        }
    }

    /// How long to measure what takes so many seconds.
    pub fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(self.thoroughness.or(seconds, seconds / 10.0))
    }

    /// Notes a bar and says so.
    pub fn add(&mut self, bar: Bar) {
        println!("    {}", self.report.add(bar));
    }

    /// Says how many bars were missed, which is what the program ends with.
    pub fn finish(&self) -> ExitCode {
        let missed = self.report.missed();
        println!("{} bars, {missed} missed", self.report.bars.len());
        if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
