//! The one wasmtime engine of the process: its settings, its pool and its ticker.
//!
//! One engine, because type indices of several can be mixed up (threat model W10) and because the pool's
//! address space is reserved once. The settings here are part of every compiled artifact's identity.

use std::{num::NonZeroUsize, sync::Arc};

use parking_lot::Mutex;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmFeatures};

use crate::{SandboxError, limits, ticker::Ticker};

/// Slots asked for first, and the fewest with which a pool is still worth having.
const POOL_SLOTS: u32 = 1_024;
const FEWEST_POOL_SLOTS: u32 = 64;
/// Memory of a slot that stays mapped between instances.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// Where instances come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Preallocated slots: an instance costs microseconds.
    Pool { slots: u32 },
    /// Mapped one by one, because the address space could not be reserved.
    OnDemand,
}

pub(crate) struct SandboxEngine {
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
    pub(crate) allocation: Allocation,
}

impl std::fmt::Debug for SandboxEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxEngine")
            .field("allocation", &self.allocation)
            .finish_non_exhaustive()
    }
}

/// The process's engine, made by the first that asks.
static ENGINE: Mutex<Option<Arc<SandboxEngine>>> = Mutex::new(None);

impl SandboxEngine {
    /// # Errors
    /// [`SandboxError::Engine`] when not even an engine without a pool can be made, or no thread started.
    pub(crate) fn shared() -> Result<Arc<Self>, SandboxError> {
        let mut slot = ENGINE.lock();
        if let Some(engine) = &*slot {
            return Ok(Arc::clone(engine));
        }
        let made = Arc::new(Self::start()?);
        *slot = Some(Arc::clone(&made));
        Ok(made)
    }

    fn start() -> Result<Self, SandboxError> {
        let (engine, allocation) = with_largest_pool()?;
        let weak = engine.weak();
        let ticker = Ticker::start(move || match weak.upgrade() {
            Some(engine) => {
                engine.increment_epoch();
                true
            }
            None => false,
        })
        .map_err(|error| SandboxError::Engine(error.into()))?;
        Ok(Self {
            engine,
            ticker,
            allocation,
        })
    }
}

/// Tries the pool, halves it while the address space does not allow it, and ends with none.
fn with_largest_pool() -> Result<(Engine, Allocation), SandboxError> {
    let mut slots = POOL_SLOTS;
    while slots >= FEWEST_POOL_SLOTS {
        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
        match Engine::new(&config) {
            Ok(engine) => {
                if slots < POOL_SLOTS {
                    tracing::warn!(
                        slots,
                        "plugin pool is smaller than usual: address space is limited"
                    );
                }
                return Ok((engine, Allocation::Pool { slots }));
            }
            Err(error) => tracing::debug!(slots, %error, "plugin pool could not be reserved"),
        }
        slots /= 2;
    }
    let engine = Engine::new(&settings()).map_err(|error| SandboxError::Engine(error.into()))?;
    tracing::warn!(
        "plugin instances are allocated on demand and slower to make: no pool could be reserved; \
         raise the address space limit (ulimit -v) or allow overcommit"
    );
    Ok((engine, Allocation::OnDemand))
}

/// An engine that only compiles, for the compile child: no pool, which would not fit into its address space, and
/// one thread, so that what compiling takes can be told. Its code is for [`SandboxEngine::shared`], hence the
/// same settings otherwise.
pub(crate) fn for_compiling() -> wasmtime::Result<Engine> {
    Engine::new(settings().parallel_compilation(false))
}

/// Code generation and features. Everything that a plugin does not need is off: each feature is attack surface.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(false)
        .max_wasm_stack(limits::STACK_BYTES)
        .memory_init_cow(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .wasm_features(!features(), false)
        .wasm_features(features(), true);
    config
}

/// The WebAssembly that plugins may use; admission validates with exactly these.
pub(crate) fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::CALL_INDIRECT_OVERLONG
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::BULK_MEMORY_OPT
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_memories(slots)
        .total_core_instances(slots * 4)
        .total_tables(slots * 2)
        .max_core_instances_per_component(limits::CORE_INSTANCES)
        .max_memories_per_component(limits::MEMORIES)
        .max_tables_per_component(limits::TABLES)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_memory_size(limits::MEMORY_CAP_BYTES)
        .table_elements(20_000)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(16 << 10)
        .max_unused_warm_slots(64)
        .decommit_batch_size(1);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_the_compile_child_is_code_for_the_pool() {
        let identity = |engine: &Engine| crate::cache::engine_id(engine);
        let pool = SandboxEngine::shared().unwrap();
        assert_eq!(identity(&pool.engine), identity(&for_compiling().unwrap()));
    }

    #[test]
    fn w10_there_is_one_engine_in_the_process() {
        let first = SandboxEngine::shared().unwrap();
        let second = SandboxEngine::shared().unwrap();
        assert!(Engine::same(&first.engine, &second.engine));
    }
}
