//! One live sandbox: a store, the instance in it, and the one hook it is called at.

use std::{mem, sync::Arc};

use wasmtime::Store;

use crate::{
    Runtime,
    binding::{Hook, Isolation},
    deadline::{self, Deadline},
    failure::{Failure, FailureKind, Phase},
    generated::exports::tidegate::plugin as exports,
    guest::{CallState, GuestState},
    instances::Slot,
    limits,
    logs::LogCall,
    ticker,
    unit::Unit,
};

/// Inline calls of which one is timed: reading a clock twice costs a tenth of a lean call.
pub(crate) const CALLS_PER_SAMPLE: u32 = 64;

/// Whether the one call of an instance that is made for it alone shall be timed. An instance that serves many calls
/// draws from them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampling {
    Drawn,
    NotDrawn,
}

/// The function that an instance is called at.
pub(crate) enum Export {
    Authentication(exports::authentication::Guest),
    Authorization(exports::authorization::Guest),
    Filtering(exports::filtering::Guest),
    Routing(exports::routing::Guest),
    Rpc(exports::rpc::Guest),
    Events(exports::events::Guest),
    Schedule(exports::schedule::Guest),
}

pub(crate) struct Instance {
    pub(crate) store: Store<GuestState>,
    pub(crate) export: Export,
    calls_left: u32,
    /// What `calls_left` is when the instance has served its time.
    spent_at: u32,
    /// Given up when the instance is dropped, after the store: fields are dropped in this order.
    _slot: Slot,
}

impl Instance {
    /// Makes an instance, under a deadline of its own because start functions run guest code.
    pub(crate) fn build(
        runtime: &Runtime,
        unit: &Arc<Unit>,
        slot: Slot,
        sampling: Sampling,
    ) -> Result<Self, Failure> {
        let (store, export) = start(runtime, unit, |store| instantiate(store, unit))?;
        let (calls_left, spent_at) = match unit.isolation {
            Isolation::Shared => {
                // A fifth of jitter, so that workers do not make all their instances anew at the same moment.
                let jitter = limits::CALLS_PER_INSTANCE / 5;
                let calls = limits::CALLS_PER_INSTANCE - jitter;
                (calls + rand::random_range(0..=2 * jitter), 0)
            }
            // One call, after which what is left is a multiple of the calls per sample, or is not.
            Isolation::PerCall => match sampling {
                Sampling::Drawn => (1, 0),
                Sampling::NotDrawn => (2, 1),
            },
        };
        runtime.instances.count_made();
        Ok(Self {
            store,
            export,
            calls_left,
            spent_at,
            _slot: slot,
        })
    }

    /// Counts a call and tells whether its time shall be taken: one in 64.
    #[inline]
    pub(crate) fn next_call_is_sampled(&mut self) -> bool {
        self.calls_left -= 1;
        self.calls_left.is_multiple_of(CALLS_PER_SAMPLE)
    }

    /// Whether the instance has served its time or grown too large.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.calls_left == self.spent_at || self.store.data().limiter.is_high()
    }
}

/// Makes a store with all limits and what `make` puts into it.
pub(crate) fn start<T>(
    runtime: &Runtime,
    unit: &Arc<Unit>,
    make: impl FnOnce(&mut Store<GuestState>) -> wasmtime::Result<T>,
) -> Result<(Store<GuestState>, T), Failure> {
    unit.find_kept(runtime);
    let ticks = ticker::ticks(limits::INSTANTIATION_DEADLINE);
    let deadline = Deadline::new(ticks, runtime.engine.ticker.now());
    let state = GuestState {
        ticker: runtime.engine.ticker,
        limiter: limits::StoreLimiter::new(unit.memory_bytes, unit.tally.memory()),
        unit: Arc::clone(unit),
        call: CallState::starting(deadline),
    };
    let mut store = Store::new(&runtime.engine.engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits::hostcall_fuel(unit.common.max_message_bytes));
    store.set_max_component_handles(limits::HANDLES);
    store.epoch_deadline_callback(deadline::on_expiry);
    store.set_epoch_deadline(deadline::STRETCH);
    runtime.engine.ticker.arm();
    let made = make(&mut store);
    // What the initialiser said is in the plugin's log and no part of the first call.
    let started = mem::take(&mut store.data_mut().call);
    if !started.log.is_empty() {
        keep_lines(runtime, unit, started, made.is_ok());
    }
    let made = made.map_err(|error| {
        let was_denied = store.data().limiter.was_denied;
        Failure::classify(&error, Phase::Instantiation, was_denied)
    })?;
    Ok((store, made))
}

fn instantiate(store: &mut Store<GuestState>, unit: &Unit) -> wasmtime::Result<Export> {
    let parts = unit.compiled.parts()?;
    let instance = parts.pre.instantiate(&mut *store)?;
    let indices = &parts.indices;
    let export = match unit.hook {
        Hook::Authentication => match &indices.authentication {
            Some(indices) => Export::Authentication(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Authorization => match &indices.authorization {
            Some(indices) => Export::Authorization(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Filtering => match &indices.filtering {
            Some(indices) => Export::Filtering(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Routing => match &indices.routing {
            Some(indices) => Export::Routing(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Rpc => match &indices.rpc {
            Some(indices) => Export::Rpc(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Events => match &indices.events {
            Some(indices) => Export::Events(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
        Hook::Schedule => match &indices.schedule {
            Some(indices) => Export::Schedule(indices.load(store, &instance)?),
            None => return Err(not_exported(unit.hook)),
        },
    };
    Ok(export)
}

/// Puts what an initialiser said into the plugin's log.
#[cold]
fn keep_lines(runtime: &Runtime, unit: &Unit, started: CallState, is_made: bool) {
    let said = if is_made {
        started.log.said()
    } else {
        started.log.said_by_failed(&unit.log)
    };
    let call = LogCall {
        trace_id: started.trace_id,
        ..LogCall::outside(Arc::clone(&unit.plugin), unit.version, unit.hook)
    };
    runtime.logs.write(&unit.log, &Arc::new(call), said);
}

fn not_exported(hook: Hook) -> wasmtime::Error {
    wasmtime::Error::msg(format!("the plugin does not export {hook}"))
}

impl Failure {
    pub(crate) fn host_panic() -> Self {
        Self::new(
            FailureKind::HostPanic,
            "a function of the host panicked; its message is in the node's error output",
        )
    }
}
