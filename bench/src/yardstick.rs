//! The ceiling as a process of its own, beside which a server is measured.
//!
//! Absolute figures move by up to twice between machines and hours. What the ceiling costs in the same minute says how
//! much of a figure is the machine's.

use std::process::Command;

use anyhow::{Context, Result};

use crate::load::{Pace, Plan, Rig, RigConfig};
use crate::run::Run;
use crate::subject::Subject;
use crate::template::Template;

/// Bytes of a publication's data, and of the ceiling's whole message.
pub const PUBLICATION_BYTES: usize = 140;

/// CPU for each delivery of `axum-hyblean` in the table of sockets by which the bars were set: 1,000 subscribers of
/// frames of 140 bytes, one publication under way, one worker thread. The ceiling has the same design.
const NANOS_WHERE_BARS_WERE_SET: f64 = 2_600.0;

/// Starts the ceiling with so many groups of subscribers; its program stands beside this one.
///
/// # Errors
/// When it is not built.
pub fn start(groups: usize) -> Result<Subject> {
    let program = std::env::current_exe()
        .context("where am I?")?
        .with_file_name("ceiling");
    let groups = groups.to_string();
    Subject::start(Command::new(program).args(["--workers", "1", "--groups", &groups]))
}

/// Subscribers of the ceiling, which groups them itself.
pub fn rig(subject: &Subject, subscribers: usize) -> RigConfig {
    RigConfig {
        address: subject.client,
        server_pid: subject.pid(),
        subscriber_path: "/ws".into(),
        subscriber_script: Vec::new(),
        subscribers,
        groups: 1,
        publisher: Some(("/pub".into(), Vec::new())),
        publishers: vec![subject.client],
        beside: Vec::new(),
        delivery_prefix: "{".into(),
    }
}

/// How slow this machine is at sockets right now, beside the one on which the bars were set.
#[derive(Debug, Clone, Copy)]
pub struct Slowness {
    /// CPU of the ceiling for each delivery.
    nanos: f64,
}

impl Slowness {
    /// Has the ceiling deliver for two seconds.
    ///
    /// # Errors
    /// When it cannot be started or driven.
    pub fn measure(run: &Run) -> Result<Self> {
        let subject = start(1)?;
        let subscribers = 1_000;
        let sample = Rig::open(rig(&subject, subscribers))?.measure(&Plan {
            message: Template::new(&Template::data(PUBLICATION_BYTES)),
            pace: Pace::Window(1),
            deliveries_per_publication: subscribers as u64,
            warmup: run.seconds(0.5),
            time: run.seconds(2.0),
        })?;
        Ok(Self {
            nanos: sample.server_ns_per_delivery,
        })
    }

    /// A multiple of the other machine.
    pub fn factor(self) -> f64 {
        self.nanos / NANOS_WHERE_BARS_WERE_SET
    }
}

impl std::fmt::Display for Slowness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the ceiling took {:.0} ns of CPU for each delivery in the same minutes, {:.1} times what the same design took \
             where the bars were set ({NANOS_WHERE_BARS_WERE_SET:.0} ns)",
            self.nanos,
            self.factor()
        )
    }
}
