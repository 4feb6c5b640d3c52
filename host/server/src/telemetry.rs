//! Logs: one line per event on standard error (or a file), fields apart from the message.
//!
//! JSON unless a person is watching. Payloads and tokens are nobody's to log; modules take care of that.

use std::{fs::File, io::IsTerminal, path::Path, sync::Arc};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// The log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.file: cannot open {path} for appending")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the log was set up twice in one process")]
    Twice,
}

/// Sets up the process's log. `level` is one of `trace`, `debug`, `info`, `warn`, `error`, `none`.
///
/// # Errors
/// [`LogError`] when the file cannot be opened or the process already logs.
pub fn init(level: &str, file: Option<&Path>) -> Result<(), LogError> {
    let level = if level == "none" { "off" } else { level };
    let filter = EnvFilter::new(format!(
        "warn,tidegate={level},tidegate_realtime={level},tidegate_sandbox={level},tidegate_control={level}"
    ));
    let registry = tracing_subscriber::registry().with(filter);
    let done = match file {
        Some(path) => {
            let file = File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| LogError::Open {
                    path: path.display().to_string(),
                    source,
                })?;
            registry
                .with(fmt::layer().json().with_writer(Arc::new(file)))
                .try_init()
        }
        None if std::io::stderr().is_terminal() => registry
            .with(
                fmt::layer()
                    .compact()
                    .with_target(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
        None => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    done.map_err(|_| LogError::Twice)
}
