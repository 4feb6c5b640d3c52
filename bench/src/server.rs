//! Nodes of the server under measurement, configured as side by side with the ceiling, and its command line.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;

use crate::identity::TOKEN_SECRET;
use crate::subject::Subject;

/// Pages that the server's allocator asks for.
#[derive(Debug, Clone, Copy)]
pub enum Pages {
    /// So that small differences show.
    Small,
    AsShipped,
}

/// Worker threads of the server.
#[derive(Debug, Clone, Copy)]
pub enum Workers {
    /// As the ceiling, so that both sides are the same machine.
    One,
    AsShipped,
}

/// Starts the server with the usual configuration and these members besides, in a folder of its own that holds its
/// data in `data`.
///
/// # Errors
/// When it cannot be started.
pub fn start(
    server: &Path,
    workers: Workers,
    pages: Pages,
    members: serde_json::Value,
) -> Result<(Subject, TempDir)> {
    let scratch = tempfile::tempdir().context("no temporary folder")?;
    let config = scratch.path().join("config.json");
    let member = |name: &str| json!({ "name": name, "allow_subscribe_for_client": true, "allow_publish_for_client": true });
    let mut text = json!({
        "http_server": { "address": "127.0.0.1", "port": 0 },
        "admin_api": { "port": 0 },
        "log": { "level": "warn" },
        "client": { "token": { "hmac_secret_key": TOKEN_SECRET }, "connection_rate_limit": 1_000_000 },
        "channel": { "namespaces": [member("bench"), member("filtered")] },
    });
    if let (Some(text), serde_json::Value::Object(members)) = (text.as_object_mut(), members) {
        text.extend(members);
    }
    std::fs::write(&config, text.to_string()).context("cannot write the configuration")?;
    let mut command = Command::new(server);
    command
        .args(["serve", "--announce", "json", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(scratch.path().join("data"));
    match workers {
        Workers::One => command.env("TOKIO_WORKER_THREADS", "1"),
        Workers::AsShipped => command.env_remove("TOKIO_WORKER_THREADS"),
    };
    match pages {
        Pages::Small => command.env("MIMALLOC_ALLOW_THP", "0"),
        Pages::AsShipped => command.env_remove("MIMALLOC_ALLOW_THP"),
    };
    Ok((Subject::start(&mut command)?, scratch))
}

/// Runs a command of the server's own command line against it; what it prints.
///
/// # Errors
/// When the command fails.
pub fn command_line(
    server: &Path,
    tidegate: &Subject,
    data_dir: &Path,
    args: &[&str],
) -> Result<String> {
    let output = Command::new(server)
        .args(args)
        .env("TIDEGATE_DATA_DIR", data_dir.join("data"))
        .env(
            "TIDEGATE_ADMIN_URL",
            format!(
                "http://{}",
                tidegate.admin.as_deref().context("no admin address")?
            ),
        )
        .output()
        .context("the server's command line cannot be started")?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "`tidegate {}` failed: {stdout}{}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(stdout)
}
