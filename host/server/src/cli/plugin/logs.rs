//! `plugin logs`: what a plugin said, as it was said or as it is said.
//!
//! A line of text is one line of the log, whatever users, channels and plugins are called: what is not plain is quoted
//! with escapes. With `--json` every line is the server's own object.

use std::{ops::ControlFlow, time::Duration};

use serde_json::Value;

use super::{
    api::{LogsWanted, PluginApi},
    arguments::Logs,
};
use crate::cli::{
    Failure, Output, block_on,
    output::{text, word},
};

/// A server sends something every 15 seconds.
const MAX_SILENCE: Duration = Duration::from_secs(60);

pub(super) fn run(command: &Logs, output: Output) -> Result<(), Failure> {
    let Logs {
        name,
        follow,
        user,
        trace,
        level,
        version,
        limit,
        server,
    } = command;
    let api = PluginApi::new(server, output)?;
    let wanted = LogsWanted {
        name,
        user: user.as_deref(),
        trace: trace.as_deref(),
        level: level.as_deref(),
        version: *version,
        limit: *limit,
    };
    if *follow {
        let opened = || output.note(&format!("following {name}; ctrl-c ends it"));
        let each = |item: &Value| print(item, output);
        return block_on(api.follow_logs(&wanted, MAX_SILENCE, (opened, each)));
    }
    let items = block_on(api.logs(&wanted))?;
    if items.is_empty() {
        output.note(&nothing(&wanted));
    }
    for item in &items {
        if print(item, output).is_break() {
            break;
        }
    }
    Ok(())
}

/// What to do when there is nothing to see.
fn nothing(wanted: &LogsWanted<'_>) -> String {
    let name = wanted.name;
    if wanted.is_filtered() {
        return format!(
            "no line of {name} matches; without --user, --trace, --level and --version there may be some"
        );
    }
    format!(
        "{name} has logged nothing on this node since it started\n\
         `tidegate_sdk::log::info!(\"…\")` in its code writes a line; `tidegate plugin list` shows whether it is active and bound; \
         --follow waits for lines"
    )
}

/// Prints an item; breaks when that was the last, or nobody reads any more.
fn print(item: &Value, output: Output) -> ControlFlow<()> {
    if item["event"] == "end" && !output.is_json() {
        output.note(&format!("the server ended it: {}", text(&item["reason"])));
        return ControlFlow::Break(());
    }
    let line = if output.is_json() {
        item.to_string()
    } else {
        show(item)
    };
    match output.try_line(&line) {
        Ok(()) if item["event"] != "end" => ControlFlow::Continue(()),
        Ok(()) | Err(_) => ControlFlow::Break(()),
    }
}

/// One item as one line of text.
fn show(item: &Value) -> String {
    if item["event"] == "dropped" {
        let why = match item["reason"].as_str() {
            Some("overrun") => "missed: they made room for newer ones before they were read",
            Some("evicted") => {
                "given up: the node's logs were full, and this app held most of them"
            }
            _ => "dropped: the plugin wrote more than it may in a second",
        };
        return match item["count"].as_u64() {
            Some(1) => format!(
                "-- 1 line {}",
                why.replace("they", "it").replace("were", "was")
            ),
            count => format!("-- {} lines {why}", count.unwrap_or_default()),
        };
    }
    let mut line = format!(
        "{} {:5} v{} {}",
        text(&item["at"]),
        text(&item["level"]),
        item["version"],
        text(&item["hook"])
    );
    for (name, label) in [
        ("channel", "channel"),
        ("method", "method"),
        ("user", "user"),
        ("client", "session"),
        ("trace", "trace"),
    ] {
        if let Some(value) = item[name].as_str() {
            line.push_str(&format!(" {label}={}", word(value)));
        }
    }
    let speaker = if item["from"] == "node" {
        "(node) "
    } else {
        ""
    };
    format!("{line}  {speaker}{}", text(&item["message"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_how_grave_where_and_about_whom() {
        let item = json!({
            "event": "line", "number": 7, "at": "2026-11-21T15:00:00.000Z", "level": "warn", "from": "plugin",
            "plugin": "chatty", "version": 2, "hook": "filtering", "channel": "chat:lobby", "user": "alice",
            "client": "5f0c", "trace": "a71c", "message": "as\\nit was",
        });
        assert_eq!(
            show(&item),
            "2026-11-21T15:00:00.000Z warn  v2 filtering channel=chat:lobby user=alice session=5f0c trace=a71c  as\\nit was"
        );
        let item = json!({
            "event": "line", "at": "T", "level": "error", "from": "node", "version": 1, "hook": "rpc",
            "method": "m", "failure": "trap", "message": "the call failed (trap): x",
        });
        assert_eq!(
            show(&item),
            "T error v1 rpc method=m  (node) the call failed (trap): x"
        );
    }

    #[test]
    fn w6_a_user_cannot_forge_a_line_or_a_field() {
        for (value, shown) in [
            ("alice", "alice"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("x trace=1", "\"x trace=1\""),
            ("a=b", "\"a=b\""),
            ("a\nb\u{1b}[31m", "\"a\\nb\\u{1b}[31m\""),
            ("a\u{202e}b\u{85}", "\"a\\u{202e}b\\u{85}\""),
            ("\"", "\"\\\"\""),
        ] {
            assert_eq!(word(value), shown);
        }
    }

    #[test]
    fn missing_lines_say_how_many_and_why() {
        let dropped =
            |count, reason| show(&json!({ "event": "dropped", "count": count, "reason": reason }));
        assert_eq!(
            dropped(50, "rate-limit"),
            "-- 50 lines dropped: the plugin wrote more than it may in a second"
        );
        assert_eq!(
            dropped(1, "overrun"),
            "-- 1 line missed: it made room for newer ones before it was read"
        );
        assert_eq!(
            dropped(7, "evicted"),
            "-- 7 lines given up: the node's logs were full, and this app held most of them"
        );
    }
}
