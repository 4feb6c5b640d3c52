//! The handle that the server holds.

use std::sync::{Arc, atomic::Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustc_hash::FxHashSet;
use tidegate_realtime::{
    hooks::{
        Answered, AuthenticationQuestion, AuthenticationVerdict, AuthorizationQuestion,
        AuthorizationVerdict, Draft, FilteringVerdict, Hooks, RoutingVerdict, RpcQuestion,
        RpcVerdict,
    },
    ids::AppId,
};
use wasmtime::component::Linker;

use crate::{
    activation::{self, ApplyError},
    admit::{self, AdmissionRefused, Admitted},
    binding::{Bindings, Hook},
    cache::{Cache, CacheConfig},
    capabilities::{self, kept::Keeper, log::LogBudget},
    clock::Clock,
    compile::{Compilation, CompileError, Compiled, Compiler, ComponentDigest},
    conduct::UnfitSender,
    engine::{Allocation, SandboxEngine},
    guest::GuestState,
    lane::Lane,
    limits::{self, StateQuotas},
    metrics::{HookStatistics, Metrics},
    pipeline::{Asker, Naming, Snapshot},
    stories::{Stories, Story},
    unit::{CommonLimits, Unit},
};

/// Validated settings of the sandbox.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where compiled plugins are kept; without it every start compiles anew.
    pub cache: Option<CacheConfig>,
    /// Where uploads are compiled.
    pub compilation: Compilation,
    /// Largest message of the node; what plugins hand out is held to it.
    pub max_message_bytes: usize,
    /// Longest channel name of the node.
    pub max_channel_bytes: usize,
    /// Whether refusals carry `plugin@version: ` in front (`plugins.name_in_errors`).
    pub name_in_errors: bool,
    /// `channel.private_prefix`.
    pub private_prefix: String,
    /// `channel.namespace_boundary`.
    pub namespace_boundary: String,
    /// By which plugins are judged and keys of `state` end; tests move one by hand.
    pub clock: Clock,
    /// Where versions are reported that keep failing since they replaced another.
    pub unfit: Option<UnfitSender>,
    /// What plugins may keep in `state`.
    pub state: StateQuotas,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            cache: None,
            compilation: Compilation::default(),
            max_message_bytes: 64 << 10,
            max_channel_bytes: 255,
            name_in_errors: false,
            private_prefix: "$".to_owned(),
            namespace_boundary: ":".to_owned(),
            clock: Clock::default(),
            unfit: None,
            state: StateQuotas::default(),
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the WebAssembly engine could not be started")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What calls need of the node; shared by everything in this crate.
pub(crate) struct Runtime {
    pub(crate) engine: Arc<SandboxEngine>,
    pub(crate) linker: Linker<GuestState>,
    pub(crate) cache: Option<Cache>,
    pub(crate) compilation: Compilation,
    /// What outlives instances.
    pub(crate) keeper: Keeper,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stories: Stories,
    pub(crate) naming: Naming,
    pub(crate) common: CommonLimits,
    pub(crate) name_in_errors: bool,
    no_subject: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) unfit: Option<UnfitSender>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    pub(crate) fn no_subject(&self) -> &Arc<str> {
        &self.no_subject
    }

    pub(crate) fn log_budget(&self) -> Arc<LogBudget> {
        Arc::new(LogBudget::new(Arc::clone(&self.metrics.log_lines_dropped)))
    }
}

/// Plugins of a node.
pub struct Sandbox {
    runtime: Arc<Runtime>,
    compiler: Compiler,
    /// What runs. Written by `apply` alone, loaded once at the start of every question.
    snapshot: ArcSwap<Snapshot>,
    /// The units of the snapshot; the lock also keeps applications apart.
    units: Mutex<Vec<Arc<Unit>>>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").finish_non_exhaustive()
    }
}

/// What the sandbox is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatistics {
    pub allocation: Allocation,
    /// Instances alive.
    pub instances: i64,
    /// Instances made so far.
    pub instances_made: u64,
    pub log_lines_dropped: u64,
    pub hooks: Vec<HookStatistics>,
}

impl Sandbox {
    /// # Errors
    /// [`SandboxError`] when there can be no engine. A cache that cannot be opened is logged and done without.
    pub fn new(config: SandboxConfig) -> Result<Arc<Self>, SandboxError> {
        let SandboxConfig {
            cache,
            compilation,
            max_message_bytes,
            max_channel_bytes,
            name_in_errors,
            private_prefix,
            namespace_boundary,
            clock,
            unfit,
            state,
        } = config;
        let engine = SandboxEngine::shared()?;
        let mut linker = Linker::new(&engine.engine);
        capabilities::link(&mut linker).map_err(|error| SandboxError::Engine(error.into()))?;
        let cache = cache.and_then(|config| match Cache::open(config, &engine.engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(%error, "the cache of compiled plugins cannot be used; each start compiles anew");
                None
            }
        });
        let runtime = Runtime {
            engine,
            linker,
            cache,
            compilation,
            keeper: Keeper::new(&clock, state),
            metrics: Arc::default(),
            stories: Stories::default(),
            naming: Naming {
                private_prefix: private_prefix.into(),
                namespace_boundary: namespace_boundary.into(),
            },
            common: CommonLimits {
                max_message_bytes,
                max_channel_bytes,
            },
            name_in_errors,
            no_subject: "".into(),
            clock,
            unfit,
        };
        Ok(Arc::new(Self {
            runtime: Arc::new(runtime),
            compiler: Compiler::default(),
            snapshot: ArcSwap::default(),
            units: Mutex::default(),
        }))
    }

    /// Checks an upload and makes a component of it; compiles nothing. Takes milliseconds: use a blocking
    /// thread.
    ///
    /// # Errors
    /// [`AdmissionRefused`] names the rule and what to do.
    pub fn admit(&self, upload: &[u8]) -> Result<Admitted, AdmissionRefused> {
        admit::admit(upload)
    }

    /// Compiles, or takes from the cache, and tries the plugin out. Waits its turn and takes tens of milliseconds
    /// and more: use a blocking thread.
    ///
    /// # Errors
    /// [`CompileError`]; `Refused` is the uploader's business like a refusal by [`Sandbox::admit`].
    pub fn compile(&self, admitted: &Admitted) -> Result<Compiled, CompileError> {
        self.compiler.compile(&self.runtime, admitted)
    }

    /// Forgets the compiled code of all components but these.
    pub fn keep_only(&self, digests: &[ComponentDigest]) {
        if let Some(cache) = &self.runtime.cache {
            cache.keep_only(digests);
        }
    }

    /// Makes `bindings` what runs. Once this has returned, no question that begins later, on whatever thread,
    /// is asked of anything else; questions that began before finish on what they began with.
    ///
    /// # Errors
    /// [`ApplyError`] names the first binding that cannot be honoured; then nothing was changed.
    pub fn apply(&self, bindings: &Bindings) -> Result<(), ApplyError> {
        let mut units = self.units.lock();
        let (snapshot, now) = activation::build(&self.runtime, &units, bindings)?;
        self.snapshot.store(Arc::new(snapshot));
        let before = std::mem::replace(&mut *units, now);
        for unit in &before {
            if !units.iter().any(|kept| Arc::ptr_eq(kept, unit)) {
                unit.retire();
            }
        }
        let bound: FxHashSet<(&AppId, &str)> = units
            .iter()
            .map(|unit| (&unit.app, &*unit.plugin))
            .collect();
        let metrics = &self.runtime.keeper.metrics;
        metrics.retain(|app, plugin| bound.contains(&(app, plugin)));
        Ok(())
    }

    /// What the node remembers of a question, by the trace id that a client or a guest was given.
    pub fn explain(&self, trace_id: &str) -> Option<Story> {
        self.runtime.stories.find(trace_id)
    }

    /// Takes what has expired off the plugins' state; to be called every [`STATE_SWEEP_INTERVAL`].
    ///
    /// [`STATE_SWEEP_INTERVAL`]: crate::STATE_SWEEP_INTERVAL
    pub fn sweep_state(&self) {
        self.runtime.keeper.state.sweep();
    }

    /// Linear memory of the largest instance that grew since this was asked last, in this process; zero when none
    /// did. For whoever tries out one plugin at a time.
    pub fn take_memory_peak(&self) -> usize {
        limits::take_memory_peak()
    }

    pub fn statistics(&self) -> SandboxStatistics {
        let metrics = &self.runtime.metrics;
        SandboxStatistics {
            allocation: self.runtime.engine.allocation,
            instances: metrics.instances.load(Ordering::Relaxed),
            instances_made: metrics.instances_made.load(Ordering::Relaxed),
            log_lines_dropped: metrics.log_lines_dropped.load(Ordering::Relaxed),
            hooks: metrics.statistics(self.runtime.clock.now_millis()),
        }
    }

    /// Adds the sandbox's metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.runtime.metrics.register(&self.runtime.clock, registry);
        self.runtime.keeper.register(registry);
    }

    #[inline]
    fn ask<R>(&self, question: impl FnOnce(Asker<'_>) -> R) -> R {
        let snapshot = self.snapshot.load();
        question(Asker {
            runtime: &self.runtime,
            snapshot: &snapshot,
        })
    }
}

impl Hooks for Sandbox {
    fn authenticate(&self, question: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        Lane::of(Hook::Authentication).run(|| self.ask(|asker| asker.authenticate(question)))
    }

    fn authorize(&self, question: AuthorizationQuestion) -> Answered<AuthorizationVerdict> {
        Lane::of(Hook::Authorization).run(|| self.ask(|asker| asker.authorize(question)))
    }

    fn filter(&self, draft: Box<Draft>) -> Answered<FilteringVerdict> {
        Lane::of(Hook::Filtering).run(|| self.ask(|asker| asker.filter(draft)))
    }

    fn route(&self, draft: Box<Draft>) -> Answered<RoutingVerdict> {
        Lane::of(Hook::Routing).run(|| self.ask(|asker| asker.route(draft)))
    }

    fn rpc(&self, question: RpcQuestion) -> Answered<RpcVerdict> {
        Lane::of(Hook::Rpc).run(|| self.ask(|asker| asker.rpc(question)))
    }

    fn has_rpc(&self, app: &AppId) -> bool {
        let snapshot = self.snapshot.load();
        snapshot
            .apps
            .get(app)
            .is_some_and(|app| !app.rpc.is_empty())
    }

    fn has_authorization(&self, app: &AppId, channel: &str) -> bool {
        self.ask(|asker| asker.has_authorization(app, channel))
    }
}
