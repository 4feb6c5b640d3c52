//! The arguments of `plugin …`, and what of them can be checked without a server.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use tidegate_control::{Hook, PluginName, Scope};

use crate::cli::server::AdminServer;

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a crate that builds, passes its own tests and can be pushed at once
    New(New),
    /// Compile the crate to WebAssembly
    Build(Build),
    /// Do here what a server does with an upload, and run saved inputs; builds it first when given a crate
    Check(Check),
    /// Show who is asked where, in which order, and how long that may take
    Pipelines(Pipelines),
    /// Show what plugins do by the clock: when each period is due, and what came of its last run
    Schedule(Schedule),
    /// Show what the plugins of an app do: calls, failures, times, memory, lane
    Top(Top),
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
    /// Show what a plugin logged, and with --follow what it logs from now on
    Logs(Logs),
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
    pub(super) name: String,
    /// Directory to make [default: the name]
    #[arg(long, value_name = "DIR")]
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin build
  tidegate plugin build plugins/shout")]
pub struct Build {
    /// Directory of the crate
    #[arg(default_value = ".")]
    pub(super) dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin check                                  build the crate here; admit, compile and try it
  tidegate plugin check shout.wasm --inputs tests/inputs
  tidegate plugin check shout.wasm --inputs loud.json --config '{\"loud\": true}' --json

No server is asked. The exit code is 1 when a rule refuses the plugin, when a call fails, or when a verdict is not the
expected one. docs/plugins.md has the format of inputs.")]
pub struct Check {
    /// A .wasm file, or the directory of a crate
    #[arg(value_name = "FILE", default_value = ".")]
    pub(super) source: PathBuf,
    /// Saved inputs: a JSON file, or a directory of them
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) inputs: Option<PathBuf>,
    /// Settings of the plugin, as of a binding: JSON, or `@FILE`
    #[arg(long, value_name = "JSON|@FILE")]
    pub(super) config: Option<String>,
    /// Configuration of the server whose limits hold [default: none; env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) server_config: Option<PathBuf>,
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
    pub(super) source: PathBuf,
    /// Name of the plugin [default: the crate's, or the file's]
    #[arg(long, value_parser = plugin_name)]
    pub(super) name: Option<String>,
    /// A line about this version
    #[arg(long, default_value = "")]
    pub(super) note: String,
    /// Let the version answer from now on
    #[arg(long)]
    pub(super) activate: bool,
    /// Bind the plugin, as in `filtering@namespace:chat` (HOOK alone is HOOK@app); may be given several times
    #[arg(long = "bind", value_name = "HOOK@SCOPE", value_parser = bind_target)]
    pub(super) binds: Vec<BindTarget>,
    /// Settings of these bindings: JSON, or `@FILE` [default: kept; `{}` clears them]
    #[arg(
        long,
        visible_alias = "bind-config",
        value_name = "JSON|@FILE",
        requires = "binds"
    )]
    pub(super) config: Option<String>,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin list
  tidegate plugin list --json
  tidegate plugin list --json --reveal    for operators: with the secrets in settings

Settings are shown with the values of members that are called secret, token, password, key or like it replaced.")]
pub struct List {
    /// Show secrets in settings as they are; needs an operator key
    #[arg(long)]
    pub(super) reveal: bool,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin versions shout")]
pub struct Versions {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin inspect shout
  tidegate plugin inspect shout 2 --json")]
pub struct Inspect {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    /// Version number [default: the newest]
    pub(super) version: Option<u32>,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin activate shout 2

Once this has answered, no later call runs the version before; no socket was closed.")]
pub struct Activate {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    /// Version number
    pub(super) version: u32,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin rollback shout

Goes back to the version that was active before the present one; again goes further back.")]
pub struct Rollback {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin bind shout filtering --scope namespace:chat --config '{\"loud\": true}'
  tidegate plugin bind ticket-auth authentication --config @ticket-auth.json
  tidegate plugin bind quotes rpc --scope rpc:quotes.

Binding a plugin where it is bound already changes what is given of that binding and keeps the rest.")]
pub struct Bind {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    /// authentication, authorization, filtering, routing, rpc, events or schedule
    #[arg(value_parser = hook)]
    pub(super) hook: Hook,
    /// app, namespace:NAME or rpc:PREFIX
    #[arg(long, default_value = "app", value_parser = scope)]
    pub(super) scope: Scope,
    /// Settings of the binding: JSON, or `@FILE` [default: kept; `{}` clears them]
    #[arg(long, value_name = "JSON|@FILE")]
    pub(super) config: Option<String>,
    /// Place among the plugins asked there, from 0 [default: kept; last for a new binding]
    #[arg(long)]
    pub(super) position: Option<u32>,
    /// What happens when the plugin fails: closed refuses the message, open lets it pass (filtering only)
    /// [default: kept; closed for a new binding]
    #[arg(long, value_parser = ["closed", "open"])]
    pub(super) failure_policy: Option<String>,
    /// How long an instance lives: shared serves many calls, per-call one (slower, and nothing lives on) [default:
    /// kept; shared for a new binding]
    #[arg(long, value_parser = ["shared", "per-call"])]
    pub(super) isolation: Option<String>,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin schedule
  tidegate plugin schedule --app shop --json")]
pub struct Schedule {
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin unbind shout
  tidegate plugin unbind shout filtering --scope namespace:chat
  tidegate plugin unbind shout filtering --all-scopes

A hook at which the plugin is bound in several scopes needs --scope or --all-scopes.")]
pub struct Unbind {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    /// Only at this hook [default: everywhere]
    #[arg(value_parser = hook)]
    pub(super) hook: Option<Hook>,
    /// Only in this scope
    #[arg(long, value_parser = scope)]
    pub(super) scope: Option<Scope>,
    /// In every scope where it is bound at the hook
    #[arg(long, conflicts_with = "scope")]
    pub(super) all_scopes: bool,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin logs shout
  tidegate plugin logs shout --follow --level warn
  tidegate plugin logs shout --user alice --limit 1000
  tidegate plugin logs shout --trace a71cd982164b        what it said in one call
  tidegate plugin logs shout --follow --json | jq .message

The node keeps the last 1,000 lines of each plugin in memory. A panic is there with its message, a failed call with its
kind. A plugin may write 100 lines a second; how many it wrote beyond that stands where they are missing.")]
pub struct Logs {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    /// Go on with what it logs from now on
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only lines about commands of this user
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Only lines of the call with this trace id
    #[arg(long, value_name = "ID")]
    pub(super) trace: Option<String>,
    /// Only lines of this level and graver ones
    #[arg(long, value_parser = ["trace", "debug", "info", "warn", "error"])]
    pub(super) level: Option<String>,
    /// Only lines of this version
    #[arg(long, value_name = "N")]
    pub(super) version: Option<u32>,
    /// Lines of the past, at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) limit: u16,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin delete shout

Refused while the plugin is bound; `tidegate plugin unbind` first.")]
pub struct Delete {
    /// Name of the plugin
    #[arg(value_parser = plugin_name)]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin pipelines
  tidegate plugin pipelines --channel chat:lobby     what a message to this channel and a subscription to it meet
  tidegate plugin pipelines --hook rpc --json

The time by deadlines is what the plugins may take together. The very worst is what one question takes at most on a machine
that has no core for it: the wait for a plugin thread, a fresh instance for each plugin, and each deadline put off as often
as it may be.")]
pub struct Pipelines {
    /// Only those that this channel meets
    #[arg(long)]
    pub(super) channel: Option<String>,
    /// Only of this hook
    #[arg(long, value_parser = hook)]
    pub(super) hook: Option<Hook>,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate plugin top                           rates over one second
  tidegate plugin top --sort p99 --watch 5      every five seconds, until ctrl-c
  tidegate plugin top --app shop --once --json  totals since each version was bound

Times and memory are of the version since it was bound. Most quick calls are not timed: one in 64 is, and every slow one.")]
pub struct Top {
    /// What comes first
    #[arg(long, value_name = "WHAT", default_value = "cpu")]
    pub(super) sort: Sort,
    /// Look again and again, at this interval
    #[arg(long, value_name = "SECONDS", conflicts_with = "once")]
    pub(super) watch: Option<NonZeroU32>,
    /// Look once and show totals instead of rates
    #[arg(long)]
    pub(super) once: bool,
    /// Show versions too that were bound before
    #[arg(long)]
    pub(super) former: bool,
    #[command(flatten)]
    pub(super) server: AdminServer,
}

/// What `top` puts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Calls
    Calls,
    /// Processor time
    Cpu,
    /// The time that one call in a hundred exceeds
    P99,
    /// Failed calls
    Failures,
    /// Memory of all instances
    Memory,
}

/// `HOOK@SCOPE` of `push --bind`.
#[derive(Debug, Clone)]
pub(super) struct BindTarget {
    pub(super) hook: Hook,
    pub(super) scope: Scope,
}

pub(super) fn plugin_name(text: &str) -> Result<String, String> {
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
}
