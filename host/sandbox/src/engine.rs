//! The one wasmtime engine of the process: its settings, its pool and its ticker.
//!
//! One engine, because type indices of several can be mixed up (threat model W10) and because the pool's
//! address space is reserved once. The settings here are part of every compiled artifact's identity.

use std::{num::NonZeroUsize, sync::Arc};

use parking_lot::Mutex;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmFeatures,
};

use crate::{SandboxError, limits, ticker::Ticker};

/// Slots asked for first, and the fewest with which a pool is still worth having.
const POOL_SLOTS: u32 = 1_024;
const FEWEST_POOL_SLOTS: u32 = 64;
/// Mappings of a slot (2) and of the instance in it (4).
const MAPPINGS_PER_SLOT: u64 = 6;
/// Written memory of a slot that stays mapped between instances. The kernel is asked which pages were written (where
/// it can tell), and only those are cleared: otherwise each instance would clear all it might have used, which takes
/// longer than everything else about it and, on two cores at once, most of what their caches can do.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// Where instances come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Preallocated slots: an instance costs microseconds.
    Pool { slots: u32 },
    /// Mapped one by one, because the address space could not be reserved.
    OnDemand,
}

impl Allocation {
    /// Instances that there may be at once.
    pub(crate) fn instances(self) -> usize {
        let slots = match self {
            Self::Pool { slots } => slots,
            // Nothing bounds them but the mappings, which were too few for a pool: a modest number.
            Self::OnDemand => FEWEST_POOL_SLOTS,
        };
        slots as usize
    }
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

/// The slots to ask for on a machine that allows a process so many memory mappings. A slot takes
/// [`MAPPINGS_PER_SLOT`] when its instance lives, and as many again are left to everything else in the process.
fn slots_within(max_mappings: u64) -> u32 {
    let fitting = max_mappings / (2 * MAPPINGS_PER_SLOT);
    let mut slots = POOL_SLOTS;
    while u64::from(slots) > fitting && slots > 0 {
        slots /= 2;
    }
    slots
}

/// What the kernel allows; where it does not say, its usual limit.
fn max_mappings() -> u64 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(65_530)
}

/// Tries the pool, halves it while the address space does not allow it, and ends with none.
fn with_largest_pool() -> Result<(Engine, Allocation), SandboxError> {
    let allowed = max_mappings();
    let mut slots = slots_within(allowed);
    if slots < POOL_SLOTS {
        tracing::warn!(
            max_map_count = allowed,
            "the kernel allows few memory mappings, which bounds the plugin instances; raise vm.max_map_count"
        );
    }
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
        .pagemap_scan(Enabled::Auto)
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
    fn the_pool_is_halved_until_its_mappings_fit() {
        for (mappings, slots) in [
            (1 << 20, 1_024),
            (65_530, 1_024),
            (12_287, 512),
            (2_000, 128),
            (800, 64),
            (700, 32),
            (0, 0),
        ] {
            assert_eq!(slots_within(mappings), slots, "{mappings}");
        }
        assert!(
            slots_within(700) < FEWEST_POOL_SLOTS,
            "then there is no pool"
        );
    }

    #[test]
    fn w10_there_is_one_engine_in_the_process() {
        let first = SandboxEngine::shared().unwrap();
        let second = SandboxEngine::shared().unwrap();
        assert!(Engine::same(&first.engine, &second.engine));
    }
}
