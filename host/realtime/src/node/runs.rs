//! What plugins do by the clock, and what came of the last runs, on whatever node they were.
//!
//! Each node knows what it did itself and that another one did the rest; so all are asked, and of each period the run
//! that says most is shown.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Node;
use crate::{
    cluster::{NodeUid, Query, Reply},
    hooks::Progress,
    ids::AppId,
    schedule::{LastRun, Planned, RunOutcome},
};

/// Plugin and name of the period.
type PeriodName = (String, String);

/// A run that was due, and the node that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPlace {
    pub plugin: String,
    pub period: String,
    /// The uid of the node.
    pub node: String,
    pub node_name: String,
    /// The moment for which it ran, in Unix milliseconds.
    pub due_ms: u64,
    /// The word of a [`RunOutcome`].
    pub outcome: String,
    /// Of a run that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Of a run that has ended there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl RunPlace {
    /// Whether it says more of its period than another one: newer runs do, then what ran itself.
    fn says_more_than(&self, other: &Self) -> bool {
        let weight = |run: &Self| (run.due_ms, run.outcome != RunOutcome::Elsewhere.as_str());
        weight(self) > weight(other)
    }
}

/// A period of a plugin, when it is due next and what came of its last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodFound {
    pub planned: Planned,
    pub last: Option<RunPlace>,
}

/// The schedule of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleFound {
    pub periods: Vec<PeriodFound>,
    /// Nodes that did not answer; runs of theirs are not known.
    pub silent_nodes: Vec<String>,
}

impl Node {
    /// What the app's plugins do by the clock. Of nodes that cannot be asked nothing is known but that they are there.
    pub fn scheduled_runs(self: &Arc<Self>, id: &AppId) -> Progress<ScheduleFound> {
        let planned = self.schedule().list(id.as_str());
        let own = self.own_runs(id);
        let Some(cluster) = self.cluster().filter(|_| !planned.is_empty()) else {
            return Progress::Ready(found(planned, own, &[]));
        };
        let surveyed = cluster.survey(id, Query::Runs);
        let cluster = Arc::clone(cluster);
        surveyed.map(move |surveyed| match surveyed {
            Ok(surveyed) => {
                let replies = surveyed.replies.into_iter().flat_map(|(_, parts)| parts);
                let theirs = replies.filter_map(|reply| match reply {
                    Reply::Runs(runs) => Some(runs),
                    Reply::Done | Reply::Channels(_) | Reply::Sessions(_) | Reply::Unknown => None,
                });
                let runs = own.into_iter().chain(theirs.flatten()).collect();
                found(planned, runs, &surveyed.silent)
            }
            Err(error) => {
                tracing::debug!(%error, "the other nodes could not be asked for their runs");
                let silent = cluster.others().into_iter().map(|node| node.uid);
                found(planned, own, &silent.collect::<Vec<_>>())
            }
        })
    }

    /// The last runs of an app's periods, as this node knows them.
    pub(super) fn own_runs(&self, id: &AppId) -> Vec<RunPlace> {
        let planned = self.schedule().list(id.as_str()).into_iter();
        planned
            .filter_map(|planned| self.run_place(planned))
            .collect()
    }

    fn run_place(&self, planned: Planned) -> Option<RunPlace> {
        let LastRun {
            due_ms,
            outcome,
            took,
        } = planned.last?;
        Some(RunPlace {
            plugin: planned.plugin.as_ref().to_owned(),
            period: planned.period.as_ref().to_owned(),
            node: self.uid().to_owned(),
            node_name: self.parts.name.clone(),
            due_ms,
            outcome: outcome.as_str().to_owned(),
            trace: match outcome {
                RunOutcome::Failed { trace_id } => Some(trace_id.as_ref().to_owned()),
                RunOutcome::Running
                | RunOutcome::Done
                | RunOutcome::Unpublished
                | RunOutcome::Elsewhere
                | RunOutcome::Unknown
                | RunOutcome::LeftOut => None,
            },
            took_ms: took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

fn found(planned: Vec<Planned>, runs: Vec<RunPlace>, silent: &[NodeUid]) -> ScheduleFound {
    let mut last: BTreeMap<PeriodName, RunPlace> = BTreeMap::new();
    for run in runs {
        let name = (run.plugin.clone(), run.period.clone());
        match last.get(&name) {
            Some(known) if !run.says_more_than(known) => {}
            Some(_) | None => {
                last.insert(name, run);
            }
        }
    }
    let periods = planned.into_iter().map(|planned| {
        let name = (planned.plugin.to_string(), planned.period.to_string());
        let last = last.remove(&name);
        PeriodFound { planned, last }
    });
    ScheduleFound {
        periods: periods.collect(),
        silent_nodes: silent.iter().map(NodeUid::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_node_that_ran_says_more_than_those_that_know_of_it_and_the_newest_run_counts() {
        let run = |node: &str, due_ms, outcome: RunOutcome| RunPlace {
            plugin: "gong".into(),
            period: "hour".into(),
            node: node.into(),
            node_name: node.into(),
            due_ms,
            outcome: outcome.as_str().into(),
            trace: None,
            took_ms: None,
        };
        let last = |runs: Vec<RunPlace>| {
            let planned = Planned {
                plugin: "gong".into(),
                period: "hour".into(),
                every: Duration::from_secs(3_600),
                next_ms: 9,
                last: None,
            };
            let mut found = found(vec![planned], runs, &[]);
            found.periods.remove(0).last.map(|run| run.node)
        };
        assert_eq!(last(Vec::new()), None);
        let (done, elsewhere) = (RunOutcome::Done, RunOutcome::Elsewhere);
        for runs in [
            vec![run("a", 5, done.clone()), run("b", 5, elsewhere.clone())],
            vec![run("b", 5, elsewhere.clone()), run("a", 5, done.clone())],
            vec![run("b", 4, done.clone()), run("a", 5, done)],
        ] {
            assert_eq!(last(runs).as_deref(), Some("a"));
        }
        // Who ran it is there no more.
        assert_eq!(last(vec![run("b", 5, elsewhere)]).as_deref(), Some("b"));
    }
}
