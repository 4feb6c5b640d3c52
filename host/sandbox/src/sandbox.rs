//! The handle that the server holds.

mod questions;

use std::{
    num::NonZeroUsize,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustc_hash::FxHashSet;
use tidegate_realtime::{
    cluster::{Cluster, Gossip},
    hooks::Watch,
    ids::AppId,
    presence::PresenceView,
    store::Store,
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Linker;

use crate::{
    activation::{self, ApplyError},
    admit::{self, AdmissionRefused, Admitted},
    binding::{Bindings, Hook},
    cache::{Cache, CacheConfig},
    capabilities::{self, kept::Keeper, state::sharing::Sharing},
    clock::Clock,
    compile::{Compilation, CompileError, Compiled, Compiler, ComponentDigest, SettingsProblem},
    conduct::UnfitSender,
    engine::{Allocation, SandboxEngine},
    guest::GuestState,
    instances::Instances,
    lane::{Aside, AsideStatistics, Turn},
    limits::{self, StateQuotas},
    logs::{LogFilter, LogFollower, LogItem, Logs},
    metrics::{HookStatistics, Metrics, Sources},
    pipeline::Naming,
    pipelines::{Pipeline, PipelineQuery},
    snapshot::Core,
    stories::{Stories, Story, StoryQuery},
    unit::{CommonLimits, Unit},
};

/// One story a second is nothing beside what a plugin answers, and enough to see how it is asked.
const DEFAULT_EXPLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Calls that wait for other machines at once. A store that answers in a millisecond is asked sixteen thousand times a
/// second by the half of them that one app may have, and threads that wait cost little beside their instances: sixty
/// kilobytes for each plugin that was asked there.
const DEFAULT_WAITING_THREADS: NonZeroUsize = NonZeroUsize::new(32).expect("it is not 0");

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
    /// Whether refusals carry ` (trace ID)` behind, and each has its story (`plugins.trace_in_refusals`).
    pub trace_in_refusals: bool,
    /// `channel.private_prefix`.
    pub private_prefix: String,
    /// `channel.namespace_boundary`.
    pub namespace_boundary: String,
    /// By which plugins are judged and keys of `state` end; tests move one by hand.
    pub clock: Clock,
    /// Threads that run plugins aside; as many as the machine has cores where none is given.
    pub plugin_threads: Option<NonZeroUsize>,
    /// Threads for plugins that wait for other machines; there are none before there is such a plugin.
    pub waiting_threads: NonZeroUsize,
    /// Instances that there may be at once; what the pool holds where none is given.
    pub max_instances: Option<NonZeroUsize>,
    /// Where versions are reported that keep failing since they replaced another.
    pub unfit: Option<UnfitSender>,
    /// What plugins may keep in `state`.
    pub state: StateQuotas,
    /// How often the story of a question that went well is kept, of each plugin and hook; zero for never.
    pub explain_interval: Duration,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            cache: None,
            compilation: Compilation::default(),
            max_message_bytes: 64 << 10,
            max_channel_bytes: 255,
            name_in_errors: false,
            trace_in_refusals: false,
            private_prefix: "$".to_owned(),
            namespace_boundary: ":".to_owned(),
            clock: Clock::default(),
            plugin_threads: None,
            waiting_threads: DEFAULT_WAITING_THREADS,
            max_instances: None,
            unfit: None,
            state: StateQuotas::default(),
            explain_interval: DEFAULT_EXPLAIN_INTERVAL,
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("the WebAssembly engine could not be started")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the threads that run plugins could not be started; raise the limit of threads")]
    Threads(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What calls need of the node; shared by everything in this crate.
pub(crate) struct Runtime {
    pub(crate) engine: Arc<SandboxEngine>,
    pub(crate) linker: Linker<GuestState>,
    pub(crate) cache: Option<Cache>,
    pub(crate) compilation: Compilation,
    /// What outlives instances.
    pub(crate) keeper: Keeper,
    pub(crate) instances: Arc<Instances>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stories: Stories,
    pub(crate) logs: Logs,
    pub(crate) naming: Naming,
    pub(crate) common: CommonLimits,
    pub(crate) name_in_errors: bool,
    pub(crate) trace_in_refusals: bool,
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
}

/// Plugins of a node.
pub struct Sandbox {
    core: Arc<Core>,
    compiler: Compiler,
    aside: Arc<Aside>,
    /// The units of the snapshot; the lock also keeps applications apart.
    units: Mutex<Vec<Arc<Unit>>>,
    /// Who is told which plugins have duties.
    watch: OnceLock<Arc<dyn Watch>>,
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
    /// Instances that there may be at once.
    pub max_instances: usize,
    /// Instances alive.
    pub instances: usize,
    /// Instances made so far.
    pub instances_made: u64,
    /// Instances that made room for others so far.
    pub instances_evicted: u64,
    pub aside: AsideStatistics,
    /// The threads for plugins that wait.
    pub waiting: AsideStatistics,
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
            trace_in_refusals,
            private_prefix,
            namespace_boundary,
            clock,
            plugin_threads,
            waiting_threads,
            max_instances,
            unfit,
            state,
            explain_interval,
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
        let pool = engine.allocation.instances();
        let capacity = max_instances.map_or(pool, |most| pool.min(most.get()));
        let aside = Aside::start(plugin_threads, waiting_threads)
            .map_err(|error| SandboxError::Threads(error.into()))?;
        let metrics = Arc::<Metrics>::default();
        let runtime = Runtime {
            logs: Logs::new(Arc::clone(&metrics.log_lines_dropped)),
            instances: Instances::new(capacity),
            engine,
            linker,
            cache,
            compilation,
            keeper: Keeper::new(&clock, state),
            metrics,
            stories: Stories::new(explain_interval),
            naming: Naming {
                private_prefix: private_prefix.into(),
                namespace_boundary: namespace_boundary.into(),
            },
            common: CommonLimits {
                max_message_bytes,
                max_channel_bytes,
            },
            name_in_errors,
            trace_in_refusals,
            no_subject: "".into(),
            clock,
            unfit,
        };
        Ok(Arc::new(Self {
            core: Arc::new(Core::new(Arc::new(runtime))),
            compiler: Compiler::default(),
            aside: Arc::new(aside),
            units: Mutex::default(),
            watch: OnceLock::new(),
        }))
    }

    /// Names where plugins see who is subscribed. Only the first call has an effect; before it, `presence` answers
    /// that there is none.
    pub fn watch_presence(&self, view: Arc<dyn PresenceView>) {
        let _ = self.core.runtime.keeper.presence.set(view);
    }

    /// Names the store of plugins, what drives it while one waits, and what ends the waiting. Only the first call has
    /// an effect; before it, `store` answers that there is none.
    pub fn open_store(&self, store: Arc<dyn Store>, runtime: Handle, stop: CancellationToken) {
        self.core.runtime.keeper.store.open(store, runtime, stop);
    }

    /// Shares what plugins keep in `state` with the other nodes of the cluster. To be called once, before the cluster
    /// runs; what is returned has to run for as long as the node does, and ends with `stop`.
    pub fn share_state(
        &self,
        cluster: &Arc<Cluster>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (sharing, inbox) = Sharing::new(Arc::clone(&self.core.runtime.keeper.state));
        let gossip: Arc<dyn Gossip> = Arc::clone(&sharing) as Arc<dyn Gossip>;
        cluster.gossip_to(Arc::downgrade(&gossip));
        sharing.run(Arc::clone(cluster), inbox, stop)
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
        self.compiler.compile(&self.core.runtime, admitted)
    }

    /// Asks the plugin whether it can use these settings where it would be bound; one that has nothing to say can use
    /// any. Takes as long as a call: use a blocking thread.
    ///
    /// # Errors
    /// [`SettingsProblem`] has the plugin's words.
    pub fn check_settings(
        &self,
        compiled: &Compiled,
        hook: Hook,
        settings: &str,
    ) -> Result<(), SettingsProblem> {
        compiled.check_settings(&self.core.runtime, hook, settings)
    }

    /// Forgets the compiled code of all components but these.
    pub fn keep_only(&self, digests: &[ComponentDigest]) {
        if let Some(cache) = &self.core.runtime.cache {
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
        let runtime = &self.core.runtime;
        let (snapshot, now) = activation::build(runtime, &units, bindings)?;
        self.core.replace(snapshot);
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
        let metrics = &runtime.keeper.metrics;
        metrics.retain(|app, plugin| bound.contains(&(app, plugin)));
        drop(bound);
        runtime.metrics.keep(&units);
        self.tell_duties(&units);
        drop(units);
        // Threads that have nothing to do would keep theirs.
        runtime.instances.drop_retired();
        runtime.logs.forget_unused();
        Ok(())
    }

    /// Called with the units locked, so that what was told last is what runs.
    fn tell_duties(&self, units: &[Arc<Unit>]) {
        if let Some(watch) = self.watch.get() {
            watch.on_duties(&activation::duties(units));
        }
    }

    /// What the node remembers of a question, by the trace id that a client or a guest was given.
    pub fn explain(&self, trace_id: &str) -> Option<Story> {
        self.core.runtime.stories.find(trace_id)
    }

    /// Gives back what a deleted plugin kept in `state`, its log and its counts: another one of its name begins with
    /// nothing.
    pub fn forget_plugin(&self, app: &AppId, plugin: &str) {
        self.core.runtime.metrics.forget(app, Some(plugin));
        self.core.runtime.logs.forget_plugin(app, plugin);
        self.core.runtime.keeper.state.forget_plugin(app, plugin);
    }

    /// Gives back what the plugins of a deleted app kept in `state`, their logs, stories and counts.
    pub fn forget_app(&self, app: &AppId) {
        self.core.runtime.metrics.forget(app, None);
        self.core.runtime.logs.forget_app(app);
        self.core.runtime.stories.forget_app(app);
        self.core.runtime.keeper.state.forget_app(app);
    }

    /// The last `limit` lines of the plugin's log that the filter lets through, oldest first, and how many are missing
    /// between them.
    pub fn log(&self, app: &AppId, plugin: &str, filter: &LogFilter, limit: usize) -> Vec<LogItem> {
        let log = self.core.runtime.logs.of(app, plugin);
        log.recent(filter, limit)
    }

    /// The same, and from then on what comes. The plugin need not be bound yet.
    pub fn follow_log(
        &self,
        app: &AppId,
        plugin: &str,
        filter: LogFilter,
        recent: usize,
    ) -> LogFollower {
        let log = self.core.runtime.logs.of(app, plugin);
        LogFollower::new(log, filter, recent)
    }

    /// What the node remembers of an app's questions, the newest first, at most so many.
    pub fn stories(&self, app: &str, query: StoryQuery<'_>, most: usize) -> Vec<Story> {
        self.core.runtime.stories.list(app, query, most)
    }

    /// Takes what has expired off the plugins' state; to be called every [`STATE_SWEEP_INTERVAL`].
    ///
    /// [`STATE_SWEEP_INTERVAL`]: crate::STATE_SWEEP_INTERVAL
    pub fn sweep_state(&self) {
        self.core.runtime.keeper.state.sweep();
    }

    /// Linear memory of the largest instance that grew since this was asked last, in this process; zero when none
    /// did. For whoever tries out one plugin at a time.
    pub fn take_memory_peak(&self) -> usize {
        limits::take_memory_peak()
    }

    pub fn statistics(&self) -> SandboxStatistics {
        let runtime = &self.core.runtime;
        SandboxStatistics {
            allocation: runtime.engine.allocation,
            max_instances: runtime.instances.capacity(),
            instances: runtime.instances.alive(),
            instances_made: runtime.instances.made(),
            instances_evicted: runtime.instances.evicted(),
            aside: self.aside.statistics(),
            waiting: self.aside.waiting_statistics(),
            log_lines_dropped: runtime.metrics.log_lines_dropped.load(Ordering::Relaxed),
            hooks: runtime
                .metrics
                .statistics(|_| true, runtime.clock.now_millis()),
        }
    }

    /// Who is asked in an app, hook by hook and scope by scope.
    pub fn pipelines(&self, app: &str, query: PipelineQuery<'_>) -> Vec<Pipeline> {
        self.core.ask(Turn::Inline, |asker| {
            let mut apps = asker.snapshot.apps.keys();
            let found = apps.find(|known| known.as_str() == app);
            found.map_or_else(Vec::new, |app| query.answer(asker, app))
        })
    }

    /// What the plugins of one app did.
    pub fn statistics_of(&self, app: &str) -> Vec<HookStatistics> {
        let runtime = &self.core.runtime;
        runtime
            .metrics
            .statistics(|place| place.as_str() == app, runtime.clock.now_millis())
    }

    /// Adds the sandbox's metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let runtime = &self.core.runtime;
        let sources = Sources {
            metrics: Arc::clone(&runtime.metrics),
            clock: runtime.clock.clone(),
            instances: Arc::clone(&runtime.instances),
            aside: Arc::downgrade(&self.aside),
        };
        sources.register(registry);
        runtime.keeper.register(registry);
        runtime.logs.register(registry);
    }
}
