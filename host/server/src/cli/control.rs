//! `control copy`: the way from one node with a file to nodes that share a database.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_control::{Actor, Copied, DATABASE_FILE, Store};

use super::{Failure, Output, config_file};
use crate::config::{self, ControlConfig, ProcessEnvironment, Sources};

#[derive(Debug, Subcommand)]
pub enum ControlCommand {
    /// Copy apps, keys, plugins, bindings and the audit log from a data directory into an empty database
    Copy(Copy),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  systemctl stop tidegate
  tidegate control copy --config tidegate.toml --data-dir /var/lib/tidegate

The configuration is the new one, with control.store = \"postgres\"; no node may have started on its database yet. The
node of the data directory is stopped meanwhile; its control.db stays as it is.")]
pub struct Copy {
    /// Configuration file [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory with the control.db to copy; wins over the configuration's `data_dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(command: ControlCommand, output: Output) -> Result<(), Failure> {
    let ControlCommand::Copy(Copy { config, data_dir }) = command;
    let file = config_file(config, &ProcessEnvironment);
    let loaded = config::load(Sources {
        file: file.as_deref(),
        environment: &ProcessEnvironment,
        data_dir: data_dir.as_deref(),
    })?;
    let ControlConfig::Postgres(postgres) = loaded.config.control else {
        return Err(
            Failure::usage("control.store is \"sqlite\": there is nothing to copy into")
                .hint("set control.store = \"postgres\" and control.postgres.url"),
        );
    };
    let data_dir = loaded.config.data_dir;
    if !data_dir.join(DATABASE_FILE).is_file() {
        return Err(
            Failure::usage(format!("{} has no {DATABASE_FILE}", data_dir.display()))
                .hint("name the data directory of the node with --data-dir"),
        );
    }
    let place = postgres.place();
    let from = Store::open(&data_dir).map_err(|error| failure(&error))?;
    let to = Store::connect_for_a_command(*postgres).map_err(|error| failure(&error))?;
    let Copied { rows, artifacts } = from
        .copy_into(&to, &Actor::node())
        .map_err(|error| failure(&error))?;
    let value = json!({ "rows": rows, "artifacts": artifacts, "into": place });
    output.result(&value, || {
        format!("{rows} rows and {artifacts} artifacts are in {place}; start the nodes with this configuration")
    });
    Ok(())
}

/// The whole chain of causes.
fn failure(error: &dyn std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    Failure::new(text)
}
