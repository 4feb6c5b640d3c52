//! The `tidegate` binary: a checklist. Everything it names lives in the library.

use std::process::ExitCode;

use clap::Parser as _;
use serde_json::json;
use tidegate::{
    cli::{self, Announce, Cli, Command, Failure, Output, Serve},
    config::{self, ProcessEnvironment, Sources},
    node::{Announcement, BuildError, Node},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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

    for variable in &loaded.ignored {
        tracing::warn!(variable = %variable.name, hint = %variable.hint, "a variable of Centrifugo is set");
    }

    // Runtime: one worker and one shard a core.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
    runtime.block_on(async {
        // Everything opened and bound, nothing accepted.
        let mut node = Node::build(config).await.map_err(explain)?;
        announce(options.announce, &node.announcement());

        // First signal: drain. Second: do not wait.
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let signals = signals(stop.clone(), hurry.clone());
        let served = async {
            let served = node.run(stop, hurry).await;
            served.map_err(|error| Failure::new(error.to_string()))
        };
        tokio::select! {
            served = served => served,
            failed = signals => failed,
        }
    })
}

/// Turns signals into requests to stop; answers only when signals cannot be had.
async fn signals(stop: CancellationToken, hurry: CancellationToken) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::new(format!("signals cannot be received: {error}")))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    for token in [stop, hurry] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    }
    std::future::pending().await
}

/// The whole chain of causes, once.
fn explain(error: BuildError) -> Failure {
    let error = anyhow::Error::new(error);
    Failure::new(format!("{error:#}"))
}

/// Says where the node listens and, on the first start, which keys it made. Standard output is this
/// command's answer; the log is elsewhere.
#[expect(
    clippy::print_stdout,
    reason = "the answer of a command goes to standard output"
)]
fn announce(form: Announce, announcement: &Announcement) {
    let Announcement {
        client,
        admin,
        first_keys,
    } = announcement;
    match form {
        Announce::Json => {
            if let Some(keys) = first_keys {
                let keys = json!({
                    "event": "keys",
                    "admin_key": keys.operator.secret.reveal(),
                    "api_key": keys.api.secret.reveal(),
                });
                println!("{keys}");
            }
            let admin = admin.map(|admin| admin.to_string());
            let listening =
                json!({ "event": "listening", "client": client.to_string(), "admin": admin });
            println!("{listening}");
        }
        // What is there for people is logged as well; the keys are not.
        Announce::None => {}
        Announce::Text => {
            if let Some(keys) = first_keys {
                println!(
                    "first start: these keys are shown once. The store keeps their hashes; admin.key and api.key"
                );
                println!("in the data directory hold them for the commands on this machine");
                println!("  admin key  {}", keys.operator.secret.reveal());
                println!("  API key    {}  (app default)", keys.api.secret.reveal());
            }
            println!("clients and server API on http://{client}");
            if let Some(admin) = admin {
                println!("admin API on http://{admin}/admin/v1");
            }
        }
    }
}
