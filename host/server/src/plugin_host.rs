//! The sandbox as the admin API sees it.
//!
//! Owns the translation between the control store's rows and the sandbox's bindings, and the compiled versions
//! that the desired state names. Decides nothing. Compiling and instantiating happen on blocking threads.

mod forgotten;
mod host;
mod logs;
mod pipelines;
mod running;
mod statistics;
mod stories;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::{self, AssertUnwindSafe},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::json;
use tidegate_control::{DesiredBinding, DesiredState, Digest, Store};
use tidegate_realtime::ids::AppId;
use tidegate_sandbox::{
    AdmissionRefused, Binding, Bindings, Compilation, CompileChild, CompileError, Compiled,
    FailurePolicy, Hook, Isolation, PluginLimits, Sandbox, Scope, SettingsProblem, UnfitVersion,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::running::RunningPlugins;
use crate::{
    admin::{self, Admin, Refused},
    cli,
    config::PluginsConfig,
};

pub use self::forgotten::{Forgotten, ForgottenOwners, forget};

/// How a node of these settings compiles plugins: this same program, as a child.
///
/// # Errors
/// When the system does not tell which program this is.
pub fn compilation(config: &PluginsConfig) -> io::Result<Compilation> {
    let child = CompileChild::this_program([cli::COMPILE_CHILD.into()])?;
    // Our allocator takes address space by the gibibyte unless told otherwise (in KiB), and the child's is bounded.
    let environment = vec![("MIMALLOC_ARENA_RESERVE".into(), "65536".into())];
    Ok(Compilation::Child(CompileChild {
        environment,
        address_space_bytes: config.compile_memory_bytes,
        ..child.within(config.compile_timeout)
    }))
}

/// Runs what the control store says in a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sandbox: Arc<Sandbox>,
    store: Arc<Store>,
    /// Limits that the operator set for all plugins.
    config: PluginsConfig,
    /// Where deleted plugins are named.
    forgotten: Forgotten,
    /// Written after each successful apply.
    running: Mutex<Running>,
    /// What came of compiling what another node decided, until that is applied.
    compiled: Mutex<HashMap<Digest, Result<Compiled, Refused>>>,
}

/// What came of the desired state.
#[derive(Debug, Default)]
struct Running {
    /// The code that runs, so that a change compiles only what is new.
    ready: HashMap<Digest, Compiled>,
    /// Bindings that should run and cannot, by id.
    waiting: BTreeMap<String, Waiting>,
    /// What runs, by the id of the binding: of one that waits, what it was before, if it was anything.
    bound: HashMap<String, (AppId, Binding)>,
    /// The same by plugin, for people.
    plugins: RunningPlugins,
}

/// A binding that answers its failure policy, because its plugin cannot run.
#[derive(Debug, Clone)]
struct Waiting {
    row: DesiredBinding,
    why: Refused,
}

/// When a desired state is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Nothing runs yet, and all that can shall.
    Start,
    /// Something was changed, which is refused when it cannot be carried out.
    Change,
    /// Another node changed something: what cannot be carried out here stays as it was.
    Follow,
}

/// The rule of bindings that this node cannot make sense of; trying again does not help.
const BINDING_RULE: &str = "binding";

/// The rule of settings that a plugin cannot use.
const SETTINGS_RULE: &str = "settings";

impl SandboxHost {
    pub fn new(
        sandbox: Arc<Sandbox>,
        store: Arc<Store>,
        config: PluginsConfig,
        forgotten: Forgotten,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                sandbox,
                store,
                config,
                forgotten,
                running: Mutex::default(),
                compiled: Mutex::default(),
            }),
        }
    }
}

/// Brings former versions back as the sandbox reports unfit ones, until `stop`.
pub async fn return_unfit(
    admin: Arc<Admin>,
    mut reports: mpsc::Receiver<UnfitVersion>,
    stop: CancellationToken,
) {
    loop {
        let report = tokio::select! {
            () = stop.cancelled() => return,
            report = reports.recv() => report,
        };
        let Some(report) = report else { return };
        let UnfitVersion {
            app,
            plugin,
            hook,
            version,
            former: _,
            cause,
        } = report;
        let names = (
            tidegate_control::AppName::parse(app.as_str()),
            tidegate_control::PluginName::parse(&plugin),
        );
        let (Ok(place), Ok(name)) = names else {
            continue;
        };
        let cause = format!("at {hook}: {cause}");
        match admin.return_to_former(&place, &name, version, &cause).await {
            Ok(Some(activation)) => tracing::error!(
                %app, %plugin, version, former = activation.version, %cause,
                "a plugin kept failing after it was replaced; the former version runs again"
            ),
            Ok(None) => {
                tracing::info!(%app, %plugin, version, "an unfit version is not active any more")
            }
            Err(error) => tracing::error!(
                %app, %plugin, version, %cause, %error,
                "a plugin keeps failing and the former version cannot be brought back; activate one that works"
            ),
        }
    }
}

impl Inner {
    fn compile(&self, artifact: &[u8]) -> Result<Compiled, Refused> {
        let admitted = self.sandbox.admit(artifact).map_err(refused)?;
        self.sandbox.compile(&admitted).map_err(|error| match error {
            CompileError::Refused(refusal) => refused(refusal),
            CompileError::Busy => Refused {
                rule: admin::COMPILE_QUEUE.to_owned(),
                detail: error.to_string(),
                help: "try again in a minute; plugins are compiled one at a time".to_owned(),
            },
            CompileError::Failed(_) => {
                tracing::error!(%error, "a plugin could not be compiled, and it is not to blame");
                Refused {
                    rule: admin::COMPILE_UNAVAILABLE.to_owned(),
                    detail: "the node cannot compile or try out plugins now".to_owned(),
                    help: "the node's log has the cause; free memory, processes and disk, then try again".to_owned(),
                }
            }
        })
    }

    fn apply(&self, desired: &DesiredState, occasion: Occasion) -> Result<(), Refused> {
        let mut next = Running::default();
        let mut refused: HashMap<Digest, Refused> = HashMap::new();
        let mut bindings = Bindings::default();
        for row in &desired.bindings {
            let before = self.why_waiting(row);
            let code = match (next.ready.get(&row.digest), refused.get(&row.digest)) {
                (Some(ready), _) => Ok(ready.clone()),
                (None, Some(why)) => Err(why.clone()),
                (None, None) => self.code(row, before.as_ref()),
            };
            if let Err(why) = &code {
                refused.insert(row.digest, why.clone());
            }
            let (app, binding) = match code.and_then(|code| self.binding(row, code)) {
                Ok((app, binding)) => {
                    if before.is_some() {
                        tracing::info!(app = %row.app, plugin = %row.plugin, version = row.version, hook = %row.hook, "a plugin that could not run does now");
                    }
                    next.ready.insert(row.digest, binding.compiled.clone());
                    next.plugins.add(row, Some(binding.version), None);
                    next.bound
                        .insert(row.id.clone(), (app.clone(), binding.clone()));
                    (app, binding)
                }
                Err(why) if before.is_some() || occasion != Occasion::Change => {
                    let former = self.former(row);
                    if before.is_none() {
                        let former = former.as_ref().map(|(_, former)| former.version);
                        tracing::error!(
                            app = %row.app, plugin = %row.plugin, version = row.version, hook = %row.hook,
                            rule = %why.rule, detail = %why.detail, help = %why.help, former,
                            "a plugin cannot run; the former version goes on if there is one, else its bindings answer their failure policy until it can"
                        );
                    }
                    let version = former.as_ref().map(|(_, former)| former.version);
                    next.plugins.add(row, version, Some(&why));
                    if let Some(former) = &former {
                        next.bound.insert(row.id.clone(), former.clone());
                    }
                    let instead = former.or_else(|| stand_in(row, &why));
                    let row = row.clone();
                    next.waiting.insert(row.id.clone(), Waiting { row, why });
                    let Some(instead) = instead else { continue };
                    instead
                }
                Err(why) => return Err(why),
            };
            bindings.apps.entry(app).or_default().push(binding);
        }
        let applied = self.sandbox.apply(&bindings);
        applied.map_err(|error| Refused {
            rule: BINDING_RULE.to_owned(),
            detail: error.to_string(),
            help: "unbind the plugin there, or activate a version that fits the binding".to_owned(),
        })?;
        let mut running = self.running.lock();
        next.plugins.since(&running.plugins);
        *running = next;
        Ok(())
    }

    /// What a binding was before it became one that cannot be carried out, in its present place.
    fn former(&self, row: &DesiredBinding) -> Option<(AppId, Binding)> {
        let running = self.running.lock();
        let (app, former) = running.bound.get(&row.id)?;
        let mut former = former.clone();
        former.position = i64::from(row.position);
        Some((app.clone(), former))
    }

    /// Compiles what does not run yet, outside of any turn.
    fn make_ready(&self, desired: &DesiredState) {
        for row in &desired.bindings {
            let is_known = self.running.lock().ready.contains_key(&row.digest)
                || self.compiled.lock().contains_key(&row.digest)
                || self.why_waiting(row).is_some();
            if !is_known {
                let code = self.stored_code(row);
                self.compiled.lock().insert(row.digest, code);
            }
        }
    }

    /// Removes compiled code of versions that are gone.
    fn prune(&self) {
        match self.store.digests() {
            Ok(digests) => {
                let digests: Vec<_> = digests.iter().map(|digest| *digest.as_bytes()).collect();
                self.sandbox.keep_only(&digests);
            }
            Err(error) => {
                tracing::warn!(%error, "compiled plugins that are gone could not be found")
            }
        }
    }

    /// Why this very binding of this very code did not run so far.
    fn why_waiting(&self, row: &DesiredBinding) -> Option<Refused> {
        let running = self.running.lock();
        let waiting = running.waiting.get(&row.id)?;
        (waiting.row.digest == row.digest).then(|| waiting.why.clone())
    }

    /// Keeps code for the next apply, if bindings wait for it.
    fn offer(&self, digest: Digest, compiled: Compiled) {
        let mut running = self.running.lock();
        if running
            .waiting
            .values()
            .any(|waiting| waiting.row.digest == digest)
        {
            running.ready.insert(digest, compiled);
        }
    }

    /// Makes code ready that could not be so far; answers whether any is.
    fn retry(&self) -> bool {
        let waiting: HashMap<Digest, DesiredBinding> = {
            let running = self.running.lock();
            let waiting = running.waiting.values();
            let waiting = waiting.filter(|waiting| waiting.why.rule != BINDING_RULE);
            waiting
                .map(|waiting| (waiting.row.digest, waiting.row.clone()))
                .collect()
        };
        let mut is_any = false;
        for (digest, row) in waiting {
            if let Ok(compiled) = self.stored_code(&row) {
                self.offer(digest, compiled);
                is_any = true;
            }
        }
        is_any
    }

    fn not_running(&self) -> Vec<serde_json::Value> {
        let running = self.running.lock();
        let waiting = running.waiting.values().map(|Waiting { row, why }| {
            json!({
                "app": row.app,
                "plugin": row.plugin,
                "version": row.version,
                "hook": row.hook,
                "scope": row.scope,
                "rule": why.rule,
                "detail": why.detail,
            })
        });
        waiting.collect()
    }

    /// The version's code: what already runs, or from the store. What could not be had is not tried again here:
    /// a change of another app shall not wait for it.
    fn code(&self, row: &DesiredBinding, before: Option<&Refused>) -> Result<Compiled, Refused> {
        let running = self.running.lock().ready.get(&row.digest).cloned();
        if let (None, Some(compiled)) = (&running, self.compiled.lock().get(&row.digest)) {
            return compiled.clone();
        }
        match (running, before) {
            (Some(running), _) => Ok(running),
            // A binding that was changed may make sense now, and its code is at hand.
            (None, Some(why)) if why.rule != BINDING_RULE => Err(why.clone()),
            (None, _) => self.stored_code(row),
        }
    }

    fn stored_code(&self, row: &DesiredBinding) -> Result<Compiled, Refused> {
        let artifact = self.store.artifact(&row.digest).map_err(|error| Refused {
            rule: "artifact".to_owned(),
            detail: format!(
                "the artifact of {} version {} cannot be read: {error}",
                row.plugin, row.version
            ),
            help: "upload the version again, or activate another one".to_owned(),
        })?;
        // Of all plugins of the node, one that is too much for the checks shall not keep the others from running.
        let compiled = panic::catch_unwind(AssertUnwindSafe(|| self.compile(&artifact)));
        compiled.unwrap_or_else(|_| {
            tracing::error!(app = %row.app, plugin = %row.plugin, version = row.version, "a plugin could not be prepared");
            Err(gave_up())
        })
    }

    fn binding(
        &self,
        row: &DesiredBinding,
        compiled: Compiled,
    ) -> Result<(AppId, Binding), Refused> {
        let unknown = |what: &str| Refused {
            rule: BINDING_RULE.to_owned(),
            detail: format!("binding {} has {what} that this node does not know", row.id),
            help: "unbind it, or run the release that made it".to_owned(),
        };
        let app = AppId::parse(row.app.as_str()).map_err(|_| unknown("an app"))?;
        let hook = Hook::parse(row.hook.as_str()).ok_or_else(|| unknown("a hook"))?;
        let scope = Scope::parse(&row.scope.to_string()).map_err(|_| unknown("a scope"))?;
        let failure_policy = FailurePolicy::parse(row.failure_policy.as_str())
            .ok_or_else(|| unknown("a failure policy"))?;
        let isolation =
            Isolation::parse(row.isolation.as_str()).ok_or_else(|| unknown("an isolation"))?;
        let config = if row.config.is_empty() {
            "{}"
        } else {
            &row.config
        };
        let limits = self.config.limits(hook, compiled.class());
        let binding = Binding {
            plugin: row.plugin.as_str().into(),
            version: row.version,
            compiled,
            hook,
            scope,
            position: i64::from(row.position),
            config: config.into(),
            failure_policy,
            isolation,
            limits,
        };
        binding.check().map_err(|problem| Refused {
            rule: BINDING_RULE.to_owned(),
            detail: format!(
                "{} version {} at {hook}: {problem}",
                row.plugin, row.version
            ),
            help: "unbind the plugin there, or activate a version that fits the binding".to_owned(),
        })?;
        Ok((app, binding))
    }
}

/// What answers in place of a binding that cannot be carried out: its failure policy. Where not even that can be
/// made out, the question fails for the whole app rather than go unasked. `None` when nothing tells which question.
fn stand_in(row: &DesiredBinding, why: &Refused) -> Option<(AppId, Binding)> {
    let app = AppId::parse(row.app.as_str()).ok()?;
    let hook = Hook::parse(row.hook.as_str())?;
    let mut binding = Binding {
        plugin: row.plugin.as_str().into(),
        version: row.version,
        compiled: Compiled::not_ready(*row.digest.as_bytes(), format!("{why}; {}", why.help)),
        hook,
        scope: Scope::parse(&row.scope.to_string()).unwrap_or(Scope::App),
        position: i64::from(row.position),
        config: "{}".into(),
        failure_policy: FailurePolicy::parse(row.failure_policy.as_str()).unwrap_or_default(),
        isolation: Isolation::default(),
        limits: PluginLimits::default(),
    };
    if binding.check().is_err() {
        binding.scope = Scope::App;
        binding.failure_policy = FailurePolicy::Closed;
    }
    Some((app, binding))
}

fn control_hook(hook: Hook) -> Option<tidegate_control::Hook> {
    hook.as_str().parse().ok()
}

/// Why settings are not bound.
fn unusable(problem: &SettingsProblem) -> Refused {
    let (rule, help) = match problem {
        SettingsProblem::Refused(_) => (
            SETTINGS_RULE,
            "give the plugin the settings that it takes, with `--config`",
        ),
        SettingsProblem::Failed { .. } => (
            SETTINGS_RULE,
            "the plugin must answer such settings with an error; mend its check, or give it other ones",
        ),
        SettingsProblem::NoRoom => (admin::COMPILE_UNAVAILABLE, "try again in a moment"),
    };
    Refused {
        rule: rule.to_owned(),
        detail: problem.to_string(),
        help: help.to_owned(),
    }
}

fn refused(refusal: AdmissionRefused) -> Refused {
    Refused {
        rule: refusal.rule.to_owned(),
        detail: refusal.detail,
        help: refusal.help,
    }
}

/// Runs work that takes its time off the async threads.
async fn blocking(
    work: impl FnOnce() -> Result<(), Refused> + Send + 'static,
) -> Result<(), Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        tracing::error!(%panic, "a plugin could not be prepared");
        Err(gave_up())
    })
}

fn gave_up() -> Refused {
    Refused {
        rule: "internal".to_owned(),
        detail: "the node failed while it prepared the plugin".to_owned(),
        help: "the node's log has the cause; please report it".to_owned(),
    }
}
