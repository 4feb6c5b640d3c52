//! `plugin …`: from an empty directory to code that answers in a running server.
//!
//! What happens on this machine is in [`scaffold`] and [`cargo`]; everything else asks the admin API through [`api`].

mod api;
mod cargo;
mod scaffold;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_control::{Hook, PluginName, Scope};

use self::api::{Binding, PluginApi};
use super::{
    Failure, Output, block_on,
    output::{describe_fields, table},
    server::AdminServer,
};

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a crate that builds, passes its own tests and can be pushed at once
    New(New),
    /// Compile the crate to WebAssembly
    Build(Build),
    /// Upload a version; builds it first when given a crate
    Push(Push),
    /// List plugins with their active versions and bindings
    List(List),
    /// List the versions of a plugin
    Versions(Versions),
    /// Show hooks, imports, size and digest of a version
    Inspect(Inspect),
    /// Let a version answer from now on
    Activate(Activate),
    /// Go back to the version that was active before
    Rollback(Rollback),
    /// Say at which hook and in which scope a plugin is asked
    Bind(Bind),
    /// Stop asking a plugin somewhere
    Unbind(Unbind),
    /// Delete a plugin that is bound nowhere, with all its versions
    Delete(Delete),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin new shout
  cd shout && cargo test && tidegate plugin push --activate --bind filtering@namespace:chat")]
pub struct New {
    /// Name of the plugin: a-z, 0-9 and `-`
    #[arg(value_parser = plugin_name)]
    name: String,
    /// Directory to make [default: the name]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Build {
    /// Directory of the crate
    #[arg(default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin push                                   build the crate here and upload it
  tidegate plugin push shout.wasm --note 'louder'
  tidegate plugin push --activate --bind filtering@namespace:chat --config '{\"loud\": true}'

A refused upload names the rule and what to do; nothing is stored of it.")]
pub struct Push {
    /// A .wasm file, or the directory of a crate
    #[arg(default_value = ".")]
    source: PathBuf,
    /// Name of the plugin [default: the crate's, or the file's]
    #[arg(long, value_parser = plugin_name)]
    name: Option<String>,
    /// A line about this version
    #[arg(long, default_value = "")]
    note: String,
    /// Let the version answer from now on
    #[arg(long)]
    activate: bool,
    /// Bind the plugin, as in `filtering@namespace:chat`; may be given several times
    #[arg(long = "bind", value_name = "HOOK@SCOPE", value_parser = bind_target)]
    binds: Vec<BindTarget>,
    /// Settings of these bindings: JSON, or `@FILE`
    #[arg(
        long,
        visible_alias = "bind-config",
        value_name = "JSON|@FILE",
        requires = "binds"
    )]
    config: Option<String>,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct Versions {
    #[arg(value_parser = plugin_name)]
    name: String,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct Inspect {
    #[arg(value_parser = plugin_name)]
    name: String,
    /// Version number [default: the newest]
    version: Option<u32>,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Once this has answered, no later call runs the version before; no socket was closed."
)]
pub struct Activate {
    #[arg(value_parser = plugin_name)]
    name: String,
    /// Version number
    version: u32,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct Rollback {
    #[arg(value_parser = plugin_name)]
    name: String,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin bind shout filtering --scope namespace:chat --config '{\"loud\": true}'
  tidegate plugin bind ticket-auth authentication --config @ticket-auth.json
  tidegate plugin bind quotes rpc --scope rpc:quotes.

Binding a plugin where it is bound already changes that binding.")]
pub struct Bind {
    #[arg(value_parser = plugin_name)]
    name: String,
    /// authentication, authorization, filtering, routing or rpc
    #[arg(value_parser = hook)]
    hook: Hook,
    /// app, namespace:NAME or rpc:PREFIX
    #[arg(long, default_value = "app", value_parser = scope)]
    scope: Scope,
    /// Settings of the binding: JSON, or `@FILE`
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// Place among the plugins asked there, from 0 [default: last]
    #[arg(long)]
    position: Option<u32>,
    /// What happens when the plugin fails: closed refuses the message, open lets it pass (filtering only)
    #[arg(long, default_value = "closed", value_parser = ["closed", "open"])]
    failure_policy: String,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct Unbind {
    #[arg(value_parser = plugin_name)]
    name: String,
    /// Only at this hook [default: everywhere]
    #[arg(value_parser = hook)]
    hook: Option<Hook>,
    /// Only in this scope [default: every scope]
    #[arg(long, value_parser = scope)]
    scope: Option<Scope>,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
pub struct Delete {
    #[arg(value_parser = plugin_name)]
    name: String,
    #[command(flatten)]
    server: AdminServer,
}

/// `HOOK@SCOPE` of `push --bind`.
#[derive(Debug, Clone)]
pub(super) struct BindTarget {
    hook: Hook,
    scope: Scope,
}

fn plugin_name(text: &str) -> Result<String, String> {
    PluginName::parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

fn hook(text: &str) -> Result<Hook, String> {
    text.parse()
        .map_err(|error: tidegate_control::StoreError| error.to_string())
}

fn scope(text: &str) -> Result<Scope, String> {
    text.parse()
        .map_err(|error: tidegate_control::StoreError| error.to_string())
}

fn bind_target(text: &str) -> Result<BindTarget, String> {
    let (hook_text, scope_text) = text.split_once('@').unwrap_or((text, "app"));
    let target = BindTarget {
        hook: hook(hook_text)?,
        scope: scope(scope_text)?,
    };
    if !target.scope.fits(target.hook) {
        return Err(format!(
            "{} cannot be bound to the scope {}",
            target.hook, target.scope
        ));
    }
    Ok(target)
}

pub(super) fn run(command: PluginCommand, output: Output) -> Result<(), Failure> {
    match command {
        PluginCommand::New(command) => new(&command, output),
        PluginCommand::Build(command) => build(&command, output),
        PluginCommand::Push(command) => push(command, output),
        PluginCommand::List(command) => list(&command, output),
        PluginCommand::Versions(command) => versions(&command, output),
        PluginCommand::Inspect(command) => inspect(&command, output),
        PluginCommand::Activate(command) => activate(&command, output),
        PluginCommand::Rollback(command) => rollback(&command, output),
        PluginCommand::Bind(command) => bind(command, output),
        PluginCommand::Unbind(command) => unbind(&command, output),
        PluginCommand::Delete(command) => delete(&command, output),
    }
}

fn new(command: &New, output: Output) -> Result<(), Failure> {
    let dir = command
        .path
        .clone()
        .unwrap_or_else(|| PathBuf::from(&command.name));
    scaffold::write(&command.name, &dir)?;
    let shown = dir.display();
    output.result(&json!({"name": command.name, "path": dir}), || {
        format!(
            "made {shown}; next:\n  cd {shown}\n  cargo test\n  tidegate plugin push --activate --bind filtering@namespace:chat"
        )
    });
    Ok(())
}

fn build(command: &Build, output: Output) -> Result<(), Failure> {
    let built = cargo::build(&command.dir, output)?;
    let size = size_of(&built.wasm);
    output.result(
        &json!({"name": built.name, "path": built.wasm, "size": size}),
        || {
            format!(
                "{} ({size} bytes)\nnext: tidegate plugin push",
                built.wasm.display()
            )
        },
    );
    Ok(())
}

fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn push(command: Push, output: Output) -> Result<(), Failure> {
    let Push {
        source,
        name,
        note,
        activate,
        binds,
        config,
        server,
    } = command;
    let config = binding_config(config.as_deref())?;
    // The key is looked for before a build that would be in vain.
    let api = PluginApi::new(&server)?;
    let (name, wasm) = artifact(&source, name, output)?;
    let bytes = std::fs::read(&wasm)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", wasm.display())))?;
    let (uploaded, activated, bound) = block_on(async {
        let uploaded = api.upload(&name, bytes, &note).await?;
        let number = api::version_number(&uploaded)?;
        let activated = if activate {
            Some(api.activate(&name, number).await?)
        } else {
            None
        };
        let mut bound = Vec::new();
        for target in binds {
            let BindTarget { hook, scope } = target;
            let binding = Binding {
                name: &name,
                hook,
                scope: &scope,
                config: config.as_ref(),
                position: None,
                failure_policy: "closed",
            };
            bound.push(api.bind(binding).await?);
        }
        Ok((uploaded, activated, bound))
    })?;
    let number = api::version_number(&uploaded)?;
    let value = json!({
        "plugin": name,
        "version": number,
        "upload": uploaded,
        "activation": activated,
        "bindings": bound,
    });
    output.result(&value, || {
        let mut lines = vec![format!("{name} version {number} is there")];
        if activated.is_some() {
            lines.push(format!("version {number} answers from now on"));
        } else {
            lines.push(format!("next: tidegate plugin activate {name} {number}"));
        }
        lines.extend(
            bound
                .iter()
                .map(|binding| format!("bound: {}", describe(binding))),
        );
        lines.join("\n")
    });
    Ok(())
}

/// Name and file of what is pushed; a crate is built first.
fn artifact(
    source: &Path,
    name: Option<String>,
    output: Output,
) -> Result<(String, PathBuf), Failure> {
    if source.is_dir() {
        let built = cargo::build(source, output)?;
        let name = match name {
            Some(name) => name,
            None => plugin_name(&built.name).map_err(|error| {
                Failure::usage(error).hint("give the plugin a name with --name")
            })?,
        };
        return Ok((name, built.wasm));
    }
    if !source.exists() {
        return Err(Failure::usage(format!("{} does not exist", source.display()))
            .hint("name a .wasm file or the directory of a plugin crate; `tidegate plugin new NAME` makes one"));
    }
    let name = match name {
        Some(name) => name,
        None => {
            let stem = source
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default()
                .replace('_', "-");
            plugin_name(&stem)
                .map_err(|error| Failure::usage(error).hint("give the plugin a name with --name"))?
        }
    };
    Ok((name, source.to_owned()))
}

/// JSON as it is, `@FILE`, or the path of a file that exists.
fn binding_config(text: Option<&str>) -> Result<Option<Value>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let path = text.strip_prefix('@').or_else(|| {
        (!text.trim_start().starts_with('{') && Path::new(text).is_file()).then_some(text)
    });
    let (text, place) = match path {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("--config: {path}: {error}")))?;
            (text, path.to_owned())
        }
        None => (text.to_owned(), "--config".to_owned()),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::usage(format!("{place} is not JSON: {error}"))
            .hint("write it as in --config '{\"loud\": true}' or --config @settings.json")
    })
}

fn list(command: &List, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let (plugins, bindings) =
        block_on(async { Ok((api.plugins().await?, api.bindings().await?)) })?;
    let value = json!({"plugins": plugins, "bindings": bindings});
    output.result(&value, || {
        if plugins.is_empty() {
            return "no plugins yet; `tidegate plugin new NAME` makes one, `tidegate plugin push` uploads it".to_owned();
        }
        let rows: Vec<Vec<String>> = plugins
            .iter()
            .map(|plugin| {
                let bound: Vec<String> = bindings
                    .iter()
                    .filter(|binding| binding["plugin"] == plugin["name"])
                    .map(describe)
                    .collect();
                vec![cell(&plugin["name"]), cell(&plugin["active_version"]), cell(&plugin["newest_version"]), bound.join(", ")]
            })
            .collect();
        table(&["PLUGIN", "ACTIVE", "NEWEST", "BOUND"], &rows)
    });
    Ok(())
}

/// `filtering@namespace:chat`.
fn describe(binding: &Value) -> String {
    format!("{}@{}", cell(&binding["hook"]), cell(&binding["scope"]))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn versions(command: &Versions, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let versions = block_on(api.versions(&command.name))?;
    output.result(&json!({"versions": versions}), || {
        let rows: Vec<Vec<String>> = versions
            .iter()
            .map(|version| {
                let active = if version["is_active"] == true {
                    "active"
                } else {
                    ""
                };
                let digest: String = cell(&version["digest"]).chars().take(12).collect();
                let mut row = vec![cell(&version["number"]), active.to_owned(), digest];
                row.extend(
                    ["size", "hooks", "created_at", "note"].map(|name| cell(&version[name])),
                );
                row
            })
            .collect();
        table(
            &["VERSION", "", "DIGEST", "SIZE", "HOOKS", "UPLOADED", "NOTE"],
            &rows,
        )
    });
    Ok(())
}

fn inspect(command: &Inspect, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let version = block_on(async {
        match command.version {
            Some(number) => api.version(&command.name, number).await,
            None => {
                let mut plugin = api.plugin(&command.name).await?;
                let mut newest = plugin["versions"][0].take();
                if newest.is_null() {
                    return Err(Failure::new(format!("{} has no versions", command.name)));
                }
                newest["active_version"] = plugin["active_version"].take();
                Ok(newest)
            }
        }
    })?;
    output.result(&version, || describe_fields(&version, 0));
    Ok(())
}

fn activate(command: &Activate, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let answer = block_on(api.activate(&command.name, command.version))?;
    output.result(&answer, || {
        format!(
            "{} version {} answers from now on",
            command.name, command.version
        )
    });
    Ok(())
}

fn rollback(command: &Rollback, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let answer = block_on(api.rollback(&command.name))?;
    output.result(&answer, || {
        format!(
            "{} version {} answers again",
            command.name,
            cell(&answer["version"])
        )
    });
    Ok(())
}

fn bind(command: Bind, output: Output) -> Result<(), Failure> {
    let Bind {
        name,
        hook,
        scope,
        config,
        position,
        failure_policy,
        server,
    } = command;
    if !scope.fits(hook) {
        return Err(Failure::usage(format!("{hook} cannot be bound to the scope {scope}"))
            .hint("namespaces go with authorization, filtering and routing; rpc:PREFIX goes with rpc; app goes with all"));
    }
    let config = binding_config(config.as_deref())?;
    let api = PluginApi::new(&server)?;
    let binding = Binding {
        name: &name,
        hook,
        scope: &scope,
        config: config.as_ref(),
        position,
        failure_policy: &failure_policy,
    };
    let answer = block_on(api.bind(binding))?;
    output.result(&answer, || {
        let note = if answer["active_version"].is_null() {
            format!("\nnothing happens yet: {name} has no active version; `tidegate plugin activate {name} N`")
        } else {
            String::new()
        };
        format!("{name} is asked at {hook}@{scope}{note}")
    });
    Ok(())
}

fn unbind(command: &Unbind, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    let removed = block_on(async {
        let mut removed = Vec::new();
        for binding in api.bindings().await? {
            let is_meant = binding["plugin"] == command.name.as_str()
                && command
                    .hook
                    .is_none_or(|hook| binding["hook"] == hook.as_str())
                && command
                    .scope
                    .as_ref()
                    .is_none_or(|scope| binding["scope"] == scope.to_string());
            if is_meant {
                api.unbind(&cell(&binding["id"])).await?;
                removed.push(binding);
            }
        }
        Ok(removed)
    })?;
    if removed.is_empty() {
        return Err(Failure::new(format!("{} is not bound there", command.name))
            .hint("`tidegate plugin list` shows all bindings"));
    }
    output.result(&json!({"removed": removed}), || {
        removed
            .iter()
            .map(|binding| format!("no longer asked: {}", describe(binding)))
            .collect::<Vec<_>>()
            .join("\n")
    });
    Ok(())
}

fn delete(command: &Delete, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server)?;
    block_on(api.delete(&command.name))?;
    output.result(&json!({"deleted": command.name}), || {
        format!("{} is gone, with all its versions", command.name)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_target_is_a_hook_and_a_scope_that_fit() {
        assert_eq!(
            bind_target("filtering@namespace:chat")
                .unwrap()
                .scope
                .to_string(),
            "namespace:chat"
        );
        assert_eq!(bind_target("authentication").unwrap().scope, Scope::App);
        for wrong in [
            "sleeping@app",
            "filtering@room:1",
            "authentication@namespace:chat",
            "rpc@namespace:x",
        ] {
            assert!(bind_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_are_json_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"a\": 1}").unwrap();
        let path = file.path().display().to_string();
        assert_eq!(binding_config(Some("{\"a\": 1}")).unwrap().unwrap()["a"], 1);
        assert_eq!(
            binding_config(Some(&format!("@{path}"))).unwrap().unwrap()["a"],
            1
        );
        assert_eq!(binding_config(Some(&path)).unwrap().unwrap()["a"], 1);
        assert_eq!(binding_config(None).unwrap(), None);
        assert!(
            binding_config(Some("{a}"))
                .unwrap_err()
                .hint
                .contains("--config")
        );
        assert!(binding_config(Some("@/nowhere/x")).is_err());
    }

    #[test]
    fn a_file_names_the_plugin_unless_told_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = dir.path().join("word_filter.wasm");
        std::fs::write(&wasm, b"").unwrap();
        let output = Output::new(true);
        assert_eq!(artifact(&wasm, None, output).unwrap().0, "word-filter");
        assert_eq!(
            artifact(&wasm, Some("other".into()), output).unwrap().0,
            "other"
        );
        assert!(
            artifact(&dir.path().join("none.wasm"), None, output)
                .unwrap_err()
                .hint
                .contains("plugin new")
        );
    }
}
