//! The one line that a run prints.

use std::{fmt, time::Duration};

/// Counts of a run, and how long the truth and the flow took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub published: u64,
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
    pub delivered: u64,
    pub silent_gaps: u64,
    pub forks: u64,
    pub disordered: u64,
    pub duplicates: u64,
    pub acked_lost: u64,
    /// Subscribers whose stream ended.
    pub affected: u64,
    /// Those of them that were told, once.
    pub signalled: u64,
    pub disconnects: u64,
    /// Subscribes that asked to recover, and were answered with a result.
    pub asked: u64,
    pub recovered: u64,
    pub not_recovered: u64,
    /// Fault to the first sign of it.
    pub truth: Option<Duration>,
    /// Heal to the last subscriber being served.
    pub flow: Option<Duration>,
    /// Fault to the last of the affected nodes saying that it is not ready.
    pub unready: Option<Duration>,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |took: Option<Duration>| {
            took.map_or_else(
                || "-".to_owned(),
                |took| format!("{:.1}s", took.as_secs_f64()),
            )
        };
        let Self {
            published,
            acked,
            refused,
            unknown,
            delivered,
            silent_gaps,
            forks,
            disordered,
            duplicates,
            acked_lost,
            affected,
            signalled,
            disconnects,
            asked,
            recovered,
            not_recovered,
            truth,
            flow,
            unready,
        } = self;
        write!(
            formatter,
            "published={published} acked={acked} refused={refused} unknown={unknown} delivered={delivered} \
             silent_gaps={silent_gaps} forks={forks} disorder={disordered} dup={duplicates} acked_lost={acked_lost} \
             signalled={signalled}/{affected} disconnects={disconnects} asked={asked} recovered={recovered} \
             not_recovered={not_recovered} truth={} flow={} unready={}",
            seconds(*truth),
            seconds(*flow),
            seconds(*unready)
        )
    }
}
