//! The command line: one binary that serves, and that talks to a server.
//!
//! Owns arguments, what is printed and exit codes. Commands reach a server only through the admin API and the server
//! API; nothing here opens the data directory except to find the two key files and, for `token`, the configuration, and
//! `control copy`, which moves the store of a node that is stopped.
//!
//! Invariant: results go to standard output, everything else to standard error; with `--json` a result is one JSON
//! value per line.

mod app;
mod config;
mod control;
mod explain;
mod health;
mod http;
mod nodes;
mod output;
mod plugin;
mod publish;
mod server;
mod sessions;
mod subscribe;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::output::{Failure, Output};

/// Exit codes, as `docs/cli.md` lists them.
pub mod exit {
    /// The command was refused, or found what it looks for to be wrong.
    pub const FAILED: u8 = 1;
    /// The arguments or the configuration are wrong.
    pub const USAGE: u8 = crate::config::EXIT_STATUS;
    /// No server answered.
    pub const UNREACHABLE: u8 = 3;
}

const EXAMPLES: &str = "Examples:
  tidegate serve                                     start with defaults; keys are printed once
  tidegate config check tidegate.toml                explain every value
  tidegate plugin new shout                          make a plugin
  tidegate plugin push --activate --bind filtering@namespace:chat
  tidegate publish chat:lobby '{\"text\": \"hello\"}'
  tidegate subscribe chat:lobby --user alice --config tidegate.toml

Exit codes: 0 done, 1 refused or wrong, 2 bad arguments or configuration, 3 no server answered.";

/// A realtime server that you extend while it runs.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Print results as JSON, one value per line
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the server
    Serve(Serve),
    /// Check the configuration, or print the default one
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Move a control store
    #[command(subcommand)]
    Control(control::ControlCommand),
    /// Make, build, push, bind and roll back plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Create and delete apps, and manage their keys
    #[command(subcommand)]
    App(app::AppCommand),
    /// Show who is connected, on which node, and end sessions
    #[command(subcommand)]
    Sessions(sessions::SessionsCommand),
    /// Show what each node of the cluster runs
    Nodes(nodes::Nodes),
    /// Mint a connection token from the configured secret
    Token(token::Token),
    /// Publish a message through the server API
    Publish(publish::Publish),
    /// Subscribe to a channel and print what arrives
    Subscribe(subscribe::Subscribe),
    /// Tell what plugins made of a command, by its trace id or lately
    Explain(explain::Explain),
    /// Ask a server whether it is alive and ready
    Health(health::Health),
    /// Compile one plugin; a node starts this by itself, with the component on standard input
    #[command(name = COMPILE_CHILD, hide = true)]
    CompileChild,
}

/// The command by which a node starts itself as the compile child.
pub const COMPILE_CHILD: &str = "compile-child";

/// How `serve` is started.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate serve
  tidegate serve --config /etc/tidegate/tidegate.toml --data-dir /var/lib/tidegate

Every problem of the configuration is reported at once, before anything is bound; the exit code is then 2.
SIGTERM and ctrl-c drain the connections; a second signal does not wait.")]
pub struct Serve {
    /// Configuration file in TOML, YAML or JSON [default: none; env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the control store and keys; wins over the configuration's `data_dir`
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How keys and addresses are announced on standard output
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub announce: Announce,
}

/// Form of the announcements that `serve` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Announce {
    /// For people.
    Text,
    /// One JSON object per line, with the member `event`.
    Json,
    /// Not at all, for where standard output is kept: the first keys are in files of the data directory.
    None,
}

/// Runs a command other than `serve`.
pub fn run(command: Command, output: Output) -> ExitCode {
    let done = match command {
        Command::Serve(_) => unreachable!("main starts the server itself"),
        Command::CompileChild => tidegate_sandbox::compile_child().map_err(|error| {
            Failure::usage(format!("{COMPILE_CHILD}: {error}")).hint(
                "this command is for nodes alone; `tidegate plugin check FILE` tries a plugin out",
            )
        }),
        Command::Config(command) => config::run(command, output),
        Command::Control(command) => control::run(command, output),
        Command::Plugin(command) => plugin::run(command, output),
        Command::App(command) => app::run(command, output),
        Command::Sessions(command) => sessions::run(command, output),
        Command::Nodes(command) => nodes::run(&command, output),
        Command::Token(command) => token::run(command, output),
        Command::Publish(command) => publish::run(command, output),
        Command::Subscribe(command) => subscribe::run(command, output),
        Command::Explain(command) => explain::run(&command, output),
        Command::Health(command) => health::run(&command, output),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

/// Where the configuration of a command comes from: the option, or `TIDEGATE_CONFIG`.
pub fn config_file(
    option: Option<PathBuf>,
    environment: &dyn crate::config::Environment,
) -> Option<PathBuf> {
    option.or_else(|| environment.lookup("TIDEGATE_CONFIG").map(PathBuf::from))
}

/// A runtime for one command: it waits for one server, so one thread is enough.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_goes_with_every_command() {
        for args in [
            &["tidegate", "plugin", "list", "--json"][..],
            &["tidegate", "--json", "plugin", "list"],
            &["tidegate", "config", "check", "--json"],
            &["tidegate", "config", "check", "tidegate.toml", "--json"],
            &["tidegate", "publish", "a", "{}", "--json"],
            &["tidegate", "serve", "--announce", "json"],
        ] {
            Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn every_command_has_help_and_a_place_in_the_manual() {
        let manual = include_str!("../../../docs/cli.md");
        let mut cli = Cli::command();
        cli.build();
        let mut waiting: Vec<(String, clap::Command)> = vec![(String::new(), cli)];
        while let Some((path, command)) = waiting.pop() {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
            {
                let name = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "{name} has no help");
                if !sub.has_subcommands() {
                    let after = sub.get_after_help().map(ToString::to_string);
                    assert!(
                        after.is_some_and(|after| after.contains("Examples:")),
                        "{name} --help has no examples"
                    );
                    for argument in sub
                        .get_arguments()
                        .filter(|argument| !argument.is_hide_set())
                    {
                        assert!(
                            argument.get_help().is_some(),
                            "{name} does not describe {}",
                            argument.get_id()
                        );
                    }
                    assert!(
                        manual.contains(&format!("`tidegate{name}")),
                        "docs/cli.md does not name `tidegate{name}`"
                    );
                }
                waiting.push((name, sub.clone()));
            }
        }
    }
}
