//! A unit: one binding as the workers run it, made anew whenever anything about the binding changes.
//!
//! Instances belong to a unit and therefore to one app, one version and one config text. A unit's id holds an
//! index (small, reused, so that the table of a worker stays small) and a generation (never reused, so that an
//! index never leads to somebody else's instance).

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tidegate_realtime::ids::AppId;

use crate::{
    Runtime,
    binding::{Binding, Class, FailurePolicy, Hook, Isolation, PluginLimits, Scope},
    capabilities::kept::Kept,
    compile::Compiled,
    conduct::{Conduct, Subject},
    deadline, limits,
    logs::PluginLog,
    metrics::Tally,
    ticker,
};

/// Where a worker keeps the instance of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnitId {
    pub(crate) index: usize,
    pub(crate) generation: u64,
}

/// Limits that every unit of a sandbox shares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommonLimits {
    pub(crate) max_message_bytes: usize,
    pub(crate) max_channel_bytes: usize,
}

/// What units share with others of their plugin.
#[derive(Debug)]
pub(crate) struct SharedParts {
    pub(crate) log: Arc<PluginLog>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) conduct: Arc<Conduct>,
}

#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    pub(crate) app: AppId,
    pub(crate) plugin: Arc<str>,
    pub(crate) version: u32,
    pub(crate) hook: Hook,
    pub(crate) scope: Scope,
    pub(crate) config: Arc<str>,
    pub(crate) failure_policy: FailurePolicy,
    pub(crate) isolation: Isolation,
    pub(crate) compiled: Compiled,
    /// Whether the plugin may have the host read fields of the data in hand, so that calls of all others need not
    /// hold it.
    pub(crate) reads_data: bool,
    /// Whether the plugin may ask who sent the message, so that calls of all others need not hold the sender.
    pub(crate) reads_context: bool,
    /// Whether its calls may wait for other machines.
    pub(crate) class: Class,
    pub(crate) deadline: Duration,
    pub(crate) deadline_ticks: u64,
    pub(crate) memory_bytes: usize,
    pub(crate) common: CommonLimits,
    /// Shared by all units of the plugin in the app.
    pub(crate) log: Arc<PluginLog>,
    /// Shared by all generations of the binding.
    pub(crate) tally: Arc<Tally>,
    /// Shared by all bindings of the version at the hook.
    pub(crate) conduct: Arc<Conduct>,
    /// What outlives the instances, from the first of them on: each finds it here and neither looks for it in tables
    /// that all threads share nor counts a reference.
    kept: OnceLock<Kept>,
    /// Set once, when the unit left the desired state. Its instances are dropped by the workers then.
    is_retired: AtomicBool,
}

/// Rises whenever units were retired, so that a worker knows that its table may hold some.
static RETIREMENTS: AtomicU64 = AtomicU64::new(0);
static INDICES: Mutex<Indices> = Mutex::new(Indices {
    free: BTreeSet::new(),
    next: 0,
    generation: 0,
});

/// Hands out unit ids for all sandboxes of the process, since workers are shared by them.
struct Indices {
    free: BTreeSet<usize>,
    next: usize,
    generation: u64,
}

impl Unit {
    pub(crate) fn new(
        app: &AppId,
        binding: &Binding,
        common: CommonLimits,
        shared: SharedParts,
    ) -> Self {
        let SharedParts {
            log,
            tally,
            conduct,
        } = shared;
        let Binding {
            plugin,
            version,
            compiled,
            hook,
            scope,
            position: _,
            config,
            failure_policy,
            isolation,
            limits,
        } = binding;
        let class = compiled.class();
        let deadline = limits.deadline.unwrap_or(hook.default_deadline(class));
        Self {
            id: next_id(),
            app: app.clone(),
            plugin: Arc::clone(plugin),
            version: *version,
            hook: *hook,
            scope: scope.clone(),
            config: Arc::clone(config),
            failure_policy: *failure_policy,
            isolation: *isolation,
            compiled: compiled.clone(),
            reads_data: compiled.imports_json(),
            reads_context: compiled.imports_context(),
            class,
            deadline,
            deadline_ticks: ticker::ticks(deadline),
            memory_bytes: limits.memory_bytes.unwrap_or(limits::DEFAULT_MEMORY_BYTES),
            common,
            log,
            tally,
            conduct,
            kept: OnceLock::new(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// A unit that belongs to nobody, for trying a plugin out before it is bound.
    pub(crate) fn trial(compiled: &Compiled, hook: Hook, runtime: &Runtime) -> Self {
        let binding = Binding {
            plugin: "trial".into(),
            version: 0,
            compiled: compiled.clone(),
            hook,
            scope: Scope::App,
            position: 0,
            config: "{}".into(),
            failure_policy: FailurePolicy::Closed,
            isolation: Isolation::default(),
            limits: PluginLimits::default(),
        };
        let app = AppId::default_app();
        let subject = Subject {
            app: app.clone(),
            plugin: Arc::clone(&binding.plugin),
            hook,
            version: 0,
            class: compiled.class(),
        };
        let shared = SharedParts {
            log: runtime.logs.unlisted(),
            tally: Arc::new(Tally::unlisted()),
            conduct: Arc::new(Conduct::new(subject, None, runtime.clock.now_millis())),
        };
        Self::new(&app, &binding, runtime.common, shared)
    }

    /// Whether this unit is what `binding` asks for, so that its instances can stay.
    pub(crate) fn matches(&self, app: &AppId, binding: &Binding) -> bool {
        let deadline = binding
            .limits
            .deadline
            .unwrap_or(binding.hook.default_deadline(binding.compiled.class()));
        self.app == *app
            && self.plugin == binding.plugin
            && self.version == binding.version
            && self.compiled.is_same(&binding.compiled)
            && self.hook == binding.hook
            && self.scope == binding.scope
            && self.config == binding.config
            && self.failure_policy == binding.failure_policy
            && self.isolation == binding.isolation
            && self.deadline == deadline
            && self.memory_bytes
                == binding
                    .limits
                    .memory_bytes
                    .unwrap_or(limits::DEFAULT_MEMORY_BYTES)
    }

    /// Finds what outlives the instances; before the first of them is made.
    pub(crate) fn find_kept(&self, runtime: &Runtime) {
        self.kept
            .get_or_init(|| runtime.keeper.of(&self.app, &self.plugin));
    }

    /// What outlives the instances.
    pub(crate) fn kept(&self) -> &Kept {
        self.kept
            .get()
            .expect("an instance is made after its unit's things were found")
    }

    /// The most wall time that a call can take.
    pub(crate) fn longest_call(&self) -> Duration {
        match self.class {
            Class::Immediate => deadline::longest(self.deadline_ticks),
            // Where waiting counts, nothing is put off; the guest ends at the next tick.
            Class::Waiting => self.deadline + ticker::TICK,
        }
    }

    pub(crate) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
        // Pairs with the load in `retirements`: who sees the new number sees the flag.
        RETIREMENTS.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Acquire)
    }
}

/// How often units were retired so far. Pairs with [`Unit::retire`].
#[inline]
pub(crate) fn retirements() -> u64 {
    RETIREMENTS.load(Ordering::Acquire)
}

fn next_id() -> UnitId {
    let mut indices = INDICES.lock();
    indices.generation += 1;
    let index = indices.free.pop_first().unwrap_or_else(|| {
        indices.next += 1;
        indices.next - 1
    });
    UnitId {
        index,
        generation: indices.generation,
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        INDICES.lock().free.insert(self.id.index);
    }
}
