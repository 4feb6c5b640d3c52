//! Bindings: which plugin answers which hook where, in which order; and the state that follows from them.

use super::{
    Change, Store,
    apps::check_app,
    audit::last_entry,
    db::{Row, Transaction, params},
    plugins::{find_version, newest_version, plugin_id, read_hook},
};
use crate::{
    Actor, AppName, Binding, BindingRequest, Bound, DesiredBinding, DesiredState, Digest,
    FailurePolicy, Hook, PluginName, Scope, StoreError, Timestamp, key::random_id,
};

/// Largest configuration of a binding, in bytes of JSON.
const MAX_CONFIG_BYTES: usize = 64 * 1024;

/// Most bindings of an app.
const MAX_BINDINGS: i64 = 256;

const COLUMNS: &str =
    "b.id, b.app, p.name, b.hook, b.scope, b.position, b.config, b.failure_policy, b.created_at,
     (SELECT a.version FROM activations a WHERE a.id = p.activation), b.isolation";

/// What runs in an app, to go back to when the sandbox refuses a change.
#[derive(Debug, Clone)]
pub struct Snapshot {
    app: AppName,
    /// What the audit log had come to.
    last_entry: i64,
    bindings: Vec<SnapshotBinding>,
    /// Plugin and its current activation.
    activations: Vec<(i64, Option<i64>)>,
}

#[derive(Debug, Clone)]
struct SnapshotBinding {
    id: String,
    plugin: i64,
    hook: String,
    scope: String,
    position: u32,
    config: String,
    failure_policy: String,
    isolation: String,
    created_at: i64,
}

impl Store {
    /// Binds a plugin to a hook in a scope. A plugin is bound there at most once: asking again changes what the
    /// request names of configuration, policy and place, and keeps the rest.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], [`StoreError::NotFound`]; [`StoreError::Conflict`] when the active version (or
    /// the newest, where none is active) does not export the hook, or the app has too many bindings.
    pub fn bind(
        &self,
        actor: &Actor,
        app: &AppName,
        request: &BindingRequest,
    ) -> Result<Bound, StoreError> {
        check_request(request)?;
        self.mutate(actor, |transaction| {
            let plugin = plugin_id(transaction, app, &request.plugin)?;
            check_exports(transaction, plugin, request)?;
            let old = find_by_place(transaction, plugin, request)?;
            let id = match &old {
                Some(old) => old.id.clone(),
                None => {
                    check_count(transaction, app)?;
                    random_id("bnd_")?
                }
            };
            let kept = old.as_ref().map(|old| (&*old.config, old.failure_policy));
            let (kept_config, kept_policy) = kept.unwrap_or(("", FailurePolicy::Closed));
            let config = request.config.as_deref().unwrap_or(kept_config);
            let failure_policy = request.failure_policy.unwrap_or(kept_policy);
            let kept_isolation = old.as_ref().map(|old| old.isolation).unwrap_or_default();
            let isolation = request.isolation.unwrap_or(kept_isolation);
            let mut pipeline = pipeline(transaction, app, request.hook, &request.scope)?;
            let previous = pipeline.iter().position(|other| *other == id);
            pipeline.retain(|other| *other != id);
            let place = request
                .position
                .map(|position| position as usize)
                .or(previous)
                .unwrap_or(usize::MAX)
                .min(pipeline.len());
            pipeline.insert(place, id.clone());

            transaction.execute(
                "INSERT INTO bindings
                     (id, plugin, app, hook, scope, position, config, failure_policy, created_at, isolation)
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9)
                 ON CONFLICT (id) DO UPDATE SET config = ?6, failure_policy = ?7, isolation = ?9",
                params![
                    &id,
                    plugin,
                    app.as_str(),
                    request.hook.as_str(),
                    request.scope.to_string(),
                    config,
                    failure_policy.as_str(),
                    Timestamp::now().unix_millis(),
                    isolation.as_str(),
                ],
            )?;
            renumber(transaction, &pipeline)?;
            let binding = find(transaction, app, &id)?;
            let change = Change::new(Some(app), "binding.set", format!("binding/{id}"))
                .digests(old.as_ref().map(describe), Some(describe(&binding)));
            let is_changed = old.as_ref() != Some(&binding);
            let bound = Bound {
                binding,
                is_new: old.is_none(),
            };
            Ok((bound, is_changed.then_some(change)))
        })
    }

    /// Bindings of an app in the order of its pipelines.
    pub fn bindings(&self, app: &AppName) -> Result<Vec<Binding>, StoreError> {
        self.read(|transaction| {
            check_app(transaction, app)?;
            let rows = transaction.query(
                &format!(
                    "SELECT {COLUMNS} FROM bindings b JOIN plugins p ON p.id = b.plugin
                     WHERE b.app = ?1 ORDER BY b.hook, b.scope, b.position"
                ),
                params![app.as_str()],
            )?;
            rows.iter().map(read_binding).collect()
        })
    }

    /// Removes a binding; those behind it move up. `past` is what is known of what was bound, for the audit log.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn unbind(
        &self,
        actor: &Actor,
        app: &AppName,
        id: &str,
        past: &str,
    ) -> Result<Binding, StoreError> {
        self.mutate(actor, |transaction| {
            let binding = find(transaction, app, id)?;
            transaction.execute("DELETE FROM bindings WHERE id = ?1", params![id])?;
            let rest = pipeline(transaction, app, binding.hook, &binding.scope)?;
            renumber(transaction, &rest)?;
            let change = Change::new(Some(app), "binding.remove", format!("binding/{id}"))
                .digests(Some(describe(&binding)), None)
                .past(past);
            Ok((binding, Some(change)))
        })
    }

    /// All that should run on every node.
    pub fn desired_state(&self) -> Result<DesiredState, StoreError> {
        self.read(desired_state)
    }

    /// Remembers what runs in an app, for [`Self::restore`].
    pub fn snapshot(&self, app: &AppName) -> Result<Snapshot, StoreError> {
        self.read(|transaction| {
            let rows = transaction.query(
                "SELECT id, plugin, hook, scope, position, config, failure_policy, created_at, isolation
                 FROM bindings WHERE app = ?1",
                params![app.as_str()],
            )?;
            let bindings = rows
                .iter()
                .map(|row| {
                    Ok::<_, StoreError>(SnapshotBinding {
                        id: row.get(0)?,
                        plugin: row.get(1)?,
                        hook: row.get(2)?,
                        scope: row.get(3)?,
                        position: row.get(4)?,
                        config: row.get(5)?,
                        failure_policy: row.get(6)?,
                        created_at: row.get(7)?,
                        isolation: row.get(8)?,
                    })
                })
                .collect::<Result<_, _>>()?;
            let rows = transaction.query(
                "SELECT id, activation FROM plugins WHERE app = ?1",
                params![app.as_str()],
            )?;
            let activations = rows
                .iter()
                .map(|row| Ok::<_, StoreError>((row.get(0)?, row.get(1)?)))
                .collect::<Result<_, _>>()?;
            Ok(Snapshot {
                app: app.clone(),
                last_entry: last_entry(transaction)?,
                bindings,
                activations,
            })
        })
    }

    /// Puts bindings and active versions of an app back as they were, after the sandbox could not carry out a
    /// change. Versions stay, and so do the audit entries of the change.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another node changed the app too since the snapshot was taken: its change would
    /// be undone with it, so everything stays.
    pub fn restore(
        &self,
        actor: &Actor,
        snapshot: &Snapshot,
        cause: &str,
    ) -> Result<(), StoreError> {
        self.mutate(actor, |transaction| {
            let app = snapshot.app.as_str();
            let changes = transaction.query_one(
                "SELECT count(*) FROM audit
                 WHERE app = ?1 AND id > ?2 AND action <> 'plugin.upload' AND result NOT LIKE 'refused%'",
                params![app, snapshot.last_entry],
            )?;
            if changes.get::<i64>(0)? > 1 {
                return Err(StoreError::conflict(format!(
                    "app {app} was changed from another node at the same time, so the change stays; look at what is \
                     bound and active now"
                )));
            }
            transaction.execute("DELETE FROM bindings WHERE app = ?1", params![app])?;
            for binding in &snapshot.bindings {
                transaction.execute(
                    "INSERT INTO bindings
                         (id, plugin, app, hook, scope, position, config, failure_policy, created_at, isolation)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        &binding.id,
                        binding.plugin,
                        app,
                        &binding.hook,
                        &binding.scope,
                        binding.position,
                        &binding.config,
                        &binding.failure_policy,
                        binding.created_at,
                        &binding.isolation,
                    ],
                )?;
            }
            for (plugin, activation) in &snapshot.activations {
                transaction.execute(
                    "UPDATE plugins SET activation = ?1 WHERE id = ?2 AND app = ?3",
                    params![*activation, *plugin, app],
                )?;
            }
            let change = Change::new(Some(&snapshot.app), "app.restore", format!("app/{app}"))
                .result(cause);
            Ok(((), Some(change)))
        })
    }
}

/// See [`Store::desired_state`].
pub(super) fn desired_state(transaction: &Transaction<'_>) -> Result<DesiredState, StoreError> {
    let rows = transaction.query(
        &format!(
            "SELECT {COLUMNS}, v.digest FROM bindings b
             JOIN plugins p ON p.id = b.plugin
             JOIN activations a ON a.id = p.activation
             JOIN versions v ON v.plugin = p.id AND v.number = a.version
             ORDER BY b.app, b.hook, b.scope, b.position"
        ),
        &[],
    )?;
    let mut state = DesiredState::default();
    for row in &rows {
        let binding = read_binding(row)?;
        let Some(version) = binding.active_version else {
            continue;
        };
        state.bindings.push(DesiredBinding {
            id: binding.id,
            app: binding.app,
            plugin: binding.plugin,
            version,
            digest: row.get::<[u8; 32]>(11)?.into(),
            hook: binding.hook,
            scope: binding.scope,
            position: binding.position,
            config: binding.config,
            failure_policy: binding.failure_policy,
            isolation: binding.isolation,
        });
    }
    Ok(state)
}

fn check_request(request: &BindingRequest) -> Result<(), StoreError> {
    if !request.scope.fits(request.hook) {
        return Err(StoreError::invalid(
            "scope",
            format!(
                "{} has no scope {}; namespaces are for authorization, filtering and routing, rpc prefixes for rpc, and 'app' fits all",
                request.hook, request.scope
            ),
        ));
    }
    if request.failure_policy == Some(FailurePolicy::Open) && request.hook != Hook::Filtering {
        return Err(StoreError::invalid(
            "failure_policy",
            format!(
                "{} always fails closed; only filtering may be open",
                request.hook
            ),
        ));
    }
    let config = request.config.as_deref().unwrap_or_default();
    if config.len() > MAX_CONFIG_BYTES {
        return Err(StoreError::invalid(
            "config",
            format!("at most {MAX_CONFIG_BYTES} bytes of JSON"),
        ));
    }
    if !config.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(config).is_err() {
        return Err(StoreError::invalid("config", "is not valid JSON"));
    }
    Ok(())
}

fn check_exports(
    transaction: &Transaction<'_>,
    plugin: i64,
    request: &BindingRequest,
) -> Result<(), StoreError> {
    let active = transaction.query_opt(
        "SELECT a.version FROM plugins p JOIN activations a ON a.id = p.activation WHERE p.id = ?1",
        params![plugin],
    )?;
    let version = match active {
        Some(row) => find_version(transaction, plugin, row.get(0)?)?,
        None => newest_version(transaction, plugin)?,
    };
    let Some(version) = version else {
        return Err(StoreError::conflict("upload a version of the plugin first"));
    };
    if version.hooks.contains(&request.hook) {
        return Ok(());
    }
    let exported: Vec<&str> = version.hooks.iter().map(|hook| hook.as_str()).collect();
    Err(StoreError::conflict(format!(
        "version {} of {} does not export {}; it exports {}",
        version.number,
        request.plugin,
        request.hook,
        exported.join(", ")
    )))
}

fn check_count(transaction: &Transaction<'_>, app: &AppName) -> Result<(), StoreError> {
    let count = transaction.query_one(
        "SELECT count(*) FROM bindings WHERE app = ?1",
        params![app.as_str()],
    )?;
    if count.get::<i64>(0)? < MAX_BINDINGS {
        Ok(())
    } else {
        Err(StoreError::conflict(format!(
            "app {app} has {MAX_BINDINGS} bindings, which is the most; unbind something first"
        )))
    }
}

/// Ids of the bindings of one pipeline, in order.
fn pipeline(
    transaction: &Transaction<'_>,
    app: &AppName,
    hook: Hook,
    scope: &Scope,
) -> Result<Vec<String>, StoreError> {
    let rows = transaction.query(
        "SELECT id FROM bindings WHERE app = ?1 AND hook = ?2 AND scope = ?3 ORDER BY position, id",
        params![app.as_str(), hook.as_str(), scope.to_string()],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn renumber(transaction: &Transaction<'_>, pipeline: &[String]) -> Result<(), StoreError> {
    for (position, id) in (0_u32..).zip(pipeline) {
        transaction.execute(
            "UPDATE bindings SET position = ?1 WHERE id = ?2 AND position <> ?1",
            params![position, id],
        )?;
    }
    Ok(())
}

fn find(transaction: &Transaction<'_>, app: &AppName, id: &str) -> Result<Binding, StoreError> {
    let row = transaction.query_opt(
        &format!(
            "SELECT {COLUMNS} FROM bindings b JOIN plugins p ON p.id = b.plugin
             WHERE b.id = ?1 AND b.app = ?2"
        ),
        params![id, app.as_str()],
    )?;
    match row {
        Some(row) => read_binding(&row),
        None => Err(StoreError::not_found("the binding")),
    }
}

fn find_by_place(
    transaction: &Transaction<'_>,
    plugin: i64,
    request: &BindingRequest,
) -> Result<Option<Binding>, StoreError> {
    let row = transaction.query_opt(
        &format!(
            "SELECT {COLUMNS} FROM bindings b JOIN plugins p ON p.id = b.plugin
             WHERE b.plugin = ?1 AND b.hook = ?2 AND b.scope = ?3"
        ),
        params![plugin, request.hook.as_str(), request.scope.to_string()],
    )?;
    row.as_ref().map(read_binding).transpose()
}

/// What the audit log compares: everything that decides how the binding behaves.
fn describe(binding: &Binding) -> Digest {
    let parts = serde_json::json!([
        binding.plugin,
        binding.hook,
        binding.scope,
        binding.position,
        binding.config,
        binding.failure_policy,
        binding.isolation,
    ]);
    Digest::of(parts.to_string().as_bytes())
}

fn read_binding(row: &Row) -> Result<Binding, StoreError> {
    let corrupt = |what: &'static str| move |_: StoreError| StoreError::corrupt(what);
    Ok(Binding {
        id: row.get(0)?,
        app: AppName::parse(&row.get::<String>(1)?).map_err(corrupt("an app's name"))?,
        plugin: PluginName::parse(&row.get::<String>(2)?).map_err(corrupt("a plugin's name"))?,
        hook: read_hook(row, 3)?,
        scope: row
            .get::<String>(4)?
            .parse()
            .map_err(corrupt("a binding's scope"))?,
        position: row.get(5)?,
        config: row.get(6)?,
        failure_policy: row
            .get::<String>(7)?
            .parse()
            .map_err(corrupt("a binding's failure policy"))?,
        created_at: Timestamp::from_millis(row.get(8)?),
        active_version: row.get(9)?,
        isolation: row
            .get::<String>(10)?
            .parse()
            .map_err(corrupt("a binding's isolation"))?,
    })
}
