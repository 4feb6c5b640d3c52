//! Making the desired state the running one.
//!
//! The whole state is built first, then one pointer is swapped. Every question loads that pointer once when it
//! begins, so a question that begins after [`activate`] returned cannot see what it replaced; questions that
//! began before finish on what they loaded. Units that did not change stay, and with them their instances.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

use crate::{
    Runtime,
    binding::{Binding, Bindings, FailurePolicy, Hook, Scope},
    capabilities::log::LogBudget,
    limits::MEMORY_CAP_BYTES,
    pipeline::{AppPipelines, Scoped, Snapshot, Units},
    unit::Unit,
};

/// A binding that cannot be honoured; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin} version {version} at {hook} in app {app}: {problem}")]
pub struct ApplyError {
    pub app: AppId,
    pub plugin: Arc<str>,
    pub version: u32,
    pub hook: Hook,
    pub problem: BindingProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingProblem {
    #[error(
        "this version does not export the hook; unbind it there or activate a version that does"
    )]
    HookNotExported,
    #[error(
        "the scope does not suit the hook; use `app`, `namespace:NAME` for hooks of channels or `rpc:PREFIX` for rpc"
    )]
    ScopeUnsuitable,
    #[error("only filtering may have the failure policy `open`")]
    OpenPolicyNotAllowed,
    #[error("a deadline is 1 ms to {} ms at this hook", .cap_millis)]
    Deadline { cap_millis: u128 },
    #[error("memory is 64 KiB to {MEMORY_CAP_BYTES} bytes")]
    Memory,
}

/// Builds the new state, reusing units of `previous` that did not change.
pub(crate) fn build(
    runtime: &Runtime,
    previous: &[Arc<Unit>],
    bindings: &Bindings,
) -> Result<(Snapshot, Vec<Arc<Unit>>), ApplyError> {
    for (app, list) in &bindings.apps {
        for binding in list {
            check(binding).map_err(|problem| ApplyError {
                app: app.clone(),
                plugin: Arc::clone(&binding.plugin),
                version: binding.version,
                hook: binding.hook,
                problem,
            })?;
        }
    }
    let mut left: Vec<_> = previous.iter().map(Some).collect();
    let mut units = Vec::new();
    let mut apps = FxHashMap::default();
    for (app, list) in &bindings.apps {
        let mut budgets: FxHashMap<Arc<str>, Arc<LogBudget>> = previous
            .iter()
            .filter(|unit| unit.app == *app)
            .map(|unit| (Arc::clone(&unit.plugin), Arc::clone(&unit.log_budget)))
            .collect();
        let mut ordered: Vec<&Binding> = list.iter().collect();
        ordered.sort_by_key(|binding| binding.position);
        let mut of_app = Vec::with_capacity(ordered.len());
        for binding in ordered {
            let kept = left
                .iter_mut()
                .find(|unit| unit.is_some_and(|unit| unit.matches(app, binding)))
                .and_then(Option::take);
            let unit = match kept {
                Some(unit) => Arc::clone(unit),
                None => {
                    let budget = budgets
                        .entry(Arc::clone(&binding.plugin))
                        .or_insert_with(|| runtime.log_budget());
                    Arc::new(Unit::new(
                        app,
                        binding,
                        runtime.common,
                        Arc::clone(budget),
                        runtime.metrics.tally(app, &binding.plugin, binding.hook),
                    ))
                }
            };
            of_app.push(unit);
        }
        apps.insert(app.clone(), pipelines(&of_app));
        units.append(&mut of_app);
    }
    Ok((Snapshot { apps }, units))
}

fn check(binding: &Binding) -> Result<(), BindingProblem> {
    let Binding {
        compiled,
        hook,
        scope,
        failure_policy,
        limits,
        ..
    } = binding;
    if !compiled.hooks().contains(hook) {
        return Err(BindingProblem::HookNotExported);
    }
    if !scope.suits(*hook) {
        return Err(BindingProblem::ScopeUnsuitable);
    }
    if *failure_policy == FailurePolicy::Open && *hook != Hook::Filtering {
        return Err(BindingProblem::OpenPolicyNotAllowed);
    }
    let cap = hook.deadline_cap();
    if limits
        .deadline
        .is_some_and(|deadline| deadline.as_millis() == 0 || deadline > cap)
    {
        return Err(BindingProblem::Deadline {
            cap_millis: cap.as_millis(),
        });
    }
    if limits
        .memory_bytes
        .is_some_and(|bytes| !(64 << 10..=MEMORY_CAP_BYTES).contains(&bytes))
    {
        return Err(BindingProblem::Memory);
    }
    Ok(())
}

/// Sorts an app's units, which are in order of position, into its pipelines.
fn pipelines(units: &[Arc<Unit>]) -> AppPipelines {
    let at = |hook: Hook| -> Units {
        units
            .iter()
            .filter(|unit| unit.hook == hook)
            .cloned()
            .collect()
    };
    let scoped = |hook: Hook| -> Scoped { scoped(&at(hook)) };
    AppPipelines {
        authentication: at(Hook::Authentication),
        authorization: scoped(Hook::Authorization),
        filtering: scoped(Hook::Filtering),
        routing: scoped(Hook::Routing),
        rpc: at(Hook::Rpc),
    }
}

fn scoped(units: &[Arc<Unit>]) -> Scoped {
    let named: BTreeSet<&str> = units
        .iter()
        .filter_map(|unit| match &unit.scope {
            Scope::Namespace(name) => Some(name.as_str()),
            Scope::App | Scope::RpcPrefix(_) => None,
        })
        .collect();
    let within = |namespace: Option<&str>| -> Units {
        units
            .iter()
            .filter(|unit| match &unit.scope {
                Scope::App => true,
                Scope::Namespace(name) => Some(name.as_str()) == namespace,
                Scope::RpcPrefix(_) => false,
            })
            .cloned()
            .collect()
    };
    Scoped {
        elsewhere: within(None),
        namespaces: named
            .into_iter()
            .map(|name| (name.into(), within(Some(name))))
            .collect(),
    }
}
