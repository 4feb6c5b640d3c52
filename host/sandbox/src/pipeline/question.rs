//! A question on its way through a pipeline: who answered what, and the story of it when somebody will ask.

use std::{mem, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tidegate_realtime::{
    hooks::{Effect, HookFailure, Outcome, Peer, Refusal},
    ids::AppId,
};
use wasmtime::Store;

use super::Asker;
use crate::{
    Runtime,
    binding::{FailurePolicy, Hook},
    call::{Called, NotBegun, Seated, begin, call},
    capabilities::{
        clock::unix_millis,
        log::{CallLog, LINE_BYTES},
    },
    convert::DISCONNECT_REASON_BYTES,
    failure::{Failure, FailureKind, escaped},
    guest::{Facts, GuestState, Input, Left},
    instance::Export,
    instances::Stage,
    lane::Turn,
    logs::{LogCall, LogLevel, Speaker},
    metrics::CallEnd,
    slots,
    stories::{Measured, StepEnd, Story, StoryStep, new_trace_id},
    unit::Unit,
    verdict::Verdict,
};

/// A question that no plugin was asked, because it found no place on the aside lane.
pub(crate) struct Unasked {
    pub(crate) app: AppId,
    pub(crate) hook: Hook,
    /// Channel or method.
    pub(crate) subject: Arc<str>,
    /// The plugin that would have been asked first.
    pub(crate) first: Option<Arc<Unit>>,
}

impl Unasked {
    /// The story of it, under an id that questions refused in the same second share.
    pub(crate) fn tell(&self, runtime: &Runtime, detail: &str) -> Arc<str> {
        let Self {
            app,
            hook,
            subject,
            first,
        } = self;
        let tell = || {
            let failure = Failure::new(FailureKind::NoSlot, detail);
            let trace_id = new_trace_id();
            if let Some(unit) = first {
                let call = log_call(unit, subject, Arc::clone(&trace_id));
                note_failure(runtime, unit, call, &failure);
            }
            let step = first.as_ref().map(|unit| StoryStep {
                plugin: Arc::clone(&unit.plugin),
                version: unit.version,
                ended: StepEnd::Failed {
                    kind: failure.kind,
                    detail: failure.detail,
                    log: CallLog::default().into_tail(),
                    frames: failure.frames,
                    is_passed_over: false,
                },
                reason: None,
                measured: None,
            });
            let steps = step.into_iter().collect();
            let story = Story::new(Arc::clone(&trace_id), app, *hook, (subject, ""), steps);
            runtime.stories.keep(story);
            trace_id
        };
        match first {
            Some(unit) => {
                slots::count(runtime, unit, CallEnd::Failed(FailureKind::NoSlot));
                let now = runtime.clock.now_millis();
                unit.conduct.queue_trace.get(now, tell)
            }
            None => tell(),
        }
    }
}

/// A question on its way through a pipeline.
pub(super) struct Question<'a> {
    runtime: &'a Runtime,
    /// Loses its charge at the first call: each plugin has its own deadline, the wait counts against one.
    turn: Turn,
    app: &'a AppId,
    hook: Hook,
    /// Channel or method, for the story.
    subject: &'a Arc<str>,
    /// Who answered what so far.
    steps: SmallVec<[Asked<'a>; 2]>,
    /// Of the call that failed, until its step is written.
    measured: Option<Box<Measured>>,
    /// Whether any of the calls was timed: aside all are, inline those that were drawn. Only then a question that
    /// went well may have its story kept, so that the others need not read a clock to find out.
    is_timed: bool,
    /// Why a plugin refused.
    reason: Option<Arc<str>>,
    /// Whose command it is about.
    peer: Option<&'a Arc<Peer>>,
    /// There from the moment that a guest logs, asks for it or fails.
    trace_id: Option<Arc<str>>,
    /// Whether a guest asked for the id, or failed and was passed over. What was logged leads to no story.
    is_story_wanted: bool,
    pub(super) effects: Vec<Effect>,
}

/// A plugin, what came of asking it, and what that took.
type Asked<'a> = (&'a Arc<Unit>, Step, Option<Box<Measured>>);

enum Step {
    Answered(Verdict),
    /// Boxed, since it seldom is.
    Failed(Box<(Failure, CallLog)>),
}

impl Step {
    fn failed(failure: Failure, log: CallLog) -> Self {
        Self::Failed(Box::new((failure, log)))
    }
}

impl<'a> Question<'a> {
    /// A question about `subject`, and whose command it is about.
    pub(super) fn new(
        asker: Asker<'a>,
        (app, hook, subject): (&'a AppId, Hook, &'a Arc<str>),
        peer: Option<&'a Arc<Peer>>,
    ) -> Self {
        Self {
            runtime: asker.runtime,
            turn: asker.turn,
            app,
            hook,
            subject,
            steps: SmallVec::new(),
            measured: None,
            is_timed: false,
            reason: None,
            peer,
            trace_id: None,
            is_story_wanted: false,
            effects: Vec::new(),
        }
    }

    /// Prepares a call. Only the first of a question may be told that there is no room: the others are asked
    /// where the first was.
    #[inline]
    pub(super) fn begin(&mut self, unit: &Arc<Unit>) -> Result<Seated, NotBegun> {
        let stage = if self.steps.is_empty() {
            Stage::First
        } else {
            Stage::UnderWay
        };
        let turn = self.turn;
        if let Turn::Aside { charged, .. } = &mut self.turn {
            *charged = Duration::ZERO;
        }
        begin(self.runtime, unit, turn, stage)
    }

    pub(super) fn call<V>(
        &mut self,
        (unit, seated): (&'a Arc<Unit>, Seated),
        (facts, input): (Facts, Input),
        ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
        verdict: impl Fn(&V) -> Verdict,
    ) -> Called<V> {
        let mut called = call(
            (self.runtime, self.turn),
            (unit, seated),
            (facts, input, self.trace_id.take()),
            ask,
            &verdict,
        );
        if let Some(left) = &mut called.left {
            self.trace_id = left.trace_id.take();
            self.is_story_wanted |= left.is_story_wanted;
            if !left.log.is_empty() {
                self.keep_lines(unit, &mut left.log, called.result.is_ok());
            }
        }
        self.is_timed |= called.measured.is_some();
        match &called.result {
            Ok(answer) => {
                let step = Step::Answered(verdict(answer));
                self.steps.push((unit, step, called.measured.take()));
            }
            Err(_) => self.measured = called.measured.take(),
        }
        called
    }

    /// Calls a hook that has no open policy.
    pub(super) fn ask_closed<V>(
        &mut self,
        unit: &'a Arc<Unit>,
        (facts, input): (Facts, Input),
        ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
        verdict: impl Fn(&V) -> Verdict,
    ) -> Result<V, HookFailure> {
        let seated = match self.begin(unit) {
            Ok(seated) => seated,
            Err(NotBegun::Failed(failure)) => {
                return Err(self.failed(unit, &failure, CallLog::default()));
            }
            // These hooks are asked aside, where a call waits for room; but an answer is owed in any case.
            Err(NotBegun::NoRoom) => {
                let failure = Failure::new(FailureKind::NoSlot, "no instance could be had");
                return Err(self.failed(unit, &failure, CallLog::default()));
            }
        };
        let called = self.call((unit, seated), (facts, input), ask, verdict);
        match called.result {
            Ok(answer) => {
                if let Some(mut left) = called.left {
                    self.effects.append(&mut left.queued);
                }
                Ok(answer)
            }
            Err(failure) => Err(self.failed(unit, &failure, Left::log(called.left))),
        }
    }

    pub(super) fn answered<V>(self, verdict: V) -> Outcome<V> {
        Outcome {
            verdict,
            effects: self.into_effects(),
        }
    }

    /// What the plugins want done, now that all of them have answered.
    #[inline]
    pub(super) fn into_effects(mut self) -> Vec<Effect> {
        if self.is_story_wanted || self.is_timed && self.is_due() {
            self.tell();
        }
        mem::take(&mut self.effects)
    }

    /// Whether it is time for a story of what went well.
    #[cold]
    fn is_due(&self) -> bool {
        let Self { runtime, steps, .. } = self;
        steps.first().is_some_and(|(unit, ..)| {
            let now = runtime.clock.now_millis();
            runtime.stories.is_success_due(&unit.conduct.due, now)
        })
    }

    /// The refusal as the client may see it.
    pub(super) fn refused(mut self, unit: &Unit, refusal: Refusal) -> Refusal {
        let Self { runtime, .. } = self;
        let now = runtime.clock.now_millis();
        let is_due = runtime.stories.is_refusal_due(&unit.conduct.due, now);
        let mut trace = String::new();
        if is_due || self.is_story_wanted || runtime.trace_in_refusals {
            self.reason = Some(describe(&refusal));
            let trace_id = self.tell();
            if runtime.trace_in_refusals {
                trace = format!(" (trace {trace_id})");
            }
        }
        let name = if runtime.name_in_errors {
            format!("{}@{}: ", unit.plugin, unit.version)
        } else {
            String::new()
        };
        dressed(refusal, &name, &trace)
    }

    /// The plugin says that it could not. Its instance is as good as before, its effects do not happen.
    #[cold]
    pub(super) fn troubled(mut self, unit: &'a Arc<Unit>, reason: String) -> HookFailure {
        let reason = escaped(reason, LINE_BYTES);
        self.reason = Some(reason.as_str().into());
        let trace_id = self.tell();
        let call = self.log_call(unit, Arc::clone(&trace_id));
        let text = format!("the plugin could not do it: {reason}");
        let now = unix_millis();
        let line = unit
            .log
            .urgent_line(now, LogLevel::Error, Speaker::Node(None), text.into());
        self.runtime
            .logs
            .write(&unit.log, &Arc::new(call), vec![line]);
        HookFailure::new(trace_id)
    }

    #[cold]
    pub(super) fn failed(
        &mut self,
        unit: &'a Arc<Unit>,
        failure: &Failure,
        log: CallLog,
    ) -> HookFailure {
        let step = Step::failed(failure.clone(), log);
        self.steps.push((unit, step, self.measured.take()));
        if failure.kind == FailureKind::BreakerOpen {
            let now = self.runtime.clock.now_millis();
            let trace_id = unit.conduct.shared_trace.get(now, || self.tell());
            return HookFailure::new(trace_id);
        }
        let trace_id = self.tell();
        self.log(unit, failure, &trace_id);
        HookFailure::new(trace_id)
    }

    #[cold]
    pub(super) fn passed_over(&mut self, unit: &'a Arc<Unit>, failure: Failure, log: CallLog) {
        slots::count(self.runtime, unit, CallEnd::PassedOver);
        // An open breaker was told when it opened; a story for each message would push that one out.
        if failure.kind != FailureKind::BreakerOpen {
            let trace_id = Arc::clone(self.trace_id.get_or_insert_with(new_trace_id));
            self.log(unit, &failure, &trace_id);
            self.is_story_wanted = true;
        }
        let step = Step::failed(failure, log);
        self.steps.push((unit, step, self.measured.take()));
    }

    /// Puts what the plugin said into its log.
    #[cold]
    fn keep_lines(&mut self, unit: &Unit, log: &mut CallLog, is_answered: bool) {
        let said = if is_answered {
            mem::take(log).said()
        } else {
            // The story wants them, too.
            log.said_by_failed(&unit.log)
        };
        let trace_id = Arc::clone(self.trace_id.get_or_insert_with(new_trace_id));
        let call = Arc::new(self.log_call(unit, trace_id));
        self.runtime.logs.write(&unit.log, &call, said);
    }

    /// What the lines about a call have in common.
    fn log_call(&self, unit: &Unit, trace_id: Arc<str>) -> LogCall {
        log_call(unit, self.subject, trace_id).of_peer(self.peer)
    }

    /// Leads from the logs to the story. What the plugin said itself is in its own lines.
    fn log(&self, unit: &Unit, failure: &Failure, trace_id: &Arc<str>) {
        let call = self.log_call(unit, Arc::clone(trace_id));
        note_failure(self.runtime, unit, call, failure);
        let trace_id = &**trace_id;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    app = %self.app, plugin = %unit.plugin, version = unit.version, hook = self.hook.as_str(),
                    trace_id, kind = failure.kind.as_str(), detail = %failure.detail,
                    "plugin call failed"
                )
            };
        }
        if unit.conduct.may_warn(self.runtime.clock.now_millis()) {
            line!(warn);
        } else {
            line!(debug);
        }
    }

    /// Keeps the story so far and answers its id.
    #[cold]
    fn tell(&mut self) -> Arc<str> {
        let trace_id = Arc::clone(self.trace_id.get_or_insert_with(new_trace_id));
        let mut steps: Vec<_> = self
            .steps
            .drain(..)
            .map(|(unit, step, measured)| StoryStep {
                plugin: Arc::clone(&unit.plugin),
                version: unit.version,
                ended: match step {
                    Step::Answered(verdict) => StepEnd::Answered(verdict.as_str()),
                    Step::Failed(failed) => {
                        let (failure, log) = *failed;
                        StepEnd::Failed {
                            kind: failure.kind,
                            detail: failure.detail,
                            log: log.into_tail(),
                            frames: failure.frames,
                            is_passed_over: unit.failure_policy == FailurePolicy::Open,
                        }
                    }
                },
                reason: None,
                measured: measured.map(|measured| *measured),
            })
            .collect();
        if let Some(last) = steps.last_mut() {
            last.reason = self.reason.take();
        }
        let user = self.peer.map_or("", |peer| &*peer.user);
        let story = Story::new(
            Arc::clone(&trace_id),
            self.app,
            self.hook,
            (self.subject, user),
            steps,
        );
        self.runtime.stories.keep(story);
        trace_id
    }
}

fn log_call(unit: &Unit, subject: &Arc<str>, trace_id: Arc<str>) -> LogCall {
    LogCall {
        subject: (!subject.is_empty()).then(|| Arc::clone(subject)),
        trace_id: Some(trace_id),
        ..LogCall::outside(Arc::clone(&unit.plugin), unit.version, unit.hook)
    }
}

/// Says in the plugin's log that a call failed.
#[cold]
fn note_failure(runtime: &Runtime, unit: &Unit, call: LogCall, failure: &Failure) {
    let message = format!("the call failed ({}): {}", failure.kind, failure.detail);
    let speaker = Speaker::Node(Some(failure.kind));
    let line = unit
        .log
        .urgent_line(unix_millis(), LogLevel::Error, speaker, message.into());
    runtime.logs.write(&unit.log, &Arc::new(call), vec![line]);
}

/// A refusal, for the story.
fn describe(refusal: &Refusal) -> Arc<str> {
    let text = match refusal {
        Refusal::Error { code, reason } => format!("error {code}: {reason}"),
        Refusal::Disconnect { code, reason } => format!("disconnect {code}: {reason}"),
    };
    escaped(text, LINE_BYTES).into()
}

/// The refusal with what the operator wants in front of its reason and behind it. Of a disconnect the plugin's own words
/// give way, so that all fits into a close frame.
fn dressed(refusal: Refusal, before: &str, behind: &str) -> Refusal {
    if before.is_empty() && behind.is_empty() {
        return refusal;
    }
    match refusal {
        Refusal::Error { code, reason } => Refusal::Error {
            code,
            reason: format!("{before}{reason}{behind}").into(),
        },
        Refusal::Disconnect { code, reason } => {
            let words = format!("{before}{reason}");
            let room = DISCONNECT_REASON_BYTES.saturating_sub(behind.len());
            let end = words.floor_char_boundary(room);
            Refusal::Disconnect {
                code,
                reason: format!("{}{behind}", &words[..end]).into(),
            }
        }
    }
}
