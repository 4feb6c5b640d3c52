//! The judge: reads the record of a run and finds what was lost, doubled, reordered, forked or not said.
//!
//! Pure: no clock, no sockets, nothing from the server but what clients saw. The invariants are numbered as in
//! `docs/faults.md`. Invariant of the judge itself: a run that proves nothing does not pass.

mod figures;
mod leaves;
mod loss;
mod segments;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

pub use figures::Figures;
pub use leaves::LeavesBar;
use loss::acked_loss;
pub use loss::{AckedLoss, Forgotten};
use segments::Segment;

use crate::record::{Audit, Body, Event, Outcome, Record};

/// What a fault may do and what must come of it.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Fewer acked publishes than this prove nothing.
    pub least_acked: u64,
    pub acked_loss: AckedLoss,
    /// Fault to the first true signal.
    pub truth_within: Option<Duration>,
    /// Heal to every subscriber being served again.
    pub flow_within: Option<Duration>,
    /// These nodes cannot deliver from fault to heal, and have to say so within this time.
    pub unready: Option<Unready>,
    /// No subscriber is disconnected.
    pub connections_stay: bool,
    /// No publish is refused or left without an answer.
    pub publishes_succeed: bool,
    /// Every publish ends, with whatever answer.
    pub publish_within: Option<Duration>,
    pub recovery: Recovery,
    /// Those who were on a node that died leave so.
    pub leaves: Option<LeavesBar>,
}

/// Who has to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Streams may end, and with them what could be recovered.
    WherePossible,
    /// Everybody who asks; it may be that nobody has to.
    WhoeverAsks,
    /// Everybody who asks, and the fault makes some ask.
    SomeAndAll,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    pub nodes: Vec<usize>,
    pub within: Duration,
}

/// The invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1: no silent gaps.
    Gap,
    /// I2: one position, one content.
    Fork,
    /// I3: the order of a publisher.
    Order,
    /// I4: no duplicates.
    Duplicate,
    /// I5: nothing acked is lost.
    AckedLoss,
    /// I6: who lost something was told, once.
    Signal,
    /// I7: the truth in time.
    Truth,
    /// I8: flow in time.
    Flow,
    /// I9: readiness tells the truth.
    Health,
    /// I10: what nobody knows of is there once or not at all.
    Unknown,
    /// I11: who was on a node that died leaves once.
    Leave,
    /// The row's own: connections that must not end, recoveries that must succeed.
    Row,
    /// The run proves nothing.
    Vacuous,
}

/// One thing that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.invariant, self.what)
    }
}

/// What the judge found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    pub figures: Figures,
    pub violations: Vec<Violation>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether this invariant was broken.
    pub fn broke(&self, invariant: Invariant) -> bool {
        let mut violations = self.violations.iter();
        violations.any(|violation| violation.invariant == invariant)
    }

    fn add(&mut self, invariant: Invariant, what: String) {
        self.violations.push(Violation { invariant, what });
    }
}

/// A publisher and its sequence number.
type Id = (u32, u64);

fn id(body: &Body) -> Id {
    (body.publisher, body.sequence)
}

/// Judges a run.
pub fn check(record: &Record, expected: &Expectation) -> Verdict {
    let mut verdict = Verdict::default();
    let segments: Vec<Vec<Segment>> = record.subscribers.iter().map(segments::of).collect();
    count(record, &mut verdict.figures);
    gaps_and_duplicates(record, &segments, &mut verdict);
    forks(record, &segments, &mut verdict);
    order(record, &mut verdict);
    acked_loss(record, expected.acked_loss, &mut verdict);
    signals(record, &segments, &mut verdict);
    truth(record, expected, &mut verdict);
    flow(record, expected, &mut verdict);
    health(record, expected, &mut verdict);
    once_at_most(record, &mut verdict);
    if let (Some(leaves), Some(bar)) = (&record.leaves, expected.leaves) {
        leaves::judge(leaves, bar, &mut verdict);
    }
    row(record, expected, &mut verdict);
    vacuity(record, expected, &mut verdict);
    verdict
}

fn count(record: &Record, figures: &mut Figures) {
    figures.published = record.attempts.len() as u64;
    for attempt in &record.attempts {
        match attempt.outcome {
            Outcome::Acked { .. } => figures.acked += 1,
            Outcome::Refused { .. } => figures.refused += 1,
            Outcome::Unknown => figures.unknown += 1,
        }
    }
    for entry in record.subscribers.iter().flat_map(|log| &log.entries) {
        match &entry.event {
            Event::Publication { .. } => figures.delivered += 1,
            Event::Disconnected { .. } => figures.disconnects += 1,
            Event::Subscribed(result) => {
                figures.asked += u64::from(result.asked.is_some());
                match (result.was_recovering, result.recovered) {
                    (true, true) => figures.recovered += 1,
                    (true, false) => figures.not_recovered += 1,
                    (false, _) => {}
                }
            }
            Event::Unsubscribed { .. } | Event::Refused { .. } | Event::NotConnected { .. } => {}
        }
    }
}

/// I1 and I4 of subscribers: inside a segment offsets rise by exactly one, and at the end of the run everybody is at
/// the top of the stream.
fn gaps_and_duplicates(record: &Record, segments: &[Vec<Segment>], verdict: &mut Verdict) {
    let audits = audits(record);
    for (subscriber, (log, segments)) in record.subscribers.iter().zip(segments).enumerate() {
        let name =
            |what: String| format!("subscriber {subscriber}, channel {}: {what}", log.channel);
        for segment in segments {
            for gap in &segment.gaps {
                verdict.figures.silent_gaps += 1;
                verdict.add(Invariant::Gap, name(gap.clone()));
            }
            let mut seen = BTreeSet::new();
            for (offset, body) in &segment.publications {
                if !seen.insert(id(body)) {
                    verdict.figures.duplicates += 1;
                    let what = format!("{:?} twice, again at {offset}", id(body));
                    verdict.add(Invariant::Duplicate, name(what));
                }
            }
            for offset in &segment.repeated {
                verdict.figures.duplicates += 1;
                verdict.add(Invariant::Duplicate, name(format!("offset {offset} again")));
            }
        }
        let Some(audit) = audits.get(&log.channel) else {
            continue;
        };
        let end = segments
            .last()
            .map(|last| (last.epoch.as_str(), last.offset));
        let is_at_top = match end {
            Some((epoch, offset)) => {
                offset == audit.top && (epoch == audit.epoch || (epoch.is_empty() && offset == 0))
            }
            None => false,
        };
        if !is_at_top {
            verdict.figures.silent_gaps += 1;
            let what = format!(
                "ends at {end:?}, the stream at ({:?}, {})",
                audit.epoch, audit.top
            );
            verdict.add(Invariant::Gap, name(what));
        }
    }
    for audit in &record.audits {
        let mut expected = audit.entries.first().map_or(1, |(offset, _)| *offset);
        for (offset, _) in &audit.entries {
            if *offset != expected {
                verdict.figures.silent_gaps += 1;
                let what = format!(
                    "history of channel {}: {offset} where {expected} belongs",
                    audit.channel
                );
                verdict.add(Invariant::Gap, what);
            }
            expected = offset + 1;
        }
    }
}

fn audits(record: &Record) -> HashMap<u32, &Audit> {
    let audits = record.audits.iter();
    audits.map(|audit| (audit.channel, audit)).collect()
}

/// I2: what is at a position is the same for acks, subscribers and history.
fn forks(record: &Record, segments: &[Vec<Segment>], verdict: &mut Verdict) {
    let mut contents: HashMap<(u32, &str, u64), u64> = HashMap::new();
    let mut forked = BTreeSet::new();
    {
        let mut see = |channel: u32, epoch, offset: u64, hash: u64| {
            let first = *contents.entry((channel, epoch, offset)).or_insert(hash);
            if first != hash {
                forked.insert((channel, epoch, offset));
            }
        };
        for attempt in &record.attempts {
            if let Outcome::Acked { epoch, offset } = &attempt.outcome {
                see(attempt.channel, epoch, *offset, attempt.body.hash);
            }
        }
        for audit in &record.audits {
            for (offset, body) in &audit.entries {
                see(audit.channel, &audit.epoch, *offset, body.hash);
            }
        }
        for (log, segments) in record.subscribers.iter().zip(segments) {
            for segment in segments {
                for (offset, body) in &segment.publications {
                    see(log.channel, &segment.epoch, *offset, body.hash);
                }
            }
        }
    }
    for (channel, epoch, offset) in forked {
        verdict.figures.forks += 1;
        let what = format!("channel {channel} has two contents at {offset} of epoch {epoch:?}");
        verdict.add(Invariant::Fork, what);
    }
}

/// I3: what a publisher was told to be stored arrives, and is kept, in the order of its publishing. What it was not
/// told may have been stored late: it had gone on.
fn order(record: &Record, verdict: &mut Verdict) {
    let acked: BTreeSet<Id> = record
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.outcome, Outcome::Acked { .. }))
        .map(|attempt| id(&attempt.body))
        .collect();
    let disordered = |bodies: &mut dyn Iterator<Item = &Body>| {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut found = Vec::new();
        for body in bodies.filter(|body| acked.contains(&id(body))) {
            let before = last.insert(body.publisher, body.sequence);
            if before.is_some_and(|before| before > body.sequence) {
                found.push(id(body));
            }
        }
        found
    };
    for (subscriber, log) in record.subscribers.iter().enumerate() {
        let mut bodies = log.entries.iter().filter_map(|entry| match &entry.event {
            Event::Publication { body, .. } => Some(body),
            Event::Subscribed(_)
            | Event::Unsubscribed { .. }
            | Event::Refused { .. }
            | Event::Disconnected { .. }
            | Event::NotConnected { .. } => None,
        });
        for late in disordered(&mut bodies) {
            verdict.figures.disordered += 1;
            let what = format!("subscriber {subscriber} got {late:?} after a later one");
            verdict.add(Invariant::Order, what);
        }
    }
    for audit in &record.audits {
        for late in disordered(&mut audit.entries.iter().map(|(_, body)| body)) {
            verdict.figures.disordered += 1;
            let what = format!("history of channel {} has {late:?} late", audit.channel);
            verdict.add(Invariant::Order, what);
        }
    }
}

/// I6: who held a position in a stream that ended was told `recovered: false`, once for each stream that ended.
fn signals(record: &Record, segments: &[Vec<Segment>], verdict: &mut Verdict) {
    let audits = audits(record);
    for (subscriber, (log, segments)) in record.subscribers.iter().zip(segments).enumerate() {
        let positioned: Vec<&Segment> = segments
            .iter()
            .filter(|segment| !segment.epoch.is_empty())
            .collect();
        let Some(audit) = audits.get(&log.channel) else {
            continue;
        };
        let Some(first) = positioned.first() else {
            continue;
        };
        if first.epoch == audit.epoch {
            // Nothing ended; being told so nevertheless is a needless reload, not a lie.
            continue;
        }
        verdict.figures.affected += 1;
        let told = positioned[1..]
            .iter()
            .filter(|segment| segment.is_signalled);
        let told: Vec<&str> = told.map(|segment| segment.epoch.as_str()).collect();
        let distinct: BTreeSet<&str> = told.iter().copied().collect();
        if told.is_empty() || !distinct.contains(audit.epoch.as_str()) {
            let what = format!("subscriber {subscriber} lost its stream and was not told");
            verdict.add(Invariant::Signal, what);
        } else if told.len() != distinct.len() {
            let what = format!("subscriber {subscriber} was told more than once of one loss");
            verdict.add(Invariant::Signal, what);
        } else {
            verdict.figures.signalled += 1;
        }
    }
}

/// I7: from the fault to the first sign of it that anybody got: a refusal, an end, a resubscription.
fn truth(record: &Record, expected: &Expectation, verdict: &mut Verdict) {
    let refusals = record.attempts.iter().filter_map(|attempt| {
        let is_sign = !matches!(attempt.outcome, Outcome::Acked { .. });
        (is_sign && attempt.done_at >= record.fault_at).then_some(attempt.done_at)
    });
    let entries = record.subscribers.iter().flat_map(|log| &log.entries);
    let events = entries.filter_map(|entry| {
        let is_sign = match &entry.event {
            Event::Subscribed(result) => result.was_recovering,
            Event::Unsubscribed { .. } | Event::Refused { .. } | Event::Disconnected { .. } => true,
            Event::Publication { .. } | Event::NotConnected { .. } => false,
        };
        (is_sign && entry.at >= record.fault_at).then_some(entry.at)
    });
    let looks = record.health.iter().filter_map(|health| {
        (!health.is_ready && health.at >= record.fault_at).then_some(health.at)
    });
    let first = refusals.chain(events).chain(looks).min();
    verdict.figures.truth = first.map(|at| at - record.fault_at);
    let Some(bar) = expected.truth_within else {
        return;
    };
    match verdict.figures.truth {
        Some(took) if took <= bar => {}
        Some(took) => {
            let what = format!("the first sign came after {took:?}, the bar is {bar:?}");
            verdict.add(Invariant::Truth, what);
        }
        None => verdict.add(Invariant::Truth, "nobody was told anything".to_owned()),
    }
}

/// I8: from the heal to the first publication of after the heal, or the top of a stream that has none, for the last
/// of the subscribers.
fn flow(record: &Record, expected: &Expectation, verdict: &mut Verdict) {
    let channels_with_more: BTreeSet<u32> = record
        .attempts
        .iter()
        .filter(|attempt| {
            let is_acked = matches!(attempt.outcome, Outcome::Acked { .. });
            is_acked && attempt.body.sent_at >= record.healed_at
        })
        .map(|attempt| attempt.channel)
        .collect();
    let mut starved = 0;
    for log in &record.subscribers {
        if !channels_with_more.contains(&log.channel) {
            continue;
        }
        let fresh = log.entries.iter().find(|entry| match &entry.event {
            Event::Publication { body, .. } => body.sent_at >= record.healed_at,
            // A subscribe that begins at the top of a stream of after the heal has it as well.
            Event::Subscribed(result) => {
                entry.at >= record.healed_at && !(result.was_recovering && result.recovered)
            }
            Event::Unsubscribed { .. }
            | Event::Refused { .. }
            | Event::Disconnected { .. }
            | Event::NotConnected { .. } => false,
        });
        match fresh {
            Some(entry) => {
                let took = entry.at - record.healed_at;
                verdict.figures.flow = verdict.figures.flow.max(Some(took));
            }
            None => starved += 1,
        }
    }
    if starved > 0 {
        let what = format!("{starved} subscribers got nothing after the heal");
        verdict.add(Invariant::Flow, what);
    }
    if let (Some(bar), Some(took)) = (expected.flow_within, verdict.figures.flow)
        && took > bar
    {
        let what = format!("the last subscriber was served after {took:?}, the bar is {bar:?}");
        verdict.add(Invariant::Flow, what);
    }
}

/// I9: a node that cannot deliver says so in time, and a node that can does not say otherwise before the fault.
fn health(record: &Record, expected: &Expectation, verdict: &mut Verdict) {
    let Some(Unready { nodes, within }) = &expected.unready else {
        return;
    };
    for node in nodes {
        let mut looks = record.health.iter().filter(|look| look.node == *node);
        let first_no = looks
            .clone()
            .find(|look| look.at >= record.fault_at && !look.is_ready)
            .map(|look| look.at - record.fault_at);
        verdict.figures.unready = verdict.figures.unready.max(first_no);
        match first_no {
            Some(took) if took <= *within => {}
            Some(took) => {
                let what = format!("node {node} said after {took:?} that it cannot deliver");
                verdict.add(Invariant::Health, what);
            }
            None => {
                let what = format!("node {node} never said that it cannot deliver");
                verdict.add(Invariant::Health, what);
            }
        }
        let last = looks.next_back();
        if last.is_none_or(|last| !last.is_ready) {
            let what = format!("node {node} is not ready at the end");
            verdict.add(Invariant::Health, what);
        }
    }
}

/// I4 of history, and I10: everything that was tried is there once at most.
fn once_at_most(record: &Record, verdict: &mut Verdict) {
    let acked: BTreeSet<Id> = record
        .attempts
        .iter()
        .filter(|attempt| matches!(attempt.outcome, Outcome::Acked { .. }))
        .map(|attempt| id(&attempt.body))
        .collect();
    for audit in &record.audits {
        let mut seen = BTreeSet::new();
        for (offset, body) in &audit.entries {
            if seen.insert(id(body)) {
                continue;
            }
            verdict.figures.duplicates += 1;
            let invariant = match acked.contains(&id(body)) {
                true => Invariant::Duplicate,
                false => Invariant::Unknown,
            };
            let what = format!(
                "history of channel {} has {:?} twice, again at {offset}",
                audit.channel,
                id(body)
            );
            verdict.add(invariant, what);
        }
    }
}

fn row(record: &Record, expected: &Expectation, verdict: &mut Verdict) {
    if expected.connections_stay && verdict.figures.disconnects > 0 {
        let codes: BTreeSet<u16> = record
            .subscribers
            .iter()
            .flat_map(|log| &log.entries)
            .filter_map(|entry| match entry.event {
                Event::Disconnected { code } => Some(code),
                Event::Subscribed(_)
                | Event::Publication { .. }
                | Event::Unsubscribed { .. }
                | Event::Refused { .. }
                | Event::NotConnected { .. } => None,
            })
            .collect();
        let what = format!(
            "{} connections ended ({codes:?}) that had to stay",
            verdict.figures.disconnects
        );
        verdict.add(Invariant::Row, what);
    }
    let Figures {
        asked,
        recovered,
        refused,
        unknown,
        ..
    } = verdict.figures;
    if expected.publishes_succeed && refused + unknown > 0 {
        let what = format!("{refused} publishes were refused and {unknown} not answered");
        verdict.add(Invariant::Row, what);
    }
    if let Some(bar) = expected.publish_within {
        let times = record.attempts.iter();
        let longest = times.map(|attempt| attempt.done_at.saturating_sub(attempt.body.sent_at));
        let longest = longest.max().unwrap_or_default();
        if longest > bar {
            let what = format!("a publish took {longest:?}, {bar:?} is the bar");
            verdict.add(Invariant::Row, what);
        }
    }
    if expected.recovery != Recovery::WherePossible && recovered != asked {
        let what = format!("{recovered} of {asked} that asked recovered, and nothing was lost");
        verdict.add(Invariant::Row, what);
    }
    if expected.recovery == Recovery::SomeAndAll && asked == 0 {
        let what = "nobody asked to recover".to_owned();
        verdict.add(Invariant::Vacuous, what);
    }
}

/// A run without load, without effect or with an incomplete audit proves nothing.
fn vacuity(record: &Record, expected: &Expectation, verdict: &mut Verdict) {
    if verdict.figures.acked < expected.least_acked {
        let what = format!(
            "only {} acked publishes, {} are the least",
            verdict.figures.acked, expected.least_acked
        );
        verdict.add(Invariant::Vacuous, what);
    }
    if record.effects == 0 {
        verdict.add(Invariant::Vacuous, "the fault had no effect".to_owned());
    }
    if verdict.figures.delivered == 0 {
        verdict.add(Invariant::Vacuous, "nothing was delivered".to_owned());
    }
    let audited: BTreeSet<u32> = record.audits.iter().map(|audit| audit.channel).collect();
    let used: BTreeSet<u32> = record
        .attempts
        .iter()
        .map(|attempt| attempt.channel)
        .chain(record.subscribers.iter().map(|log| log.channel))
        .collect();
    for channel in used.difference(&audited) {
        let what = format!("channel {channel} was not audited");
        verdict.add(Invariant::Vacuous, what);
    }
    for audit in &record.audits {
        let may_be_cut = matches!(expected.acked_loss, AckedLoss::WithTheHistory(_));
        let is_whole = match (audit.entries.first(), audit.entries.last()) {
            (Some((first, _)), Some((last, _))) => {
                (may_be_cut || *first == 1) && *last == audit.top
            }
            (None, _) | (_, None) => audit.top == 0,
        };
        if !is_whole {
            let what = format!(
                "the audit of channel {} is not the whole stream of {}",
                audit.channel, audit.top
            );
            verdict.add(Invariant::Vacuous, what);
        }
    }
}
