//! `control copy`: the way from one node with a file to nodes that share a database, and back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_control::{Actor, Copied, DATABASE_FILE, Store};

use super::{Failure, Output, config_file};
use crate::causes::in_one_line;
use crate::config::{self, ControlConfig, ProcessEnvironment, Sources};

#[derive(Debug, Subcommand)]
pub enum ControlCommand {
    /// Copy apps, keys, plugins, bindings and the audit log from a data directory into an empty database, or back
    Copy(Copy),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  systemctl stop tidegate
  tidegate control copy --config tidegate.toml --data-dir /var/lib/tidegate
  tidegate control copy --back --config tidegate.toml --data-dir /var/lib/tidegate-alone

The configuration is the one with control.store = \"postgres\"; no node may have started on its database yet. The
node of the data directory is stopped meanwhile; its control.db stays as it is. With --back it is the database that stays
as it is, and the data directory that has no store yet; stop the nodes, or what they change meanwhile is not in it.")]
pub struct Copy {
    /// Configuration file [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory with the control.db to copy; wins over the configuration's `data_dir`
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// From the database into a new control.db of the data directory
    #[arg(long)]
    back: bool,
}

pub(super) fn run(command: ControlCommand, output: Output) -> Result<(), Failure> {
    let ControlCommand::Copy(Copy {
        config,
        data_dir,
        back,
    }) = command;
    let file = config_file(config, &ProcessEnvironment);
    let loaded = config::load(Sources {
        file: file.as_deref(),
        environment: &ProcessEnvironment,
        data_dir: data_dir.as_deref(),
    })?;
    let ControlConfig::Postgres(postgres) = loaded.config.control else {
        return Err(Failure::usage(
            "control.store is \"sqlite\": there is no database to copy into or from",
        )
        .hint("set control.store = \"postgres\" and control.postgres.url"));
    };
    let file = loaded.config.data_dir.join(DATABASE_FILE);
    if !back && !file.is_file() {
        let data_dir = loaded.config.data_dir.display();
        return Err(Failure::usage(format!("{data_dir} has no {DATABASE_FILE}"))
            .hint("name the data directory of the node with --data-dir"));
    }
    let place = postgres.place();
    let of_file = || Store::open(&loaded.config.data_dir).map_err(|error| failure(&error));
    let of_database = || Store::connect_for_a_command(*postgres).map_err(|error| failure(&error));
    // What is copied from comes first: nothing is made where it cannot be had.
    let (from, to, into, next) = if back {
        let next = "start a node with control.store = \"sqlite\" on it";
        (of_database()?, of_file()?, file.display().to_string(), next)
    } else {
        let next = "start the nodes with this configuration";
        (of_file()?, of_database()?, place, next)
    };
    let Copied { rows, artifacts } = from
        .copy_into(&to, &Actor::node())
        .map_err(|error| failure(&error))?;
    let value = json!({ "rows": rows, "artifacts": artifacts, "into": into });
    output.result(&value, || {
        format!("{rows} rows and {artifacts} artifacts are in {into}; {next}")
    });
    Ok(())
}

/// The whole chain of causes.
fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(in_one_line(error))
}
