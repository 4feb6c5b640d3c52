//! `schedule`: running by the clock.

use std::time::{Duration, SystemTime};

use crate::{Trouble, bindings::schedule::exports::tidegate::plugin::schedule as wit, panics};

/// Runs by the clock, each time on one node of the cluster.
///
/// A period of a minute comes at each full minute of the wall clock (UTC), one of an hour at each full hour. Runs that
/// were missed are not made up for and one that fails is not repeated; the next comes at its time.
///
/// ```
/// use tidegate_sdk::{
///     Schedule, Trouble, plugin, publishing, schedule::{Period, Run}, testing::Host,
/// };
///
/// struct Gong;
///
/// impl Schedule for Gong {
///     const PERIODS: &'static [Period] = &[Period::new("hour", 3_600), Period::new("tick", 5)];
///
///     fn run(run: Run) -> Result<(), Trouble> {
///         if run.period() == "hour" {
///             publishing::publish("news", br#""gong""#)?;
///         }
///         Ok(())
///     }
/// }
///
/// plugin!(Gong: schedule);
///
/// let mut host = Host::new();
/// host.run_period::<Gong>("hour").unwrap();
/// assert_eq!(host.publications()[0].channel, "news");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is listed with the hook `schedule` but does not implement `Schedule`",
    label = "needs `impl tidegate_sdk::Schedule for {Self}`",
    note = "write `const PERIODS: &'static [schedule::Period]` and `fn run(run: schedule::Run) -> Result<(), Trouble>` in it, or take `schedule` out of `plugin!`"
)]
pub trait Schedule {
    /// When the plugin wants to run; 1 to 16 periods with different names.
    const PERIODS: &'static [Period];

    /// Does what is due, in 1 s unless the operator says otherwise.
    ///
    /// # Errors
    ///
    /// [`Trouble`] says why it could not be done; nothing that the call queued takes place.
    fn run(run: Run) -> Result<(), Trouble>;
}

/// How often a plugin wants to run, and what it calls that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    name: &'static str,
    every_seconds: u32,
}

impl Period {
    /// `name` is 1 to 64 characters of `a-z`, `0-9` and `-`; a period is 1 second to 31 days (2,678,400).
    pub const fn new(name: &'static str, every_seconds: u32) -> Self {
        Self {
            name,
            every_seconds,
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How often it comes.
    pub const fn every(&self) -> Duration {
        Duration::from_secs(self.every_seconds as u64)
    }
}

/// A run that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    period: String,
    due_ms: u64,
}

impl Run {
    pub(crate) fn new(period: String, due_ms: u64) -> Self {
        Self { period, due_ms }
    }

    /// The name of the period.
    pub fn period(&self) -> &str {
        &self.period
    }

    /// The moment for which it runs: a multiple of the period, in milliseconds since 1970.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// The moment for which it runs.
    pub fn due(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.due_ms)
    }
}

impl<P: Schedule> wit::Guest for P {
    fn periods() -> Vec<wit::Period> {
        let periods = P::PERIODS.iter().map(|period| wit::Period {
            name: period.name.to_owned(),
            every_seconds: period.every_seconds,
        });
        periods.collect()
    }

    fn run(period: String, due_ms: u64) -> Result<(), String> {
        panics::report();
        P::run(Run::new(period, due_ms)).map_err(Trouble::into_reason)
    }
}
