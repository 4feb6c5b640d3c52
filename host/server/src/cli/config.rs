//! `config check`, `config default`, `config reference`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::{Failure, Output, config_file, exit};
use crate::config::{self, Format, ProcessEnvironment, Sources, check, default_file};

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Explain every effective value and where it came from; exits 1 on problems
    #[command(after_help = "Examples:
  tidegate config check tidegate.toml
  TIDEGATE_HTTP_SERVER_PORT=9000 tidegate config check --json")]
    Check {
        /// Configuration file, as with --config [env: TIDEGATE_CONFIG]
        #[arg(value_name = "FILE", conflicts_with = "config")]
        file: Option<PathBuf>,
        /// Configuration file [env: TIDEGATE_CONFIG]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Directory that `serve --data-dir` would be given
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Print a file with every key at its default, commented
    #[command(after_help = "Examples:
  tidegate config default > tidegate.toml
  tidegate config default --format yaml")]
    Default {
        /// Format of the file
        #[arg(long, default_value = "toml")]
        format: Format,
    },
    /// Print the tables of docs/configuration.md
    #[command(hide = true)]
    Reference,
}

pub(super) fn run(command: ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check {
            file,
            config,
            data_dir,
        } => {
            let file = config_file(file.or(config), &ProcessEnvironment);
            let sources = Sources {
                file: file.as_deref(),
                environment: &ProcessEnvironment,
                data_dir: data_dir.as_deref(),
            };
            let loaded = config::load(sources).map_err(|error| Failure {
                code: exit::FAILED,
                ..error.into()
            })?;
            let switches = loaded.config.insecure_switches();
            let warnings: Vec<_> = switches
                .iter()
                .map(|switch| json!({"key": switch.key, "consequence": switch.consequence}))
                .collect();
            let ignored: Vec<_> = loaded
                .ignored
                .iter()
                .map(|variable| json!({"name": variable.name, "hint": variable.hint}))
                .collect();
            let value = json!({
                "values": check::to_json(&loaded.effective),
                "insecure": warnings,
                "ignored_variables": ignored,
            });
            output.result(&value, || check::render(&loaded.effective, file.as_deref()));
            for switch in switches {
                output.note(&format!("insecure: {}: {}", switch.key, switch.consequence));
            }
            for variable in &loaded.ignored {
                output.note(&format!("ignored: {}: {}", variable.name, variable.hint));
            }
            output.note("the configuration is good");
            Ok(())
        }
        ConfigCommand::Default { format } => {
            let text = default_file::render(format);
            output.result(
                &json!({"format": format_name(format), "text": text}),
                || text.clone(),
            );
            Ok(())
        }
        ConfigCommand::Reference => {
            output.line(&default_file::manual());
            Ok(())
        }
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Toml => "toml",
        Format::Yaml => "yaml",
        Format::Json => "json",
    }
}
