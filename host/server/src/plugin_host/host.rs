//! The questions of the admin API, each handed on to where it is answered.

use std::sync::Arc;

use serde_json::json;
use tidegate_control::{AppName, DesiredState, PluginName};
use tidegate_realtime::{ids::AppId, store::Owner};
use tidegate_sandbox::{Hook, PipelineQuery, StoryOutcome, StoryQuery};

use super::{
    Occasion, SandboxHost, blocking, control_hook, logs, pipelines, refused, statistics, stories,
    unusable,
};
use crate::admin::{
    self, Admitted, Candidate, Later, LogQuery, LogStream, PluginHost, Refused, Story,
};

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
            let compiled = inner.compile(&candidate.artifact)?;
            // What could not run before can now: nothing shall say otherwise when it is applied.
            inner.offer(candidate.digest, compiled);
            Ok(())
        }))
    }

    fn check_settings(
        &self,
        candidate: Candidate,
        hook: tidegate_control::Hook,
        settings: String,
    ) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || {
            let running = inner.running.lock().ready.get(&candidate.digest).cloned();
            let compiled = running.map_or_else(|| inner.compile(&candidate.artifact), Ok)?;
            let Some(hook) = Hook::parse(hook.as_str()) else {
                return Ok(());
            };
            let checked = inner.sandbox.check_settings(&compiled, hook, &settings);
            checked.map_err(|problem| unusable(&problem))
        }))
    }

    fn apply(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || inner.apply(&desired, Occasion::Change)))
    }

    fn start(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || {
            inner.prune();
            inner.apply(&desired, Occasion::Start)
        }))
    }

    fn make_ready(&self, desired: DesiredState) -> Later<()> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || inner.make_ready(&desired)).await;
            if let Err(panic) = made {
                tracing::error!(%panic, "what another node changed could not be compiled");
            }
        })
    }

    fn follow(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        let inner = Arc::clone(&self.inner);
        Box::pin(blocking(move || {
            let applied = inner.apply(&desired, Occasion::Follow);
            inner.compiled.lock().clear();
            applied
        }))
    }

    fn running(&self) -> Vec<serde_json::Value> {
        self.inner.running.lock().plugins.rows()
    }

    fn retry(&self) -> Later<bool> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let tried = tokio::task::spawn_blocking(move || inner.retry()).await;
            tried.unwrap_or_else(|panic| {
                tracing::error!(%panic, "plugins that cannot run could not be tried again");
                false
            })
        })
    }

    fn problem(&self, binding: &str) -> Option<Refused> {
        let running = self.inner.running.lock();
        let waiting = running.waiting.get(binding)?;
        Some(waiting.why.clone())
    }

    fn forget_plugin(
        &self,
        app: &tidegate_control::AppName,
        plugin: &tidegate_control::PluginName,
    ) {
        if let Ok(app) = AppId::parse(app.as_str()) {
            self.inner.sandbox.forget_plugin(&app, plugin.as_str());
            let owner = Owner::new(&app, plugin.as_str());
            self.inner.forgotten.forget(owner);
        }
    }

    fn forget_app(
        &self,
        app: &tidegate_control::AppName,
        plugins: &[tidegate_control::PluginName],
    ) {
        if let Ok(app) = AppId::parse(app.as_str()) {
            self.inner.sandbox.forget_app(&app);
            for plugin in plugins {
                let owner = Owner::new(&app, plugin.as_str());
                self.inner.forgotten.forget(owner);
            }
        }
    }

    fn explain(&self, trace: &str) -> Option<Story> {
        let story = self.inner.sandbox.explain(trace)?;
        let app = tidegate_control::AppName::parse(story.app.as_str()).ok()?;
        let story = stories::row(&story);
        Some(Story { app, story })
    }

    fn stories(&self, app: &AppName, query: admin::StoryQuery) -> Vec<serde_json::Value> {
        let wanted = StoryQuery {
            user: query.user.as_deref(),
            subject: query.channel.as_deref(),
            outcome: query.outcome.and_then(|wanted| {
                let mut all = StoryOutcome::ALL.into_iter();
                all.find(|outcome| outcome.as_str() == wanted)
            }),
        };
        let found = self.inner.sandbox.stories(app.as_str(), wanted, query.most);
        let shown = found.iter().map(
            |story| json!({ "trace": &*story.trace_id, "app": app, "story": stories::row(story) }),
        );
        shown.collect()
    }

    fn pipelines(&self, app: &AppName, query: admin::PipelineQuery) -> Vec<serde_json::Value> {
        let query = PipelineQuery {
            hook: query.hook.and_then(|hook| Hook::parse(hook.as_str())),
            channel: query.channel.as_deref(),
        };
        let found = self.inner.sandbox.pipelines(app.as_str(), query);
        found.iter().map(pipelines::row).collect()
    }

    fn logs(&self, query: &LogQuery, limit: usize) -> Vec<serde_json::Value> {
        logs::recent(&self.inner.sandbox, query, limit)
    }

    fn follow_log(&self, query: &LogQuery, limit: usize) -> LogStream {
        logs::follow(&self.inner.sandbox, query, limit)
    }

    fn statistics(&self) -> serde_json::Value {
        let mut shown = statistics::of_node(&self.inner.sandbox);
        shown["not_running"] = json!(self.inner.not_running());
        shown
    }

    fn statistics_of(&self, app: &AppName, plugin: Option<&PluginName>) -> Vec<serde_json::Value> {
        statistics::of_app(
            &self.inner.sandbox,
            app.as_str(),
            plugin.map(PluginName::as_str),
        )
    }
}
