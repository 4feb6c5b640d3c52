//! `explain`: what happened in the plugin call that a trace id names.

use clap::Args;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, Output, block_on, server::AdminServer};

/// Tells the story of a failed plugin call
#[derive(Debug, Args)]
#[command(
    after_help = "A client that was hurt by a failing plugin got error 100 with `trace ID` in its text; the server
remembers the last calls of that kind."
)]
pub struct Explain {
    /// The trace id of the error's text
    id: String,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn run(command: &Explain, output: Output) -> Result<(), Failure> {
    let client = command.server.client()?;
    let id = utf8_percent_encode(command.id.trim(), NON_ALPHANUMERIC);
    let path = format!("/admin/v1/explain/{id}");
    let story = block_on(client.call(Method::GET, &path, &Value::Null)).map_err(|failure| {
        if failure.details["status"] == 404 {
            return failure.hint("the server remembers only recent failures, and forgets them when it restarts; its log may know more");
        }
        failure
    })?;
    output.result(&story, || describe(&story, 0));
    Ok(())
}

/// Fields one per line, nested ones indented.
fn describe(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            let line = |(name, value): (&String, &Value)| match value {
                Value::Object(_) | Value::Array(_) => {
                    format!("{pad}{name}\n{}", describe(value, indent + 2))
                }
                _ => format!("{pad}{name:width$}  {}", describe(value, 0)),
            };
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(line)
                .collect::<Vec<_>>()
                .join("\n")
        }
        Value::Array(items) => items
            .iter()
            .map(|item| describe(item, indent))
            .collect::<Vec<_>>()
            .join("\n"),
        Value::String(text) => format!("{pad}{text}"),
        other => format!("{pad}{other}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_reads_as_lines() {
        let story = json!({"plugin": "shout", "version": 2, "cause": "deadline", "log": ["one", "two"], "none": null});
        assert_eq!(
            describe(&story, 0),
            "cause    deadline\nlog\n  one\n  two\nplugin   shout\nversion  2"
        );
    }
}
