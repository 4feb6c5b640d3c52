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
    /// From the ack of the oldest of them to the fault; zero for one that was acked later.
    pub lost_before: Option<Duration>,
    /// From the fault to the sending of the youngest of them; zero for one that was sent earlier.
    pub lost_after: Option<Duration>,
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
            lost_before,
            lost_after,
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
        // Rounded up: what is lost is never nothing.
        let lost_percent = (acked_lost * 100).div_ceil((*acked).max(1));
        write!(
            formatter,
            "published={published} acked={acked} refused={refused} unknown={unknown} delivered={delivered} \
             silent_gaps={silent_gaps} forks={forks} disorder={disordered} dup={duplicates} acked_lost={acked_lost} \
             lost_before={} lost_after={} lost_share={lost_percent}% \
             signalled={signalled}/{affected} disconnects={disconnects} asked={asked} recovered={recovered} \
             not_recovered={not_recovered} truth={} flow={} unready={}",
            seconds(*lost_before),
            seconds(*lost_after),
            seconds(*truth),
            seconds(*flow),
            seconds(*unready)
        )
    }
}
