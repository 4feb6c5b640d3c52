//! The sandbox as the admin API sees it.
//!
//! Owns the translation between the control store's rows and the sandbox's bindings, and the compiled versions
//! that the desired state names. Decides nothing. Compiling and instantiating happen on blocking threads.

use std::{collections::HashMap, io, sync::Arc};

use parking_lot::Mutex;
use serde_json::json;
use tidegate_control::{DesiredBinding, DesiredState, Digest, Store};
use tidegate_realtime::ids::AppId;
use tidegate_sandbox::{
    AdmissionRefused, Binding, Bindings, Compilation, CompileChild, CompileError, Compiled,
    FailurePolicy, Hook, Sandbox, Scope, StepEnd, StoryStep, UnfitVersion,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, Admitted, Candidate, Later, PluginHost, Refused, Story},
    cli,
    config::PluginsConfig,
};

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
    /// What runs, so that a change compiles only what is new. Written after each successful apply.
    running: Mutex<HashMap<Digest, Compiled>>,
}

impl SandboxHost {
    pub fn new(sandbox: Arc<Sandbox>, store: Arc<Store>, config: PluginsConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                sandbox,
                store,
                config,
                running: Mutex::default(),
            }),
        }
    }
}

impl PluginHost for SandboxHost {
    fn admit(&self, upload: &[u8]) -> Result<Admitted, Refused> {
        let admitted = self.inner.sandbox.admit(upload).map_err(refused)?;
        let hooks = admitted.hooks.iter().filter_map(|hook| control_hook(*hook));
        Ok(Admitted {
            hooks: hooks.collect(),
            imports: admitted.imports,
            artifact: admitted.component,
        })
    }

    fn try_out(&self, artifact: Arc<[u8]>) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || {
            inner.compile(&artifact)?;
            Ok(())
        }))
    }

    fn prepare(&self, candidate: Candidate) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || {
            inner.compile(&candidate.artifact)?;
            Ok(())
        }))
    }

    fn apply(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || inner.apply(&desired)))
    }

    fn explain(&self, trace: &str) -> Option<Story> {
        let story = self.inner.sandbox.explain(trace)?;
        let app = tidegate_control::AppName::parse(story.app.as_str()).ok()?;
        let steps: Vec<_> = story.steps.iter().map(step).collect();
        let story = json!({
            "hook": story.hook.as_str(),
            "subject": &*story.subject,
            "at_unix_ms": story.at_millis,
            "plugins": steps,
        });
        Some(Story { app, story })
    }

    fn statistics(&self) -> serde_json::Value {
        let statistics = self.inner.sandbox.statistics();
        let hooks = statistics.hooks.iter().map(|row| {
            let failed = row.failed.iter();
            let failed: serde_json::Map<_, _> = failed
                .map(|(kind, count)| (kind.as_str().to_owned(), json!(count)))
                .collect();
            json!({
                "app": row.app.as_str(),
                "plugin": &*row.plugin,
                "hook": row.hook.as_str(),
                "answered": row.answered,
                "refused": row.refused,
                "failed": failed,
                "passed_over": row.passed_over,
                "breaker": row.breaker.as_str(),
                "breaker_openings": row.breaker_openings,
            })
        });
        json!({
            "instances": statistics.instances,
            "instances_made": statistics.instances_made,
            "log_lines_dropped": statistics.log_lines_dropped,
            "hooks": hooks.collect::<Vec<_>>(),
        })
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

    fn apply(&self, desired: &DesiredState) -> Result<(), Refused> {
        let mut compiled: HashMap<Digest, Compiled> = HashMap::new();
        let mut bindings = Bindings::default();
        for row in &desired.bindings {
            let ready = match compiled.get(&row.digest) {
                Some(ready) => ready.clone(),
                None => {
                    let ready = self.ready(row)?;
                    compiled.insert(row.digest, ready.clone());
                    ready
                }
            };
            let (app, binding) = self.binding(row, ready)?;
            bindings.apps.entry(app).or_default().push(binding);
        }
        let applied = self.sandbox.apply(&bindings);
        applied.map_err(|error| Refused {
            rule: "binding".to_owned(),
            detail: error.to_string(),
            help: "unbind the plugin there, or activate a version that fits the binding".to_owned(),
        })?;
        *self.running.lock() = compiled;
        Ok(())
    }

    /// The version's code: what already runs, or from the store.
    fn ready(&self, row: &DesiredBinding) -> Result<Compiled, Refused> {
        let running = self.running.lock().get(&row.digest).cloned();
        if let Some(running) = running {
            return Ok(running);
        }
        let artifact = self.store.artifact(&row.digest).map_err(|error| Refused {
            rule: "artifact".to_owned(),
            detail: format!(
                "the artifact of {} version {} cannot be read: {error}",
                row.plugin, row.version
            ),
            help: "upload the version again, or activate another one".to_owned(),
        })?;
        self.compile(&artifact)
    }

    fn binding(
        &self,
        row: &DesiredBinding,
        compiled: Compiled,
    ) -> Result<(AppId, Binding), Refused> {
        let unknown = |what: &str| Refused {
            rule: "binding".to_owned(),
            detail: format!("binding {} has {what} that this node does not know", row.id),
            help: "unbind it, or run the release that made it".to_owned(),
        };
        let app = AppId::parse(row.app.as_str()).map_err(|_| unknown("an app"))?;
        let hook = Hook::parse(row.hook.as_str()).ok_or_else(|| unknown("a hook"))?;
        let scope = Scope::parse(&row.scope.to_string()).map_err(|_| unknown("a scope"))?;
        let failure_policy = FailurePolicy::parse(row.failure_policy.as_str())
            .ok_or_else(|| unknown("a failure policy"))?;
        let config = if row.config.is_empty() {
            "{}"
        } else {
            &row.config
        };
        let binding = Binding {
            plugin: row.plugin.as_str().into(),
            version: row.version,
            compiled,
            hook,
            scope,
            position: i64::from(row.position),
            config: config.into(),
            failure_policy,
            limits: self.config.limits(hook),
        };
        Ok((app, binding))
    }
}

fn control_hook(hook: Hook) -> Option<tidegate_control::Hook> {
    hook.as_str().parse().ok()
}

fn refused(refusal: AdmissionRefused) -> Refused {
    Refused {
        rule: refusal.rule.to_owned(),
        detail: refusal.detail,
        help: refusal.help,
    }
}

fn step(step: &StoryStep) -> serde_json::Value {
    let mut row = json!({ "plugin": &*step.plugin, "version": step.version });
    match &step.ended {
        StepEnd::Answered(verdict) => row["verdict"] = json!(verdict),
        StepEnd::Failed {
            kind,
            detail,
            is_passed_over,
        } => {
            row["failure"] = json!(kind.as_str());
            row["detail"] = json!(&**detail);
            row["passed_over"] = json!(is_passed_over);
        }
    }
    row
}

/// Runs work that takes its time off the async threads.
async fn blocking(
    work: impl FnOnce() -> Result<(), Refused> + Send + 'static,
) -> Result<(), Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        tracing::error!(%panic, "a plugin could not be prepared");
        Err(Refused {
            rule: "internal".to_owned(),
            detail: "the node failed while it prepared the plugin".to_owned(),
            help: "the node's log has the cause; please report it".to_owned(),
        })
    })
}
