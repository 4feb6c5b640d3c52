//! From an admitted component to one that can be instantiated.
//!
//! Compiles once per digest, asks the disk cache first, links, looks the hooks up by type and makes one
//! instance as a trial. Blocking: tens of milliseconds, so callers use a blocking thread. [`generate`] is the
//! one place where machine code is made; it is where a child process takes over.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use wasmtime::{
    Engine,
    component::{Component, InstancePre},
};

use crate::{
    Runtime,
    admit::{AdmissionRefused, Admitted},
    binding::Hook,
    generated::exports::tidegate::plugin as exports,
    guest::GuestState,
    instance::Instance,
    stubs,
    unit::Unit,
};

/// SHA-256 of a component.
pub type ComponentDigest = [u8; 32];

/// A plugin's code, ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Compiled(Arc<Parts>);

pub(crate) struct Parts {
    digest: ComponentDigest,
    hooks: Vec<Hook>,
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
}

/// Why a component could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It does not keep the contract; the uploader must change it.
    #[error(transparent)]
    Refused(#[from] AdmissionRefused),
    /// The compiler could not cope with it.
    #[error("the component could not be compiled: {0}")]
    Failed(String),
    /// It compiled, but not even an instance of it can be made.
    #[error("an instance could not be made ({kind}): {detail}")]
    Trial {
        kind: &'static str,
        detail: Arc<str>,
    },
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("digest", &hex::encode(self.0.digest))
            .field("hooks", &self.0.hooks)
            .finish_non_exhaustive()
    }
}

impl Compiled {
    pub fn digest(&self) -> &ComponentDigest {
        &self.0.digest
    }

    pub fn hooks(&self) -> &[Hook] {
        &self.0.hooks
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }
}

/// Components that are alive, so that one digest is compiled and loaded once.
#[derive(Default)]
pub(crate) struct Compiler {
    /// Held while compiling: one compilation at a time leaves the other cores to the sessions.
    alive: Mutex<HashMap<ComponentDigest, Weak<Parts>>>,
}

impl Compiler {
    pub(crate) fn compile(
        &self,
        runtime: &Arc<Runtime>,
        admitted: &Admitted,
    ) -> Result<Compiled, CompileError> {
        let mut alive = self.alive.lock();
        if let Some(parts) = alive.get(&admitted.digest).and_then(Weak::upgrade) {
            return Ok(Compiled(parts));
        }
        let engine = &runtime.engine.engine;
        let cached = runtime
            .cache
            .as_ref()
            .and_then(|cache| cache.load(engine, &admitted.digest));
        let component = match cached {
            Some(component) => component,
            None => {
                let component = generate(engine, &admitted.component)?;
                if let Some(cache) = &runtime.cache {
                    cache.store(&admitted.digest, &component);
                }
                component
            }
        };
        let compiled = Compiled(Arc::new(link(runtime, admitted, &component)?));
        try_out(runtime, &compiled)?;
        alive.retain(|_, parts| parts.strong_count() > 0);
        alive.insert(admitted.digest, Arc::downgrade(&compiled.0));
        Ok(compiled)
    }
}

/// Makes machine code. A panic of the compiler is a failure like any other.
fn generate(engine: &Engine, component: &[u8]) -> Result<Component, CompileError> {
    match catch_unwind(AssertUnwindSafe(|| {
        Component::from_binary(engine, component)
    })) {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(error)) => Err(CompileError::Failed(format!("{error:#}"))),
        Err(_) => Err(CompileError::Failed("the compiler panicked".to_owned())),
    }
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
    let mut linker = runtime.linker.clone();
    stubs::link(&mut linker, component).map_err(contract)?;
    let pre = linker.instantiate_pre(component).map_err(contract)?;
    let mut indices = HookIndices::default();
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
        }
    }
    Ok(Parts {
        digest: admitted.digest,
        hooks: admitted.hooks.clone(),
        pre,
        indices,
    })
}

/// Makes one instance for each hook under all limits: start functions run guest code.
fn try_out(runtime: &Arc<Runtime>, compiled: &Compiled) -> Result<(), CompileError> {
    for hook in compiled.hooks() {
        let unit = Arc::new(Unit::trial(compiled, *hook, runtime));
        Instance::build(runtime, &unit).map_err(|failure| match failure.kind {
            crate::FailureKind::Trap => CompileError::Refused(AdmissionRefused::new(
                "initialiser",
                failure.detail.to_string(),
                "a plugin must not trap, nor use WASI, while it is initialised",
            )),
            kind => CompileError::Trial {
                kind: kind.as_str(),
                detail: failure.detail,
            },
        })?;
    }
    Ok(())
}
