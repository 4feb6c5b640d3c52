//! Making the desired state the running one.
//!
//! The whole state is built first, then one pointer is swapped. Every question loads that pointer once when it
//! begins, so a question that begins after [`activate`] returned cannot see what it replaced; questions that
//! began before finish on what they loaded. Units that did not change stay, and with them their instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use tidegate_realtime::{
    events::Observer,
    hooks::{Duties, Timetable},
    ids::AppId,
};

use crate::{
    Runtime,
    binding::{Binding, Bindings, FailurePolicy, Hook, Scope},
    compile::{ComponentDigest, duties::PluginDuties},
    conduct::{Conduct, Subject},
    limits::MEMORY_CAP_BYTES,
    pipeline::{AppPipelines, Scoped, Snapshot, Units},
    unit::{SharedParts, Unit},
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
    #[error("a deadline is 1 ms to {} ms for this plugin at this hook", .cap_millis)]
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
            binding.check().map_err(|problem| ApplyError {
                app: app.clone(),
                plugin: Arc::clone(&binding.plugin),
                version: binding.version,
                hook: binding.hook,
                problem,
            })?;
        }
    }
    let mut inherited = Inherited::from(previous);
    let mut units = Vec::new();
    let mut apps = FxHashMap::default();
    for (app, list) in &bindings.apps {
        let mut ordered: Vec<&Binding> = list.iter().collect();
        ordered.sort_by_key(|binding| binding.position);
        let mut of_app: Vec<_> = ordered
            .into_iter()
            .map(|binding| inherited.unit(runtime, app, binding))
            .collect();
        apps.insert(app.clone(), pipelines(&of_app));
        units.append(&mut of_app);
    }
    Ok((Snapshot { apps }, units))
}

/// What goes over from the state that ran to the one that will.
struct Inherited<'a> {
    /// Units of each app, taken out as they are used again.
    units: FxHashMap<&'a AppId, Vec<Option<&'a Arc<Unit>>>>,
    /// The version of each plugin that ran.
    versions: FxHashMap<(AppId, Arc<str>), u32>,
    /// By app, plugin, hook, version and digest: tests and only tests give a number to two components.
    conducts: FxHashMap<ConductKey, Arc<Conduct>>,
}

type ConductKey = (AppId, Arc<str>, Hook, u32, ComponentDigest);

impl<'a> From<&'a [Arc<Unit>]> for Inherited<'a> {
    fn from(previous: &'a [Arc<Unit>]) -> Self {
        let mut inherited = Self {
            units: FxHashMap::default(),
            versions: FxHashMap::default(),
            conducts: FxHashMap::default(),
        };
        for unit in previous {
            inherited
                .units
                .entry(&unit.app)
                .or_default()
                .push(Some(unit));
            let plugin = (unit.app.clone(), Arc::clone(&unit.plugin));
            inherited.versions.insert(plugin.clone(), unit.version);
            let (app, name) = plugin;
            // What could not run has not conducted itself in any way.
            if unit.compiled.problem().is_none() {
                let digest = *unit.compiled.digest();
                inherited.conducts.insert(
                    (app, name, unit.hook, unit.version, digest),
                    Arc::clone(&unit.conduct),
                );
            }
        }
        inherited
    }
}

impl Inherited<'_> {
    /// The unit of the binding: the one that ran, if nothing about it changed.
    fn unit(&mut self, runtime: &Runtime, app: &AppId, binding: &Binding) -> Arc<Unit> {
        let kept = self.units.get_mut(app).and_then(|units| {
            units
                .iter_mut()
                .find(|unit| unit.is_some_and(|unit| unit.matches(app, binding)))
                .and_then(Option::take)
        });
        if let Some(kept) = kept {
            return Arc::clone(kept);
        }
        let tally = runtime
            .metrics
            .tally(app, &binding.plugin, binding.hook, binding.version);
        let conduct = self.conduct(runtime, app, binding);
        tally.attach(&conduct);
        let shared = SharedParts {
            log: runtime.logs.of(app, &binding.plugin),
            tally,
            conduct,
        };
        Arc::new(Unit::new(app, binding, runtime.common, shared))
    }

    /// What is known of the version at the hook; a fresh one is unknown.
    fn conduct(&mut self, runtime: &Runtime, app: &AppId, binding: &Binding) -> Arc<Conduct> {
        let Binding {
            plugin,
            version,
            compiled,
            hook,
            ..
        } = binding;
        let key = (
            app.clone(),
            Arc::clone(plugin),
            *hook,
            *version,
            *compiled.digest(),
        );
        let former = self.versions.get(&(app.clone(), Arc::clone(plugin)));
        let conduct = self.conducts.entry(key).or_insert_with(|| {
            let subject = Subject {
                app: app.clone(),
                plugin: Arc::clone(plugin),
                hook: *hook,
                version: *version,
                class: compiled.class(),
            };
            let now = runtime.clock.now_millis();
            Arc::new(match compiled.problem() {
                Some(problem) => Conduct::not_ready(subject, problem, now),
                None => Conduct::new(subject, former.copied(), now),
            })
        });
        Arc::clone(conduct)
    }
}

impl Binding {
    /// Whether the binding can be honoured.
    ///
    /// # Errors
    /// [`BindingProblem`] says what does not go together.
    pub fn check(&self) -> Result<(), BindingProblem> {
        let Binding {
            compiled,
            hook,
            scope,
            failure_policy,
            limits,
            ..
        } = self;
        if !compiled.hooks().contains(hook) {
            return Err(BindingProblem::HookNotExported);
        }
        if !scope.suits(*hook) {
            return Err(BindingProblem::ScopeUnsuitable);
        }
        if *failure_policy == FailurePolicy::Open && *hook != Hook::Filtering {
            return Err(BindingProblem::OpenPolicyNotAllowed);
        }
        let cap = hook.deadline_cap(compiled.class());
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
}

/// What the plugins of all apps do besides answering.
pub(crate) fn duties(units: &[Arc<Unit>]) -> BTreeMap<AppId, Duties> {
    let mut duties: BTreeMap<AppId, Duties> = BTreeMap::new();
    for unit in units {
        let (hook, plugin) = (unit.hook, Arc::clone(&unit.plugin));
        if !matches!(hook, Hook::Events | Hook::Schedule) {
            continue;
        }
        let PluginDuties { wanted, periods } = unit.compiled.duties();
        let of_app = duties.entry(unit.app.clone()).or_default();
        if hook == Hook::Events && !of_app.observers.iter().any(|one| one.plugin == plugin) {
            let kinds = wanted;
            of_app.observers.push(Observer { plugin, kinds });
        } else if hook == Hook::Schedule
            && !of_app.timetables.iter().any(|one| one.plugin == plugin)
        {
            of_app.timetables.push(Timetable { plugin, periods });
        }
    }
    duties
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
        events: at(Hook::Events),
        schedule: at(Hook::Schedule),
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
