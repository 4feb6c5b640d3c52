//! The admin API: what operators, the CLI and the console use to change what runs.
//!
//! Owns the routes under `/admin/v1`, who may call them, and the order in which a change takes place: try the
//! plugin, store the decision, carry it out, answer. What runs is behind [`PluginHost`]; what was decided is in
//! [`tidegate_control::Store`]. The listener belongs to the node.
//!
//! Invariants: every route is a row of one table, which also makes the OpenAPI document (threat model M4);
//! changes of an app happen one at a time, in the order in which they came, and an app
//! never waits for another one's plugin to be compiled; a change that was begun ends, even when its caller goes away; a change that
//! cannot be carried out leaves everything as it was.

mod access;
mod apps;
mod bindings;
mod body;
mod follow;
mod host;
mod keys;
mod logs;
mod nodes;
mod openapi;
mod past;
mod pipelines;
mod plugins;
mod problem;
mod quota;
mod redact;
mod routes;
mod schedule;
mod schemas;
mod sessions;
mod settings;
mod state;
mod statistics;
#[cfg(test)]
mod tests;
mod turns;
mod watch;

use std::{num::NonZeroU32, sync::Arc};

use axum::Router;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tidegate_control::{Actor, AppName, DesiredState, PluginName, Store, StoreError, Version};
use tidegate_realtime::{namespace::ChannelConfig, notices::Notices};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::host::{
    Admitted, AppHost, COMPILE_QUEUE, COMPILE_UNAVAILABLE, Candidate, Later, LogQuery, LogStream,
    PipelineQuery, PluginHost, Refused, Story, StoryQuery,
};
use self::{
    access::Attempts, follow::Followed, logs::Followers, problem::Problem, quota::Quotas,
    turns::Turns,
};

/// Settings of the admin API.
#[derive(Default)]
pub struct AdminConfig {
    /// An operator key that the configuration file owns (`admin_api.key`), beside those of the store.
    pub key: Option<String>,
    /// Channels of the configuration; binding to another namespace is answered with a warning, and so is a question
    /// about a channel that nobody can use.
    pub channels: ChannelConfig,
    /// Versions of a plugin that are kept beside those that a rollback can reach.
    pub keep_versions: Option<NonZeroU32>,
    /// Runs the changes; the node waits for it when it stops.
    pub tracker: TaskTracker,
    pub node: NodeIdentity,
}

/// What this node is to the others.
#[derive(Debug, Clone, Default)]
pub struct NodeIdentity {
    /// Of this process alone.
    pub uid: String,
    /// As people know it.
    pub name: String,
}

/// Handle to the admin API of a node.
pub struct Admin {
    store: Arc<Store>,
    host: Arc<dyn PluginHost>,
    apps: Arc<dyn AppHost>,
    turns: Turns,
    /// Told after each change that was carried out.
    changed: Notify,
    attempts: Attempts,
    notices: Notices,
    quotas: Quotas,
    followers: Followers,
    /// SHA-256 of the configured key.
    configured_key: Option<[u8; 32]>,
    channels: ChannelConfig,
    keep_versions: Option<NonZeroU32>,
    tracker: TaskTracker,
    started: Instant,
    node: NodeIdentity,
    /// Written by whoever has the turn to apply.
    followed: Mutex<Followed>,
}

/// The stored plugins could not be brought to run when the node started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the stored apps and plugins cannot be read")]
    Store(#[from] StoreError),
    #[error("the stored plugins cannot run: {0}")]
    Refused(Refused),
}

impl Admin {
    pub fn new(
        config: AdminConfig,
        store: Arc<Store>,
        host: Arc<dyn PluginHost>,
        apps: Arc<dyn AppHost>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            host,
            apps,
            turns: Turns::default(),
            changed: Notify::new(),
            attempts: Attempts::default(),
            notices: Notices::default(),
            quotas: Quotas::default(),
            followers: Followers::default(),
            configured_key: config.key.map(|key| Sha256::digest(key).into()),
            channels: config.channels,
            keep_versions: config.keep_versions,
            tracker: config.tracker,
            node: config.node,
            followed: Mutex::default(),
            started: Instant::now(),
        })
    }

    /// The routes, `/admin/v1/…`. Requests should carry `ConnectInfo<SocketAddr>`: without it, failed
    /// authentications of all callers are counted together.
    pub fn router(self: &Arc<Self>) -> Router {
        routes::router(self)
    }

    /// Brings to run what is stored; the node calls it before it accepts connections. A plugin that cannot run
    /// does not keep the others from it.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(&self) -> Result<(), StartError> {
        let _applying = self.turns.to_apply().await;
        let state = self.first_state().await?;
        self.host
            .start(state.desired.clone())
            .await
            .map_err(StartError::Refused)?;
        self.open_apps(&state.apps);
        // What came from the copy is no younger for having been read.
        if self.is_followed() {
            self.keep(state).await?;
        }
        Ok(())
    }

    /// Ends what would otherwise never end: those who follow a log. Nobody can follow one afterwards.
    pub fn drain(&self) {
        self.followers.drain();
    }

    /// After each change, until `stop`: tries what could not run once more, and has it run if it can now. Nobody
    /// waits for that.
    pub async fn retry_after_changes(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
            }
            if !self.host.retry().await {
                continue;
            }
            let _applying = self.turns.to_apply().await;
            match blocking(&self.store, Store::desired_state).await {
                Ok(desired) => {
                    if let Err(refused) = self.host.apply(desired).await {
                        tracing::warn!(rule = %refused.rule, "a plugin that can run again could not be brought to");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "what should run could not be read");
                }
            }
        }
    }

    /// Compiles a version and tries it; a refusal is written down.
    async fn prepare(
        &self,
        actor: &Actor,
        (app, plugin): (&AppName, &PluginName),
        version: &Version,
        action: &'static str,
    ) -> Result<Candidate, Problem> {
        let digest = version.digest;
        let artifact = blocking(&self.store, move |store| store.artifact(&digest)).await?;
        let candidate = Candidate {
            app: app.clone(),
            plugin: plugin.clone(),
            version: version.number,
            digest,
            artifact,
        };
        let Err(refused) = self.host.prepare(candidate.clone()).await else {
            return Ok(candidate);
        };
        let object = format!("plugin/{plugin}/versions/{}", version.number);
        self.write_down(actor, app, action, object, &refused).await;
        Err(Problem::refused(refused))
    }

    /// Stores a change and carries it out. If the host cannot, store and host go back to what was before.
    /// The caller has the app's turn.
    async fn change<T: Send + 'static>(
        &self,
        actor: &Actor,
        app: &AppName,
        change: impl FnOnce(&Store, &Actor, &AppName) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        if self.store.is_shared() {
            // What another node decided a moment ago, and what may not run here, is not this change's business.
            self.try_catch_up().await?;
        }
        let _applying = self.turns.to_apply().await;
        let (who, place) = (actor.clone(), app.clone());
        let (snapshot, value, desired) = blocking(&self.store, move |store| {
            let snapshot = store.snapshot(&place)?;
            let value = change(store, &who, &place)?;
            // From here on nothing may say that nothing was changed.
            let desired = store.desired_state();
            Ok((
                snapshot,
                value,
                desired.map_err(StoreError::after_a_change)?,
            ))
        })
        .await?;
        let Err(refused) = self.host.apply(desired).await else {
            self.changed.notify_one();
            return Ok(value);
        };
        tracing::warn!(%app, rule = %refused.rule, "a change could not be carried out and is undone");
        let (who, cause) = (actor.clone(), refused.to_string());
        let before: DesiredState = blocking(&self.store, move |store| {
            match store.restore(&who, &snapshot, &cause) {
                // Says itself that the change stays.
                Err(conflict @ StoreError::Conflict { .. }) => return Err(conflict),
                restored => restored.map_err(StoreError::after_a_change)?,
            }
            store.desired_state().map_err(StoreError::after_a_change)
        })
        .await?;
        if let Err(again) = self.host.apply(before).await {
            // What ran before ran a moment ago; that it does not any more is for the operator to see.
            tracing::error!(%app, rule = %again.rule, "the state before the change cannot be carried out either");
        }
        Err(Problem::not_applied(refused))
    }

    async fn write_down(
        &self,
        actor: &Actor,
        app: &AppName,
        action: &'static str,
        object: String,
        refused: &Refused,
    ) {
        let (actor, app, result) = (actor.clone(), app.clone(), format!("refused: {refused}"));
        let written = blocking(&self.store, move |store| {
            store.record_refusal(&actor, &app, action, &object, &result)
        });
        if let Err(error) = written.await {
            // The refusal itself stands, so the caller hears that.
            tracing::error!(%error, "a refusal could not be written to the audit log");
        }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminConfig")
            .field("has_key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// Asks the store on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || call(&store)).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
