//! `explain`: what happened in the plugin call that a trace id names.

use clap::Args;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, Output, block_on, output::describe_fields, server::AdminServer};

/// Tells the story of a failed plugin call
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate explain a71cd982164b

A client that was hurt by a failing plugin got error 100 with `trace ID` in its text; the server
remembers the last calls of that kind.")]
pub struct Explain {
    /// The trace id of the error's text
    id: String,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn run(command: &Explain, output: Output) -> Result<(), Failure> {
    let client = command.server.client(output)?;
    let id = utf8_percent_encode(command.id.trim(), NON_ALPHANUMERIC);
    let path = format!("/admin/v1/explain/{id}");
    let story = block_on(client.call(Method::GET, &path, &Value::Null)).map_err(|failure| {
        if failure.details["status"] == 404 {
            return failure.hint("the server remembers only recent failures, and forgets them when it restarts; its log may know more");
        }
        failure
    })?;
    output.result(&story, || describe_fields(&story, 0));
    Ok(())
}
