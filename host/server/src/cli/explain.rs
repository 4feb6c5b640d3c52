//! `explain`: what happened in the plugin call that a trace id names.

use clap::Args;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Failure, Output, block_on, server::AdminServer};

/// Tells the story of a failed plugin call
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate explain a71cd982164b
  tidegate explain a71cd982164b --verbose    with the plugin's stack

A client that was hurt by a failing plugin got error 100 with `trace ID` in its text; the server
remembers the last calls of that kind.")]
pub struct Explain {
    /// The trace id of the error's text
    id: String,
    /// Show where in its code the plugin was
    #[arg(long)]
    verbose: bool,
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
    output.result(&story, || tell(&story, command.verbose));
    Ok(())
}

/// The story for people: what was asked, then plugin by plugin what came of it.
fn tell(told: &Value, is_verbose: bool) -> String {
    let story = &told["story"];
    let subject = match story["subject"].as_str() {
        None | Some("") => String::new(),
        Some(subject) => format!(" for {subject}"),
    };
    let mut lines = vec![
        format!("trace  {}", text(&told["trace"])),
        format!("app    {}", text(&told["app"])),
        format!("at     {}", text(&story["at"])),
        format!("hook   {}{subject}", text(&story["hook"])),
    ];
    for step in story["plugins"].as_array().into_iter().flatten() {
        lines.push(String::new());
        tell_step(step, is_verbose, &mut lines);
    }
    lines.join("\n")
}

fn tell_step(step: &Value, is_verbose: bool, lines: &mut Vec<String>) {
    let plugin = format!("{} version {}", text(&step["plugin"]), step["version"]);
    let Some(kind) = step["failure"].as_str() else {
        lines.push(format!("{plugin} answered {}", text(&step["verdict"])));
        return;
    };
    let consequence = if step["passed_over"] == true {
        "; the message went on without it"
    } else {
        ""
    };
    lines.push(format!("{plugin} failed ({kind}){consequence}"));
    lines.push(format!("  {}", text(&step["detail"])));
    let list = |name: &str| step[name].as_array().map_or(&[][..], Vec::as_slice);
    let mut show = |heading: &str, items: &[Value]| {
        lines.push(format!("  {heading}"));
        lines.extend(items.iter().map(|item| format!("    {}", text(item))));
    };
    match list("log") {
        [] => {}
        said => show("what it logged last:", said),
    }
    match list("backtrace") {
        [] => {}
        frames if is_verbose => show("where it was, innermost first:", frames),
        frames => show(
            &format!(
                "its stack has {} frames; --verbose shows them",
                frames.len()
            ),
            &[],
        ),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_says_why_and_shows_the_stack_on_request() {
        let told = json!({
            "trace": "a71c", "app": "default",
            "story": {
                "at": "2026-11-21T15:00:00.000Z", "at_unix_ms": 0, "hook": "filtering", "subject": "chat:lobby",
                "plugins": [
                    { "plugin": "first", "version": 2, "verdict": "pass" },
                    { "plugin": "shout", "version": 1, "failure": "trap", "detail": "unreachable", "passed_over": false,
                      "log": ["error: panicked at src/lib.rs:1:2:", "  unknown field `lout`"],
                      "backtrace": ["0: 0xd5 - <unknown>!a"] },
                ],
            },
        });
        let short = tell(&told, false);
        for says in [
            "at     2026-11-21T15:00:00.000Z",
            "hook   filtering for chat:lobby",
            "first version 2 answered pass",
            "shout version 1 failed (trap)",
            "      unknown field `lout`",
            "its stack has 1 frames; --verbose",
        ] {
            assert!(short.contains(says), "{says}: {short}");
        }
        assert!(!short.contains("0xd5"), "{short}");
        assert!(tell(&told, true).contains("\n    0: 0xd5"));
    }
}
