//! `plugin …`: from an empty directory to code that answers in a running server.
//!
//! The arguments are in [`arguments`]; what happens on this machine is in [`scaffold`] and [`cargo`]; everything else asks the admin API through [`api`].

mod api;
mod arguments;
mod cargo;
mod check;
mod logs;
mod pipelines;
mod push;
mod scaffold;
mod schedule;
mod top;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(super) use self::arguments::PluginCommand;
use self::{
    api::{Binding, PluginApi},
    arguments::{
        Activate, Bind, Build, Delete, Inspect, List, New, Rollback, Unbind, Versions, plugin_name,
    },
};
use super::{
    Failure, Output, block_on,
    output::{describe_fields, table},
};

pub(super) fn run(command: PluginCommand, output: Output) -> Result<(), Failure> {
    match command {
        PluginCommand::New(command) => new(&command, output),
        PluginCommand::Build(command) => build(&command, output),
        PluginCommand::Check(command) => check::run(command, output),
        PluginCommand::Pipelines(command) => pipelines::run(&command, output),
        PluginCommand::Schedule(command) => schedule::run(&command, output),
        PluginCommand::Top(command) => top::run(&command, output),
        PluginCommand::Push(command) => push::run(command, output),
        PluginCommand::List(command) => list(&command, output),
        PluginCommand::Versions(command) => versions(&command, output),
        PluginCommand::Inspect(command) => inspect(&command, output),
        PluginCommand::Activate(command) => activate(&command, output),
        PluginCommand::Rollback(command) => rollback(&command, output),
        PluginCommand::Bind(command) => bind(command, output),
        PluginCommand::Unbind(command) => unbind(&command, output),
        PluginCommand::Logs(command) => logs::run(&command, output),
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

/// Name and file of what is pushed or checked; a crate is built first.
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
    let api = PluginApi::new(&command.server, output)?;
    let (plugins, bindings) = block_on(async {
        let plugins = api.plugins().await?;
        let bindings = if command.reveal {
            api.revealed_bindings().await?
        } else {
            api.bindings().await?
        };
        Ok((plugins, bindings))
    })?;
    let value = json!({"plugins": plugins, "bindings": bindings});
    output.result(&value, || {
        if plugins.is_empty() {
            return "no plugins yet; `tidegate plugin new NAME` makes one, `tidegate plugin push` uploads it".to_owned();
        }
        let rows: Vec<Vec<String>> = plugins
            .iter()
            .map(|plugin| {
                let names = ["name", "active_version", "newest_version", "bindings"];
                names.map(|name| cell(&plugin[name])).to_vec()
            })
            .collect();
        let plugins = table(&["PLUGIN", "ACTIVE", "NEWEST", "BINDINGS"], &rows);
        if bindings.is_empty() {
            return format!("{plugins}\n\nno plugin is asked anywhere; `tidegate plugin bind NAME HOOK` changes that");
        }
        let mut text = format!("{plugins}\n\n{}", binding_table(&bindings));
        for binding in bindings.iter().filter(|binding| binding["problem"].is_string()) {
            text.push_str(&format!(
                "\n{} does not run at {}: {}",
                cell(&binding["plugin"]),
                describe(binding),
                cell(&binding["problem"])
            ));
        }
        text
    });
    Ok(())
}

/// One row for each binding, in the order in which plugins are asked.
fn binding_table(bindings: &[Value]) -> String {
    let rows: Vec<Vec<String>> = bindings
        .iter()
        .map(|binding| {
            vec![
                describe(binding),
                cell(&binding["position"]),
                cell(&binding["plugin"]),
                cell(&binding["failure_policy"]),
                match &binding["config"] {
                    Value::Null => "-".to_owned(),
                    settings => shortened(&settings.to_string()),
                },
            ]
        })
        .collect();
    let heading = [
        "ASKED AT",
        "POSITION",
        "PLUGIN",
        "WHEN IT FAILS",
        "SETTINGS",
    ];
    table(&heading, &rows)
}

/// What fits at the end of a line.
fn shortened(text: &str) -> String {
    const CHARS: usize = 60;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a binding that was there before has kept, worth a word.
fn kept(binding: &Value) -> &'static str {
    let is_kept = |member: &str| {
        let kept = binding["kept"].as_array();
        kept.is_some_and(|kept| kept.iter().any(|name| name == member))
    };
    let has_settings = !binding["config"].is_null() && binding["config"] != json!({});
    match (
        is_kept("config") && has_settings,
        is_kept("failure_policy") && binding["failure_policy"] == "open",
    ) {
        (true, true) => " (settings and failure policy kept)",
        (true, false) => " (settings kept)",
        (false, true) => " (failure policy kept)",
        (false, false) => "",
    }
}

/// Says what the server thinks is odd about a binding that it accepted.
fn warn(binding: &Value, output: Output) {
    for warning in binding["warnings"].as_array().into_iter().flatten() {
        output.note(&format!("warning: {}", cell(warning)));
    }
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
    let api = PluginApi::new(&command.server, output)?;
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
    let api = PluginApi::new(&command.server, output)?;
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
    output.result(&version, || {
        // As the other commands call it; and no line for a note that nobody wrote.
        let mut shown = version.clone();
        shown["version"] = shown["number"].take();
        if shown["note"] == "" {
            shown["note"].take();
        }
        describe_fields(&shown, 0)
    });
    Ok(())
}

fn activate(command: &Activate, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    let answer = block_on(api.activate(&command.name, command.version))?;
    output.result(&answer, || {
        format!(
            "{} version {} answers from now on",
            command.name, command.version
        )
    });
    warn(&answer, output);
    Ok(())
}

fn rollback(command: &Rollback, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    let answer = block_on(api.rollback(&command.name))?;
    output.result(&answer, || {
        format!(
            "{} version {} answers again",
            command.name,
            cell(&answer["version"])
        )
    });
    warn(&answer, output);
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
        isolation,
        server,
    } = command;
    if !scope.fits(hook) {
        return Err(Failure::usage(format!("{hook} cannot be bound to the scope {scope}"))
            .hint("namespaces go with authorization, filtering and routing; rpc:PREFIX goes with rpc; app goes with all"));
    }
    let config = binding_config(config.as_deref())?;
    let api = PluginApi::new(&server, output)?;
    let binding = Binding {
        name: &name,
        hook,
        scope: &scope,
        config: config.as_ref(),
        position,
        failure_policy: failure_policy.as_deref(),
        isolation: isolation.as_deref(),
    };
    let answer = block_on(api.bind(binding))?;
    output.result(&answer, || {
        let note = if answer["active_version"].is_null() {
            format!("\nnothing happens yet: {name} has no active version; `tidegate plugin activate {name} N`")
        } else {
            String::new()
        };
        format!("{name} is asked at {hook}@{scope}{}{note}", kept(&answer))
    });
    warn(&answer, output);
    Ok(())
}

fn unbind(command: &Unbind, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    let removed = block_on(async {
        let mut meant = api.bindings().await?;
        meant.retain(|binding| is_meant(command, binding));
        is_unambiguous(command, &meant)?;
        for binding in &meant {
            api.unbind(&cell(&binding["id"])).await?;
        }
        Ok(meant)
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

fn is_meant(command: &Unbind, binding: &Value) -> bool {
    let Unbind {
        name,
        hook,
        scope,
        all_scopes: _,
        server: _,
    } = command;
    binding["plugin"] == name.as_str()
        && hook.is_none_or(|hook| binding["hook"] == hook.as_str())
        && scope
            .as_ref()
            .is_none_or(|scope| binding["scope"] == scope.to_string())
}

/// Who names a hook often thinks of one binding; that there are more is said before they are gone.
fn is_unambiguous(command: &Unbind, meant: &[Value]) -> Result<(), Failure> {
    let Some(hook) = command.hook else {
        return Ok(());
    };
    if meant.len() < 2 || command.all_scopes {
        return Ok(());
    }
    let mut scopes: Vec<String> = meant
        .iter()
        .map(|binding| cell(&binding["scope"]))
        .collect();
    scopes.sort_unstable();
    let name = &command.name;
    Err(Failure::usage(format!(
        "{name} is bound to {hook} in {} scopes: {}; nothing was removed",
        scopes.len(),
        scopes.join(", ")
    ))
    .hint(format!(
        "`tidegate plugin unbind {name} {hook} --scope {}` removes one, --all-scopes all of them",
        scopes[0]
    ))
    .details(json!({ "scopes": scopes })))
}

fn delete(command: &Delete, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
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
