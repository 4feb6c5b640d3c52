//! From an admitted component to one that can be instantiated.
//!
//! Compiles once per digest, asks the disk cache first, links, looks the hooks up by type and makes one
//! instance as a trial. Blocking: tens of milliseconds and, for a hostile component, up to the limit of the
//! compile child; callers use a blocking thread. [`Compilation`] says where machine code is made.
//!
//! Invariant: what is cached or loaded is never held up by what is being compiled.

mod child;
pub(crate) mod duties;
mod queue;
mod settings;
mod spawn;

use std::{
    collections::HashMap,
    env,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use wasmtime::component::{Component, InstancePre};

use crate::{
    Runtime,
    admit::{AdmissionRefused, Admitted},
    binding::{Class, Hook},
    cache::native::{self, Generated},
    failure::{FailureKind, escape},
    generated::exports::tidegate::plugin as exports,
    guest::GuestState,
    instance::{Instance, Sampling},
    instances::{Patience, Stage},
    limits, stubs,
    unit::Unit,
};

pub use self::{
    child::compile_child,
    settings::SettingsProblem,
    spawn::{CompileChild, DEFAULT_COMPILE_ADDRESS_SPACE_BYTES, DEFAULT_COMPILE_TIME},
};
use self::{duties::PluginDuties, queue::Queue};

/// Where machine code is made.
#[derive(Debug, Clone, Default)]
pub enum Compilation {
    /// By the calling thread, without any limit: for components that come from nobody but us, as in tests and
    /// benches.
    #[default]
    InThisProcess,
    /// In a process of its own, limited and killable.
    Child(CompileChild),
}

/// How long a trial waits for an instance to come free.
const TRIAL_PATIENCE: Duration = Duration::from_secs(5);

/// SHA-256 of a component.
pub type ComponentDigest = [u8; 32];

/// The interface through which a plugin reads fields of the data in hand, before its version.
const JSON: &str = "tidegate:plugin/json@";
/// The same of that through which it asks about the call.
const CONTEXT: &str = "tidegate:plugin/context@";

/// A plugin's code, ready to be instantiated, or what stands for code that is not. Cheap to clone.
#[derive(Clone)]
pub struct Compiled(Result<Arc<Parts>, Arc<NotReady>>);

/// Code that should run and cannot.
#[derive(PartialEq, Eq)]
struct NotReady {
    digest: ComponentDigest,
    reason: String,
}

pub(crate) struct Parts {
    digest: ComponentDigest,
    hooks: Vec<Hook>,
    imports_json: bool,
    imports_context: bool,
    class: Class,
    /// Set by the trial, which no plugin runs without.
    duties: OnceLock<PluginDuties>,
    pub(crate) pre: InstancePre<GuestState>,
    pub(crate) indices: HookIndices,
}

/// Where each hook's function is among the exports; `None` for a hook that is not exported.
#[derive(Default)]
pub(crate) struct HookIndices {
    pub(crate) authentication: Option<exports::authentication::GuestIndices>,
    pub(crate) authorization: Option<exports::authorization::GuestIndices>,
    pub(crate) filtering: Option<exports::filtering::GuestIndices>,
    pub(crate) routing: Option<exports::routing::GuestIndices>,
    pub(crate) rpc: Option<exports::rpc::GuestIndices>,
    pub(crate) events: Option<exports::events::GuestIndices>,
    pub(crate) schedule: Option<exports::schedule::GuestIndices>,
    /// No hook: which settings it can use.
    pub(crate) settings: Option<exports::settings::GuestIndices>,
}

/// Why a component could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It breaks a rule, or compiling or instantiating it does; the uploader must change it.
    #[error(transparent)]
    Refused(#[from] AdmissionRefused),
    /// Too many components wait for the compiler; the same one may be compiled later.
    #[error("too many plugins wait to be compiled")]
    Busy,
    /// We could not do it; nobody knows yet whether the component is good.
    #[error("{0}")]
    Failed(String),
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("digest", &hex::encode(self.digest()))
            .field("hooks", &self.hooks())
            .field("problem", &self.problem())
            .finish_non_exhaustive()
    }
}

impl Compiled {
    /// Stands for code that cannot be made ready, so that its bindings answer their failure policies instead of
    /// being absent. `reason` is shown to operators and authors.
    pub fn not_ready(digest: ComponentDigest, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self(Err(Arc::new(NotReady { digest, reason })))
    }

    pub fn digest(&self) -> &ComponentDigest {
        match &self.0 {
            Ok(parts) => &parts.digest,
            Err(not_ready) => &not_ready.digest,
        }
    }

    /// What it can be bound to; nobody knows that of code that is not ready, so it is everything.
    pub fn hooks(&self) -> &[Hook] {
        match &self.0 {
            Ok(parts) => &parts.hooks,
            Err(_) => &Hook::ALL,
        }
    }

    /// Why it cannot run, if it cannot.
    pub fn problem(&self) -> Option<&str> {
        self.0.as_ref().err().map(|it| it.reason.as_str())
    }

    /// Whether it may read fields of the data in hand.
    pub(crate) fn imports_json(&self) -> bool {
        self.0.as_ref().is_ok_and(|parts| parts.imports_json)
    }

    /// Whether it may ask about the call in hand.
    pub(crate) fn imports_context(&self) -> bool {
        self.0.as_ref().is_ok_and(|parts| parts.imports_context)
    }

    /// Whether its calls may wait for other machines. What cannot run does not.
    pub fn class(&self) -> Class {
        self.0
            .as_ref()
            .map_or(Class::Immediate, |parts| parts.class)
    }

    /// What it does besides answering; nobody knows that of code that is not ready, so it is nothing.
    pub(crate) fn duties(&self) -> PluginDuties {
        let parts = self.0.as_ref().ok();
        let duties = parts.and_then(|parts| parts.duties.get());
        duties.cloned().unwrap_or_default()
    }

    /// Whether instances of one are as good as those of the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Ok(one), Ok(other)) => one.digest == other.digest,
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        }
    }

    pub(crate) fn parts(&self) -> wasmtime::Result<&Parts> {
        match &self.0 {
            Ok(parts) => Ok(parts),
            Err(not_ready) => Err(wasmtime::Error::msg(not_ready.reason.clone())),
        }
    }
}

/// Makes components ready, each digest once.
#[derive(Default)]
pub(crate) struct Compiler {
    /// What is in use somewhere. Never held while anything is compiled.
    alive: Mutex<HashMap<ComponentDigest, Weak<Parts>>>,
    queue: Queue,
}

impl Compiler {
    pub(crate) fn compile(
        &self,
        runtime: &Arc<Runtime>,
        admitted: &Admitted,
    ) -> Result<Compiled, CompileError> {
        if let Some(ready) = self.ready(runtime, admitted) {
            return ready;
        }
        let _turn = self.queue.enter().ok_or(CompileError::Busy)?;
        // Whoever had the turn before may have compiled the same.
        if let Some(ready) = self.ready(runtime, admitted) {
            return ready;
        }
        let engine = &runtime.engine.engine;
        let artifact = generate(runtime, &admitted.component)?;
        if let Some(cache) = &runtime.cache {
            cache.store(&admitted.digest, &artifact);
        }
        let component = native::load(engine, &artifact).map_err(|error| unloadable(&error))?;
        self.finish(runtime, admitted, &component)
    }

    /// The component if it need not be compiled: it is in use, or in the cache.
    fn ready(
        &self,
        runtime: &Arc<Runtime>,
        admitted: &Admitted,
    ) -> Option<Result<Compiled, CompileError>> {
        let alive = self
            .alive
            .lock()
            .get(&admitted.digest)
            .and_then(Weak::upgrade);
        if let Some(parts) = alive {
            return Some(Ok(Compiled(Ok(parts))));
        }
        let cache = runtime.cache.as_ref()?;
        let component = cache.load(&runtime.engine.engine, &admitted.digest)?;
        Some(self.finish(runtime, admitted, &component))
    }

    fn finish(
        &self,
        runtime: &Arc<Runtime>,
        admitted: &Admitted,
        component: &Component,
    ) -> Result<Compiled, CompileError> {
        let parts = Arc::new(link(runtime, admitted, component)?);
        let compiled = Compiled(Ok(Arc::clone(&parts)));
        try_out(runtime, &compiled)?;
        let mut alive = self.alive.lock();
        alive.retain(|_, parts| parts.strong_count() > 0);
        // Two may have loaded the same at once; the first stays, so that all share it.
        if let Some(parts) = alive.get(&admitted.digest).and_then(Weak::upgrade) {
            return Ok(Compiled(Ok(parts)));
        }
        alive.insert(admitted.digest, Arc::downgrade(&parts));
        Ok(compiled)
    }
}

/// Makes machine code.
fn generate(runtime: &Runtime, component: &[u8]) -> Result<Generated, CompileError> {
    let artifact = match &runtime.compilation {
        Compilation::InThisProcess => {
            let engine = &runtime.engine.engine;
            engine
                .precompile_component(component)
                .map_err(|error| not_compilable(&format!("{error:#}")))?
        }
        Compilation::Child(child) => {
            let scratch = runtime.cache.as_ref().map(|cache| cache.directory());
            child.compile(component, scratch.unwrap_or(&env::temp_dir()))?
        }
    };
    Ok(Generated::here(artifact))
}

/// Why machine code that was just made is not taken: an instance would not fit into a slot of the pool, which is
/// the component's doing, or else something of ours is wrong.
fn unloadable(error: &wasmtime::Error) -> CompileError {
    let problem = format!("{error:#}");
    // The engine says it in one of two ways, of a component and of a module in it.
    let is_too_large = ["exceeds the configured maximum", "fit in pooling allocator"];
    if is_too_large.iter().any(|words| problem.contains(words)) {
        return CompileError::Refused(too_large_an_instance(problem));
    }
    CompileError::Failed(format!("what was compiled cannot be loaded: {problem}"))
}

fn too_large_an_instance(detail: String) -> AdmissionRefused {
    AdmissionRefused::new(
        "instance-size",
        detail,
        "instantiate each core module once, and give the plugin one memory",
    )
}

/// The compiler's own refusal of a valid component.
fn not_compilable(problem: &str) -> CompileError {
    CompileError::Refused(AdmissionRefused::new(
        "compile",
        format!("the component cannot be compiled: {}", escape(problem, 500)),
        "build it again with the newest tidegate-sdk and rustc, target wasm32-unknown-unknown",
    ))
}

fn link(
    runtime: &Runtime,
    admitted: &Admitted,
    component: &Component,
) -> Result<Parts, CompileError> {
    let contract = |error: wasmtime::Error| {
        AdmissionRefused::new(
            "contract-type",
            format!("{error:#}"),
            "build the plugin against the WIT of this server's version",
        )
    };
    fits_the_pool(component)?;
    let mut linker = runtime.linker.clone();
    stubs::link(&mut linker, component).map_err(contract)?;
    let pre = linker.instantiate_pre(component).map_err(contract)?;
    let mut indices = HookIndices::default();
    if admitted.checks_settings {
        let found = exports::settings::GuestIndices::new(&pre).map_err(contract)?;
        indices.settings = Some(found);
    }
    for hook in &admitted.hooks {
        match hook {
            Hook::Authentication => {
                indices.authentication =
                    Some(exports::authentication::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Authorization => {
                indices.authorization =
                    Some(exports::authorization::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Filtering => {
                indices.filtering =
                    Some(exports::filtering::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Routing => {
                indices.routing =
                    Some(exports::routing::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Rpc => {
                indices.rpc = Some(exports::rpc::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Events => {
                indices.events = Some(exports::events::GuestIndices::new(&pre).map_err(contract)?);
            }
            Hook::Schedule => {
                indices.schedule =
                    Some(exports::schedule::GuestIndices::new(&pre).map_err(contract)?);
            }
        }
    }
    Ok(Parts {
        digest: admitted.digest,
        hooks: admitted.hooks.clone(),
        imports_json: admitted.imports(JSON),
        imports_context: admitted.imports(CONTEXT),
        class: admitted.class(),
        duties: OnceLock::new(),
        pre,
        indices,
    })
}

/// What an instance takes, counted by the compiler: components that are instantiated several times count as often,
/// which nothing that only reads the file can tell. The pool has said so already; this is for nodes without one.
fn fits_the_pool(component: &Component) -> Result<(), AdmissionRefused> {
    let Some(required) = component.resources_required() else {
        return Err(too_large_an_instance(
            "it imports a core module, so nobody can tell what an instance takes".to_owned(),
        ));
    };
    for (what, found, limit) in [
        ("memories", required.num_memories, limits::MEMORIES),
        ("tables", required.num_tables, limits::TABLES),
    ] {
        if found > limit {
            return Err(too_large_an_instance(format!(
                "an instance has {found} {what}, more than {limit}"
            )));
        }
    }
    Ok(())
}

/// Makes one instance for each hook under all limits: start functions run guest code.
fn try_out(runtime: &Arc<Runtime>, compiled: &Compiled) -> Result<(), CompileError> {
    let mut duties = PluginDuties::default();
    for hook in compiled.hooks() {
        let unit = Arc::new(Unit::trial(compiled, *hook, runtime));
        // A trial waits its turn like a call: the pool may be full of instances that are in use.
        let until = Patience::Until(Instant::now() + TRIAL_PATIENCE);
        let now = runtime.engine.ticker.now();
        let slot = runtime.instances.slot(Stage::UnderWay, until, now);
        let (slot, _) = slot.ok_or_else(|| {
            CompileError::Failed(
                "all plugin instances that the node may have are in use; try again".to_owned(),
            )
        })?;
        let mut instance = Instance::build(runtime, &unit, slot, Sampling::Drawn).map_err(
            |failure| match failure.kind {
                FailureKind::NoSlot | FailureKind::HostPanic | FailureKind::BreakerOpen => {
                    CompileError::Failed(format!(
                        "no instance could be made to try the plugin out: {}",
                        failure.detail
                    ))
                }
                FailureKind::Timeout => initialiser(format!(
                    "its initialisation did not end within {} ms",
                    limits::INSTANTIATION_DEADLINE.as_millis()
                )),
                FailureKind::Memory => initialiser(format!(
                    "its initialisation wants more than {} bytes of memory: {}",
                    limits::DEFAULT_MEMORY_BYTES,
                    failure.detail
                )),
                FailureKind::Trap | FailureKind::BadValue | FailureKind::Limit => {
                    initialiser(failure.detail.to_string())
                }
            },
        )?;
        duties.ask(runtime, &mut instance)?;
    }
    if let Ok(parts) = &compiled.0 {
        // Another trial of the same found the same.
        let _ = parts.duties.set(duties);
    }
    Ok(())
}

/// A plugin of which not even an instance can be made.
fn initialiser(detail: String) -> CompileError {
    CompileError::Refused(AdmissionRefused::new(
        "initialiser",
        detail,
        "a plugin must not trap, wait, compute much, nor use WASI while it is initialised; do that work at the \
         first call",
    ))
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;

    use super::*;
    use crate::engine::{self, SandboxEngine};

    /// Whether a component with this module, instantiated so often, is refused for its size.
    fn is_refused(engine: &Engine, module: &str, times: usize) -> bool {
        let text = format!(
            "(component (component $c (core module $m {module}) (core instance (instantiate $m))) {})",
            "(instance (instantiate $c))".repeat(times)
        );
        let refusal = match Component::new(engine, wat::parse_str(text).unwrap()) {
            Ok(component) => fits_the_pool(&component).err(),
            Err(error) => match unloadable(&error) {
                CompileError::Refused(refusal) => Some(refusal),
                other => panic!("{other}"),
            },
        };
        refusal.is_some_and(|refusal| refusal.rule == "instance-size")
    }

    #[test]
    fn w5_what_is_instantiated_several_times_counts_as_often_with_a_pool_and_without() {
        let pool = &SandboxEngine::shared().unwrap().engine;
        for engine in [pool, &engine::for_compiling().unwrap()] {
            assert!(!is_refused(engine, "(memory 1) (table 1 funcref)", 1));
            assert!(is_refused(engine, "(memory 1)", 2));
            assert!(is_refused(engine, "(table 1 funcref) (table 1 funcref)", 3));
        }
    }
}
