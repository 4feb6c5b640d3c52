//! One call into a guest: arm the deadline, contain what goes wrong, keep the instance only if nothing did.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::time::Instant;
use wasmtime::Store;

use crate::{
    Runtime,
    breaker::Permit,
    deadline::Deadline,
    failure::{Failure, FailureKind, Phase},
    guest::{CallState, GuestState},
    instance::{Export, Instance},
    metrics::CallEnd,
    slots,
    unit::Unit,
};

/// What a call left behind; effects in `state` count only if `result` is an answer.
pub(crate) struct Called<V> {
    pub(crate) result: Result<V, Failure>,
    pub(crate) state: CallState,
}

/// Calls the unit's plugin. `ask` makes the call and checks the answer; an answer that does not hold up is a
/// failure and costs the instance like any other. `is_refusal` is for counting.
pub(crate) fn call<V>(
    runtime: &Runtime,
    (unit, permit): (&Arc<Unit>, Permit),
    state: CallState,
    ask: impl FnOnce(&mut Store<GuestState>, &Export) -> wasmtime::Result<V>,
    is_refusal: impl FnOnce(&V) -> bool,
) -> Called<V> {
    let now = runtime.engine.ticker.now();
    let mut instance = match slots::take(unit, now) {
        Some(instance) => instance,
        None => match build(runtime, unit, now) {
            Ok(instance) => instance,
            Err(failure) => {
                slots::give_back(unit, None, CallEnd::Failed(failure.kind));
                unit.conduct.failed(runtime, permit, &failure);
                return Called {
                    result: Err(failure),
                    state,
                };
            }
        },
    };
    let started = instance.next_call_is_sampled().then(Instant::now);
    runtime.engine.ticker.arm();
    let mut state = state;
    state.deadline = Deadline::new(unit.deadline_ticks, now);
    let first_look = state.deadline.first_look();
    instance.store.set_epoch_deadline(first_look);
    instance.store.data_mut().call = state;
    let Instance { store, export, .. } = &mut *instance;
    // The store is not looked at again after a panic, except to take the facts back: it is dropped.
    let caught = catch_unwind(AssertUnwindSafe(|| ask(store, export)));
    let state = mem::take(&mut instance.store.data_mut().call);
    let result = match caught {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let was_denied = instance.store.data().limiter.was_denied;
            Err(Failure::classify(&error, Phase::Call, was_denied))
        }
        Err(_) => Err(Failure::host_panic()),
    };
    match &result {
        Ok(value) => {
            let end = if is_refusal(value) {
                CallEnd::Refused
            } else {
                CallEnd::Answered
            };
            let kept = (!instance.is_spent()).then_some(instance);
            slots::give_back(unit, kept, end);
            unit.conduct.succeeded(permit);
        }
        Err(failure) => {
            drop(instance);
            slots::give_back(unit, None, CallEnd::Failed(failure.kind));
            unit.conduct.failed(runtime, permit, failure);
        }
    }
    if let Some(used) = state.deadline.used() {
        let over = used.saturating_sub(unit.deadline);
        if !over.is_zero() {
            unit.conduct.overran(runtime, over);
        }
    }
    if let Some(started) = started {
        runtime
            .metrics
            .durations
            .observe(started.elapsed().as_secs_f64());
    }
    Called { result, state }
}

#[cold]
fn build(runtime: &Runtime, unit: &Arc<Unit>, now: u64) -> Result<Box<Instance>, Failure> {
    slots::drop_idle(now);
    let built = match Instance::build(runtime, unit) {
        Err(failure) if failure.kind == FailureKind::NoSlot => {
            slots::drop_all_idle();
            Instance::build(runtime, unit)
        }
        built => built,
    };
    built.map(Box::new)
}
