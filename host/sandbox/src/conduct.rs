//! How a version conducts itself at a hook: its breaker and its lane, and what follows from changes of either.
//!
//! One per app, plugin, hook and version, shared by the bindings of the version there and by all workers; it
//! outlives changes of settings and ends with the version. Owns the text and the trace that clients get while
//! the breaker is open, and the count that sends a fresh version back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_realtime::ids::AppId;
use tokio::sync::mpsc;

use crate::{
    Runtime,
    binding::{Class, Hook},
    breaker::{Breaker, Opening, Permit, Strike},
    capabilities::clock::unix_millis,
    failure::{Failure, FailureKind},
    lane::{Lane, Move, Standing},
    logs::{LogCall, LogLevel},
    stories::Due,
};

/// Openings within [`PROBATION_MILLIS`] after a swap that send the version back.
const OPENINGS_UNTIL_RETURN: u32 = 3;
/// How long after a swap the former version is believed to be the better one.
const PROBATION_MILLIS: u64 = 600_000;
/// Calls that come near a limit are logged this often at most; all are counted.
const NOTE_MILLIS: u64 = 10_000;
/// How long clients share one trace id for the same reason. Stories would otherwise push each other out.
const SHARED_TRACE_MILLIS: u64 = 1_000;

/// A version that keeps failing since it took another's place. Whoever reads it should bring the former back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfitVersion {
    pub app: AppId,
    pub plugin: Arc<str>,
    pub hook: Hook,
    pub version: u32,
    /// The version that it replaced.
    pub former: u32,
    /// Why its breaker opened the last time, and the failure that did it.
    pub cause: String,
}

/// Where a sandbox reports unfit versions.
pub type UnfitSender = mpsc::Sender<UnfitVersion>;

/// Whose conduct it is.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) app: AppId,
    pub(crate) plugin: Arc<str>,
    pub(crate) hook: Hook,
    pub(crate) version: u32,
    pub(crate) class: Class,
}

/// A line about a subject.
macro_rules! line {
    ($level:ident, $subject:expr, $($rest:tt)+) => {{
        let Subject { app, plugin, hook, version, class: _ } = &$subject;
        tracing::$level!(%app, %plugin, version, hook = hook.as_str(), $($rest)+);
    }};
}

#[derive(Debug)]
pub(crate) struct Conduct {
    pub(crate) breaker: Breaker,
    pub(crate) standing: Standing,
    subject: Subject,
    /// The lower version that this one replaced, if it did. Going back is not watched: it has nowhere to go.
    former: Option<u32>,
    since_millis: u64,
    /// Set when the version was reported, which happens once.
    is_reported: AtomicBool,
    /// What a call gets while the breaker is open; written at each opening.
    shut: Mutex<Failure>,
    pub(crate) shared_trace: SharedTrace,
    /// Shared by the questions that found the queue of the aside lane full.
    pub(crate) queue_trace: SharedTrace,
    /// When a question that it was the first to be asked, or that it refused, is kept next.
    pub(crate) due: Due,
    /// When a call near its limits was last logged, plus one.
    noted_millis: AtomicU64,
    /// The second, from 1, in which a failure was last logged as a warning.
    warned_in: AtomicU64,
}

impl Conduct {
    pub(crate) fn new(subject: Subject, former: Option<u32>, now_millis: u64) -> Self {
        let version = subject.version;
        Self {
            breaker: Breaker::default(),
            standing: Standing::default(),
            subject,
            former: former.filter(|former| *former < version),
            since_millis: now_millis,
            is_reported: AtomicBool::new(false),
            shut: Mutex::new(Failure::new(FailureKind::BreakerOpen, "")),
            shared_trace: SharedTrace::default(),
            queue_trace: SharedTrace::default(),
            due: Due::default(),
            noted_millis: AtomicU64::new(0),
            warned_in: AtomicU64::new(0),
        }
    }

    /// That of a version which cannot run on this node: it is never called, and its callers get `problem`.
    pub(crate) fn not_ready(subject: Subject, problem: &str, now_millis: u64) -> Self {
        let text = format!("not called: this version cannot run on this node: {problem}");
        Self {
            breaker: Breaker::open_for_good(),
            shut: Mutex::new(Failure::new(FailureKind::BreakerOpen, &text)),
            ..Self::new(subject, None, now_millis)
        }
    }

    /// Leave to call the plugin; without it, the failure that stands for the call.
    #[inline]
    pub(crate) fn admit(&self, runtime: &Runtime) -> Result<Permit, Failure> {
        if self.breaker.is_clean() {
            return Ok(Permit::Plain);
        }
        self.admit_slowly(runtime)
    }

    #[cold]
    fn admit_slowly(&self, runtime: &Runtime) -> Result<Permit, Failure> {
        self.breaker
            .admit(runtime.clock.now_millis())
            .ok_or_else(|| self.shut_failure())
    }

    /// The failure that calls get while the breaker is open.
    pub(crate) fn shut_failure(&self) -> Failure {
        self.shut.lock().clone()
    }

    /// Whether a failure may be logged as a warning: one a second may. Its breaker speaks for the others.
    pub(crate) fn may_warn(&self, now_millis: u64) -> bool {
        let second = now_millis / 1_000 + 1;
        self.warned_in.swap(second, Ordering::Relaxed) != second
    }

    /// The call was answered, be it with a refusal.
    #[inline]
    pub(crate) fn succeeded(&self, permit: Permit) {
        if permit == Permit::Probe || !self.breaker.is_clean() {
            self.succeeded_slowly(permit);
        }
    }

    #[cold]
    fn succeeded_slowly(&self, permit: Permit) {
        if self.breaker.succeeded(permit) {
            line!(info, self.subject, "plugin breaker closed");
        }
    }

    /// The call failed so. Failures that are not the plugin's say nothing about it.
    #[cold]
    pub(crate) fn failed(&self, runtime: &Runtime, permit: Permit, failure: &Failure) {
        let now = runtime.clock.now_millis();
        let strike = match failure.kind {
            FailureKind::Timeout => Strike::Interrupt,
            FailureKind::Trap
            | FailureKind::Memory
            | FailureKind::BadValue
            | FailureKind::Limit
            | FailureKind::HostPanic => Strike::Other,
            FailureKind::NoSlot | FailureKind::BreakerOpen => {
                self.breaker.abandoned(permit, now);
                return;
            }
        };
        if strike == Strike::Interrupt {
            self.moved(self.standing.interrupted());
        }
        if let Some(opening) = self.breaker.failed(permit, strike, now) {
            self.opened(runtime, opening, &failure.detail, now);
        }
    }

    /// The call was not made after all.
    pub(crate) fn abandoned(&self, runtime: &Runtime, permit: Permit) {
        self.breaker.abandoned(permit, runtime.clock.now_millis());
    }

    /// Whether the version may be asked inline, or will not be called at all because its breaker is open.
    #[inline]
    pub(crate) fn is_inline(&self, runtime: &Runtime) -> bool {
        self.standing.is_inline() || self.is_shut(runtime)
    }

    /// Whether the breaker keeps the plugin from being called.
    #[inline]
    pub(crate) fn is_shut(&self, runtime: &Runtime) -> bool {
        !self.breaker.is_clean() && self.breaker.is_shut(runtime.clock.now_millis())
    }

    /// A call made aside took so much processor time.
    pub(crate) fn called_aside(&self, took: Duration) {
        self.moved(self.standing.called_aside(took));
    }

    /// A timed call made inline took so much time.
    pub(crate) fn called_inline(&self, took: Duration) {
        self.moved(self.standing.called_inline(took));
    }

    /// The call got at least half-way to its deadline.
    #[cold]
    pub(crate) fn was_slow(&self, runtime: &Runtime, took: Duration, deadline: Duration) {
        self.called_inline(took);
        let over = took.saturating_sub(deadline);
        if over.is_zero() {
            return;
        }
        let now = runtime.clock.now_millis();
        if let Some(opening) = self.breaker.overran(over, now) {
            self.opened(runtime, opening, "", now);
        }
    }

    /// Tells the author, now and then, that calls come near what they may use.
    #[cold]
    pub(crate) fn note_near(
        &self,
        runtime: &Runtime,
        limit: &'static str,
        percent: u128,
        input_bytes: usize,
    ) {
        let now = runtime.clock.now_millis() + 1;
        let before = self.noted_millis.load(Ordering::Relaxed);
        let is_due = before == 0 || now.saturating_sub(before) >= NOTE_MILLIS;
        let is_ours = is_due
            && self
                .noted_millis
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_ours {
            line!(
                warn,
                self.subject,
                limit,
                percent,
                input_bytes,
                "a plugin call came near a limit"
            );
            let message = format!(
                "a call used {percent} % of its {limit}; its input had {input_bytes} bytes"
            );
            self.note(runtime, &message);
        }
    }

    /// Tells the author in the plugin's own log.
    #[cold]
    fn note(&self, runtime: &Runtime, message: &str) {
        let Subject {
            app,
            plugin,
            hook,
            version,
            class: _,
        } = &self.subject;
        let call = LogCall::outside(Arc::clone(plugin), *version, *hook);
        let stamp = (unix_millis(), LogLevel::Warn);
        runtime.logs.note(app, call, stamp, message);
    }

    fn moved(&self, moved: Option<Move>) {
        let Some(moved) = moved else { return };
        let lane = match moved {
            Move::ToInline => Lane::Inline,
            Move::ToAside => Lane::Aside,
        };
        if !self.subject.hook.is_always_aside() {
            line!(
                info,
                self.subject,
                lane = lane.as_str(),
                "plugin changed its lane"
            );
        }
    }

    /// The lane of its calls.
    pub(crate) fn lane(&self) -> Lane {
        match self.subject.class {
            Class::Waiting => Lane::Waiting,
            Class::Immediate
                if self.standing.is_inline() && !self.subject.hook.is_always_aside() =>
            {
                Lane::Inline
            }
            Class::Immediate => Lane::Aside,
        }
    }

    fn opened(&self, runtime: &Runtime, opening: Opening, detail: &str, now: u64) {
        let cause = opening.cause;
        let seconds = opening.open_for.as_secs();
        runtime.metrics.count_opening();
        line!(
            warn,
            self.subject,
            %cause,
            seconds,
            detail,
            "plugin breaker opened; until it closes the binding's failure policy answers"
        );
        self.note(
            runtime,
            &format!("not called for {seconds} s: {cause}; its failure policy answers"),
        );
        let text = if detail.is_empty() {
            format!("not called: {cause}")
        } else {
            format!("not called: {cause}; the last failure was: {detail}")
        };
        *self.shut.lock() = Failure::new(FailureKind::BreakerOpen, &text);
        self.shared_trace.forget();
        self.report(runtime, opening, text, now);
    }

    fn report(&self, runtime: &Runtime, opening: Opening, cause: String, now: u64) {
        let (Some(former), Some(unfit)) = (self.former, &runtime.unfit) else {
            return;
        };
        let is_due = opening.count >= OPENINGS_UNTIL_RETURN
            && now.saturating_sub(self.since_millis) <= PROBATION_MILLIS;
        if !is_due || self.is_reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let Subject {
            app,
            plugin,
            hook,
            version,
            class: _,
        } = self.subject.clone();
        let report = UnfitVersion {
            app,
            plugin,
            hook,
            version,
            former,
            cause,
        };
        if unfit.try_send(report).is_err() {
            // Nobody reads, or too many failed at once: the next opening tries again.
            self.is_reported.store(false, Ordering::Relaxed);
        }
    }
}

/// A trace id that many clients get for the same reason, renewed once a second.
#[derive(Debug, Default)]
pub(crate) struct SharedTrace(Mutex<Option<(u64, Arc<str>)>>);

impl SharedTrace {
    /// The id that is shared now; `tell` makes one and keeps its story.
    pub(crate) fn get(&self, now_millis: u64, tell: impl FnOnce() -> Arc<str>) -> Arc<str> {
        let mut shared = self.0.lock();
        match &*shared {
            Some((since, trace_id)) if now_millis.saturating_sub(*since) < SHARED_TRACE_MILLIS => {
                Arc::clone(trace_id)
            }
            Some(_) | None => {
                let trace_id = tell();
                *shared = Some((now_millis, Arc::clone(&trace_id)));
                trace_id
            }
        }
    }

    fn forget(&self) {
        *self.0.lock() = None;
    }
}
