//! What plugins cost, measured in this process through the sandbox alone: a call, an instance's life, a swap, an
//! upload, memory; and beside them a hook over loopback HTTP.
//!
//! The guests are those of the sandbox's tests, in WebAssembly text, so that the figures are the host's; where the
//! guest's own work counts it is one of `bench/guests`.

pub mod calls;
pub mod http_hook;
pub mod life;

#[path = "../../host/sandbox/tests/sandbox/guests.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "made for tests; the bench needs a few of them"
)]
pub(crate) mod guests;

use std::{sync::Arc, time::Instant};

use tidegate_realtime::hooks::{Draft, FilteringVerdict, Hooks, Outcome, Progress};
use tidegate_sandbox::{Hook, Isolation, Sandbox};

use crate::histogram::Histogram;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Calls of a kind that takes less than two microseconds.
    pub quick_calls: u32,
    /// Calls of a kind that takes longer.
    pub slow_calls: u32,
}

impl Effort {
    pub const FULL: Self = Self {
        quick_calls: 1_000_000,
        slow_calls: 50_000,
    };
    /// To see that it works, not to believe.
    pub const QUICK: Self = Self {
        quick_calls: 20_000,
        slow_calls: 1_000,
    };
}

/// The guest that lets everything pass, as an upload.
pub fn lean_guest() -> Vec<u8> {
    guests::filtering(guests::PASS)
}

/// An order of about `len` bytes, for guests that parse.
pub fn order(len: usize) -> Vec<u8> {
    let item = r#"{"name":"bolt M8 x 40, zinc plated","price":12.25,"count":40}"#;
    let count = (len / (item.len() + 1)).max(1);
    format!(
        r#"{{"type":"buy","items":[{}]}}"#,
        vec![item; count].join(",")
    )
    .into_bytes()
}

/// Calls of one filtering plugin, one after the other: a passed message is the next one's input, so that making
/// messages is not measured.
#[derive(Debug)]
pub struct Filter {
    sandbox: Arc<Sandbox>,
    held: Option<Box<Draft>>,
}

impl Filter {
    /// Binds the upload in a sandbox of its own and lets it earn the inline lane.
    pub fn new(upload: &[u8], isolation: Isolation, data: &[u8]) -> Self {
        let sandbox = guests::sandbox();
        let compiled = guests::compile(&sandbox, upload);
        let mut binding = guests::binding(&compiled, Hook::Filtering);
        binding.isolation = isolation;
        guests::bind(&sandbox, vec![binding]);
        let mut filter = Self::of(&sandbox, data);
        filter.warm(data);
        filter
    }

    /// Another caller of the same plugin, for another thread.
    pub fn of(sandbox: &Arc<Sandbox>, data: &[u8]) -> Self {
        Self {
            sandbox: Arc::clone(sandbox),
            held: Some(guests::draft("room", data)),
        }
    }

    /// The same with this tag on its message.
    pub fn tagged(mut self, key: &str, value: &str) -> Self {
        if let Some(draft) = &mut self.held {
            draft.tags.push((key.into(), value.into()));
        }
        self
    }

    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// A fresh version runs on threads of its own until it has earned the session's worker.
    fn warm(&mut self, data: &[u8]) {
        while matches!(
            self.sandbox.filter(guests::draft("room", data)),
            Progress::Pending(_)
        ) {
            for _ in 0..100 {
                let _ = guests::ready(self.sandbox.filter(guests::draft("room", data)));
            }
        }
    }

    /// One call.
    ///
    /// # Panics
    /// When the plugin did not let the message pass: then something else would be measured.
    #[inline]
    pub fn call(&mut self) {
        let draft = self.held.take().expect("the last call gave it back");
        let answer = match self.sandbox.filter(draft) {
            Progress::Ready(answer) => answer,
            // On a machine that is busy with something else a version may lose its lane for a while; the time of
            // its calls tells.
            pending @ Progress::Pending(_) => guests::ready(pending),
        };
        match answer {
            Ok(Outcome {
                verdict: FilteringVerdict::Pass(draft),
                ..
            }) => self.held = Some(draft),
            Err(failure) => panic!(
                "a message that should pass did not: {:?}",
                self.sandbox.explain(&failure.trace_id)
            ),
            other => panic!("a message that should pass did not: {other:?}"),
        }
    }
}

/// Times each of `calls` calls, without what taking the time costs.
pub fn each(calls: u32, mut call: impl FnMut()) -> Histogram {
    let own = own_cost();
    let mut found = Histogram::default();
    for _ in 0..calls {
        let before = Instant::now();
        call();
        found.add(nanos(before).saturating_sub(own));
    }
    found
}

/// The median of timing nothing.
fn own_cost() -> u64 {
    let mut found = Histogram::default();
    for _ in 0..10_000 {
        let before = Instant::now();
        found.add(nanos(before));
    }
    found.quantile(0.5)
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
