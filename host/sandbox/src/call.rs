//! One call into a guest: get leave and an instance, arm the deadline, contain what goes wrong, keep the instance
//! only if nothing did, and write down what it says about the plugin.
//!
//! The quick way, inline with an instance at hand, costs one relaxed load for the breaker and one acquire load for
//! the generation beside the call itself, and reads a clock one time in 64.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use wasmtime::Store;

use crate::{
    Runtime,
    binding::{Class, Isolation},
    breaker::Permit,
    deadline::{Deadline, STRETCH, processor_time},
    failure::{Failure, FailureKind, Phase},
    guest::{Facts, GuestState, Input, Left, Tags},
    instance::{CALLS_PER_SAMPLE, Export, Instance, Sampling},
    instances::Stage,
    lane::Turn,
    limits,
    metrics::{Also, CallEnd},
    slots,
    stories::{Measured, Took},
    ticker,
    unit::Unit,
    verdict::Verdict,
};

/// How a call ended; the effects that it `left` count only if `result` is an answer.
pub(crate) struct Called<V> {
    pub(crate) result: Result<V, Failure>,
    /// Back to the draft that lent them.
    pub(crate) tags: Option<Tags>,
    pub(crate) left: Option<Box<Left>>,
    /// There if the call was timed, or failed. Boxed, since most are neither and an answer is handed on several times.
    pub(crate) measured: Option<Box<Measured>>,
}

/// What a call is about: the facts, what the guest is given to look at, and the id that the question has by now.
pub(crate) type About = (Facts, Input, Option<Arc<str>>);

/// A call that can be made: there is leave, and an instance.
pub(crate) struct Seated {
    instance: Box<Instance>,
    permit: Permit,
    /// What the ticker shows.
    now: u64,
    /// What is left of the deadline.
    ticks: u64,
}

/// Why a call cannot be made.
pub(crate) enum NotBegun {
    /// There is no instance to be had without waiting, and a session's worker does not wait.
    NoRoom,
    Failed(Failure),
}

/// Prepares a call of the unit's plugin.
#[inline]
pub(crate) fn begin(
    runtime: &Runtime,
    unit: &Arc<Unit>,
    turn: Turn,
    stage: Stage,
) -> Result<Seated, NotBegun> {
    let permit = match unit.conduct.admit(runtime) {
        Ok(permit) => permit,
        Err(failure) => {
            slots::count(runtime, unit, CallEnd::Failed(failure.kind));
            return Err(NotBegun::Failed(failure));
        }
    };
    let ticks = match turn {
        Turn::Aside { charged, lane } if !charged.is_zero() => {
            if charged >= lane.longest_wait() {
                return Err(too_late(runtime, unit, permit, charged));
            }
            // A burst behind a fresh version waits longer than a call may take; each still gets half its time.
            ticker::ticks(unit.deadline - charged.min(unit.deadline / 2))
        }
        Turn::Inline | Turn::Overflow | Turn::Aside { .. } => unit.deadline_ticks,
    };
    let seated = Seating {
        permit,
        now: runtime.engine.ticker.now(),
        ticks,
    };
    match slots::take(runtime, unit) {
        Some(instance) => Ok(seated.with(instance)),
        None => seated.with_new_instance(runtime, unit, turn, stage),
    }
}

/// Calls the unit's plugin. `ask` makes the call and checks the answer; an answer that does not hold up is a
/// failure and costs the instance like any other. `verdict` is for counting.
pub(crate) fn call<V>(
    (runtime, turn): (&Runtime, Turn),
    (unit, seated): (&Arc<Unit>, Seated),
    (facts, input, trace_id): About,
    ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
    verdict: impl FnOnce(&V) -> Verdict,
) -> Called<V> {
    let Seated {
        mut instance,
        permit,
        now,
        ticks,
    } = seated;
    let timing = Timing::start(turn, instance.next_call_is_sampled());
    // The ticks begin here: an instance may have been made since `now`.
    let started_at = runtime.engine.ticker.now();
    let deadline = match unit.class {
        Class::Immediate => Deadline::new(ticks, started_at),
        Class::Waiting => Deadline::by_the_clock(ticks, started_at),
    };
    runtime.engine.ticker.arm();
    let Instance { store, export, .. } = &mut *instance;
    store.set_epoch_deadline(STRETCH);
    let call = &mut store.data_mut().call;
    let input_bytes = input.bytes;
    call.begin((facts, input.data), trace_id, deadline);
    // The store is not looked at again after a panic, except to take the facts back: it is dropped.
    let caught = catch_unwind(AssertUnwindSafe(|| ask(store, export)));
    let (tags, left) = instance.store.data_mut().call.end();
    let result = match caught {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let was_denied = instance.store.data().limiter.was_denied;
            Err(Failure::classify(&error, Phase::Call, was_denied))
        }
        Err(_) => Err(Failure::host_panic()),
    };
    let waited = instance.store.data().call.store.waited;
    let took = timing.stop(
        runtime,
        unit,
        (&instance.store.data().call.deadline, waited),
        (result.is_ok(), input_bytes),
    );
    let took = match (took, &result) {
        (Some(took), _) => Some(Took::Exactly(took)),
        (None, Err(_)) => {
            let now = runtime.engine.ticker.now();
            Some(Took::Under(instance.store.data().call.deadline.under(now)))
        }
        (None, Ok(_)) => None,
    };
    let measured = took.map(|took| {
        Box::new(Measured {
            lane: turn.lane(),
            took,
            waited,
            memory_bytes: instance.store.data().limiter.memory(),
        })
    });
    match &result {
        Ok(value) => {
            let end = CallEnd::Answered(verdict(value));
            let kept = if instance.is_spent() {
                note_memory(runtime, unit, &instance, input_bytes);
                None
            } else {
                Some(instance)
            };
            slots::give_back(runtime, unit, (kept, now), end);
            unit.conduct.succeeded(permit);
        }
        Err(failure) => {
            drop(instance);
            fail(runtime, unit, permit, failure);
        }
    }
    Called {
        result,
        tags,
        left,
        measured,
    }
}

/// Leave to call, before there is an instance.
struct Seating {
    permit: Permit,
    now: u64,
    ticks: u64,
}

impl Seating {
    #[inline]
    fn with(self, instance: Box<Instance>) -> Seated {
        let Self { permit, now, ticks } = self;
        Seated {
            instance,
            permit,
            now,
            ticks,
        }
    }

    #[cold]
    fn with_new_instance(
        mut self,
        runtime: &Runtime,
        unit: &Arc<Unit>,
        turn: Turn,
        stage: Stage,
    ) -> Result<Seated, NotBegun> {
        let left = ticker::TICK * u32::try_from(self.ticks - 1).unwrap_or(u32::MAX);
        match build(runtime, unit, turn, stage, left, self.now) {
            Some(Ok(Built {
                instance,
                waited,
                took,
            })) => {
                if turn.is_aside() {
                    let left = left.saturating_sub(waited);
                    if left.is_zero() {
                        return Err(too_late(runtime, unit, self.permit, waited));
                    }
                    // Making an instance has a deadline of its own. It counts here too, but as after the queue each
                    // call still gets half its time: who is asked first is not to blame for it.
                    let least = left.min(unit.deadline / 2);
                    self.ticks = ticker::ticks(left.saturating_sub(took).max(least));
                } else if !took.is_zero() {
                    unit.conduct.called_inline(waited + took);
                }
                Ok(self.with(instance))
            }
            Some(Err(failure)) => {
                fail(runtime, unit, self.permit, &failure);
                Err(NotBegun::Failed(failure))
            }
            None if turn.is_aside() || stage == Stage::UnderWay => {
                let failure = Failure::new(
                    FailureKind::NoSlot,
                    "all instances that the node may have are in use; lower the load, or give the node more memory mappings",
                );
                fail(runtime, unit, self.permit, &failure);
                Err(NotBegun::Failed(failure))
            }
            None => {
                unit.conduct.abandoned(runtime, self.permit);
                Err(NotBegun::NoRoom)
            }
        }
    }
}

/// Makes an instance as soon as there is a slot; `None` when there is none in time.
fn build(
    runtime: &Runtime,
    unit: &Arc<Unit>,
    turn: Turn,
    stage: Stage,
    left: Duration,
    now: u64,
) -> Option<Result<Built, Failure>> {
    let patience = turn.patience(left);
    let sampling = slots::draw(runtime, unit);
    for _ in 0..2 {
        let (slot, waited) = runtime.instances.slot(stage, patience, now)?;
        let clock = Building::start(turn, unit.isolation, sampling);
        match Instance::build(runtime, unit, slot, sampling) {
            // The pool belongs to the process, and something else in it has what we were counting on.
            Err(failure) if failure.kind == FailureKind::NoSlot => {
                runtime.instances.evict(1);
            }
            Err(failure) => return Some(Err(failure)),
            Ok(instance) => {
                return Some(Ok(Built {
                    instance: Box::new(instance),
                    waited,
                    took: clock.stop(),
                }));
            }
        }
    }
    None
}

/// A fresh instance, and what it cost the call that needed it.
struct Built {
    instance: Box<Instance>,
    /// For the slot.
    waited: Duration,
    /// What making it took, in which the guest may have had a start function of its own; nothing where it was not
    /// timed.
    took: Duration,
}

/// How the time of making an instance is taken; as that of a call, see [`Timing`].
enum Building {
    Untimed,
    Clock(Instant),
    Processor(Duration),
}

impl Building {
    fn start(turn: Turn, isolation: Isolation, sampling: Sampling) -> Self {
        match (turn, isolation, sampling) {
            (Turn::Aside { .. }, _, _) => Self::Processor(processor_time()),
            // Each call makes one there, so a share of them says enough.
            (Turn::Inline | Turn::Overflow, Isolation::PerCall, Sampling::NotDrawn) => {
                Self::Untimed
            }
            (Turn::Inline | Turn::Overflow, _, _) => Self::Clock(Instant::now()),
        }
    }

    fn stop(self) -> Duration {
        match self {
            Self::Untimed => Duration::ZERO,
            Self::Clock(started) => started.elapsed(),
            Self::Processor(before) => processor_time().saturating_sub(before),
        }
    }
}

#[cold]
fn fail(runtime: &Runtime, unit: &Arc<Unit>, permit: Permit, failure: &Failure) {
    slots::give_back(runtime, unit, (None, 0), CallEnd::Failed(failure.kind));
    unit.conduct.failed(runtime, permit, failure);
}

#[cold]
fn too_late(runtime: &Runtime, unit: &Arc<Unit>, permit: Permit, waited: Duration) -> NotBegun {
    let failure = Failure::new(
        FailureKind::NoSlot,
        &format!(
            "the call waited {} ms for its turn, and its deadline is {} ms; the app's plugins take more time than it has",
            waited.as_millis(),
            unit.deadline.as_millis()
        ),
    );
    fail(runtime, unit, permit, &failure);
    NotBegun::Failed(failure)
}

/// How the time of a call is taken.
enum Timing {
    /// Not at all, which is most inline calls.
    Untimed,
    /// An inline call that was drawn: by the clock, because it holds a session's worker while it waits, too.
    Sampled(Instant),
    /// Aside, where a call costs a hop anyway: by the thread's processor time, so that a busy machine does not
    /// count against the plugin.
    Processor { before: Duration, is_sampled: bool },
}

impl Timing {
    #[inline]
    fn start(turn: Turn, is_sampled: bool) -> Self {
        match turn {
            Turn::Inline | Turn::Overflow if is_sampled => Self::Sampled(Instant::now()),
            Turn::Inline | Turn::Overflow => Self::Untimed,
            Turn::Aside { .. } => Self::Processor {
                before: processor_time(),
                is_sampled,
            },
        }
    }

    /// Writes down what was timed, and answers it.
    #[inline]
    fn stop(
        self,
        runtime: &Runtime,
        unit: &Arc<Unit>,
        (deadline, waited): (&Deadline, Duration),
        (is_answered, input_bytes): (bool, usize),
    ) -> Option<Duration> {
        // There only if the call got half-way to its deadline.
        let slow = deadline.used();
        let (used, took) = match self {
            Self::Untimed => {
                if let Some(took) = slow {
                    unit.tally.timed(took, 1);
                }
                (slow, slow)
            }
            Self::Sampled(started) => {
                let took = started.elapsed();
                runtime.metrics.durations.observe(took.as_secs_f64());
                // Slow calls are all written down, so one that was drawn stands for itself alone.
                let stands_for = slow.map_or(u64::from(CALLS_PER_SAMPLE), |_| 1);
                unit.tally.timed(took, stands_for);
                unit.conduct.called_inline(took);
                (slow, Some(took))
            }
            Self::Processor { before, is_sampled } => {
                let took = processor_time().saturating_sub(before);
                if is_sampled {
                    runtime.metrics.durations.observe(took.as_secs_f64());
                }
                unit.tally.timed(took, 1);
                slots::count_also(runtime, unit, Also::Aside);
                unit.conduct.called_aside(took);
                (Some(took), Some(took))
            }
        };
        if let Some(slow) = slow {
            unit.conduct.was_slow(runtime, slow, unit.deadline);
        }
        if let Some(used) = used.map(|used| used + waited)
            && is_answered
            && limits::is_near(used.as_nanos(), unit.deadline.as_nanos())
        {
            slots::count_also(runtime, unit, Also::NearDeadline);
            let percent = used.as_nanos() * 100 / unit.deadline.as_nanos().max(1);
            unit.conduct
                .note_near(runtime, "deadline", percent, input_bytes);
        }
        took
    }
}

/// An instance that is thrown away because it grew: how near it came to its memory is the author's business.
#[cold]
fn note_memory(runtime: &Runtime, unit: &Arc<Unit>, instance: &Instance, input_bytes: usize) {
    let used = instance.store.data().limiter.memory() as u128;
    if limits::is_near(used, unit.memory_bytes as u128) {
        slots::count_also(runtime, unit, Also::NearMemory);
        let percent = used * 100 / (unit.memory_bytes as u128).max(1);
        unit.conduct
            .note_near(runtime, "memory", percent, input_bytes);
    }
}
