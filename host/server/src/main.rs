//! The `tidegate` binary: a checklist. Everything it names lives in the library.

use std::process::ExitCode;

use clap::Parser as _;
use tidegate::{
    cli::{self, Cli, Command, Failure, Output, Serve},
    config::{self, ProcessEnvironment, Sources},
    telemetry,
};

/// Sessions are many small, long-lived allocations of few sizes, which mimalloc packs tightly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    match cli.command {
        Command::Serve(options) => match serve(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => output.fail(&failure),
        },
        command => cli::run(command, output),
    }
}

fn serve(options: Serve) -> Result<(), Failure> {
    // Configuration: every problem at once, before anything is bound or written.
    let file = cli::config_file(options.config, &ProcessEnvironment);
    let loaded = config::load(Sources {
        file: file.as_deref(),
        environment: &ProcessEnvironment,
        data_dir: options.data_dir.as_deref(),
    })?;
    let config = loaded.config;

    // Logs.
    telemetry::init(config.log.level.as_str(), config.log.file.as_deref())
        .map_err(|error| Failure::usage(error.to_string()))?;

    Err(Failure::new("this build has no node"))
}
