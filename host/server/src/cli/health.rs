//! `health`: for people, and for container health checks.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{
    Failure, Output, block_on,
    http::{Api, Base, Client, Credential},
    server,
};

/// Asks a server whether it is alive and ready
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate health
  tidegate health --url http://127.0.0.1:9000

Exits with 0 when the server is ready, 1 when it is not (it drains, or cannot deliver), 3 when nobody answers.")]
pub struct Health {
    /// Server [default: http://127.0.0.1:8000; env: TIDEGATE_URL]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Path of the health endpoint, `health.handler_prefix` of the server
    #[arg(long, value_name = "PATH", default_value = "/health")]
    path: String,
}

pub(super) fn run(command: &Health, output: Output) -> Result<(), Failure> {
    let base = Base::parse(&server::url(command.url.as_ref()), "--url")?;
    // Everybody may ask; the header proves nothing.
    let nobody = Credential {
        api: Api::Server,
        header: "accept",
        value: "application/json".to_owned(),
        origin: "nowhere".to_owned(),
    };
    let client = Client::new(base, nobody)?;
    let answer =
        block_on(client.send(Method::GET, &command.path, "application/json", Bytes::new()))?;
    let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
    if answer.status.is_success() {
        output.result(&json!({"ready": true}), || "ready".to_owned());
        return Ok(());
    }
    let failure = Failure::new(format!(
        "not ready: the server answered {} {text}",
        answer.status
    ));
    Err(failure.details(json!({"ready": false, "status": answer.status.as_u16()})))
}
