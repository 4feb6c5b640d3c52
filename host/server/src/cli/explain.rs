//! `explain`: what plugins made of a command, by its trace id or lately.

use clap::Args;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Failure, Output, block_on,
    http::Client,
    output::{table, word},
    server::AdminServer,
};

/// Tells what plugins made of a command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate explain a71cd982164b
  tidegate explain a71cd982164b --verbose    with the plugin's stack
  tidegate explain --recent
  tidegate explain --recent --user ann --failed

A client that was hurt by a failing plugin got error 100 with `trace ID` in its text. The server remembers the last commands
that failed, up to ten refused ones a second, and of those that went well one a second (`plugins.explain_interval`), for each
plugin and hook.")]
pub struct Explain {
    /// The trace id of the error's text
    #[arg(required_unless_present = "recent")]
    id: Option<String>,
    /// List the last commands in place of one
    #[arg(long, conflicts_with_all = ["id", "verbose"])]
    recent: bool,
    /// Only commands of this user
    #[arg(long, requires = "recent")]
    user: Option<String>,
    /// Only about this channel, or this rpc method
    #[arg(long, requires = "recent")]
    channel: Option<String>,
    /// Only those in which a plugin failed
    #[arg(long, requires = "recent")]
    failed: bool,
    /// Only those that a plugin refused
    #[arg(long, requires = "recent", conflicts_with = "failed")]
    refused: bool,
    /// How many, 1 to 200
    #[arg(long, requires = "recent", default_value_t = 50)]
    limit: u32,
    /// Show where in its code the plugin was
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn run(command: &Explain, output: Output) -> Result<(), Failure> {
    let client = command.server.client(output)?;
    let Some(id) = &command.id else {
        return recent(command, &client, output);
    };
    let id = utf8_percent_encode(id.trim(), NON_ALPHANUMERIC);
    let path = format!("/admin/v1/explain/{id}");
    let story = block_on(client.call(Method::GET, &path, &Value::Null)).map_err(|failure| {
        if failure.details["status"] == 404 {
            return failure.hint("the server remembers recent failures and refusals and a sample of the rest, and forgets them when it restarts; its log may know more");
        }
        failure
    })?;
    output.result(&story, || tell(&story, command.verbose));
    Ok(())
}

fn recent(command: &Explain, client: &Client, output: Output) -> Result<(), Failure> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!(
        "/admin/v1/apps/{}/stories?limit={}",
        encode(&command.server.app),
        command.limit
    );
    for (name, value) in [("user", &command.user), ("channel", &command.channel)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    match (command.failed, command.refused) {
        (true, _) => path.push_str("&outcome=failed"),
        (false, true) => path.push_str("&outcome=refused"),
        (false, false) => {}
    }
    let stories = block_on(client.call(Method::GET, &path, &Value::Null))?;
    output.result(&stories, || list(&stories));
    Ok(())
}

/// A line for each story.
fn list(stories: &Value) -> String {
    let items = stories["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return "nothing is remembered that fits; the server keeps stories in memory and forgets them when it restarts"
            .to_owned();
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let story = &item["story"];
            let steps = story["plugins"].as_array().into_iter().flatten();
            let steps: Vec<String> = steps.map(summary).collect();
            vec![
                text(&story["at"]).to_owned(),
                text(&item["trace"]).to_owned(),
                text(&story["outcome"]).to_owned(),
                text(&story["hook"]).to_owned(),
                word_or_nothing(&story["subject"]),
                word_or_nothing(&story["user"]),
                steps.join(", "),
            ]
        })
        .collect();
    let heading = ["AT", "TRACE", "OUTCOME", "HOOK", "ABOUT", "USER", "PLUGINS"];
    table(&heading, &rows)
}

/// What a client chose, or nothing where it chose nothing.
fn word_or_nothing(value: &Value) -> String {
    match text(value) {
        "" => String::new(),
        chosen => word(chosen),
    }
}

/// One plugin's part in a few words.
fn summary(step: &Value) -> String {
    let end = match step["failure"].as_str() {
        Some(kind) => kind,
        None => text(&step["verdict"]),
    };
    let took = measured(step).map_or_else(String::new, |measured| format!(" ({measured})"));
    format!("{}@{} {end}{took}", text(&step["plugin"]), step["version"])
}

/// What a call took, if it was timed.
fn measured(step: &Value) -> Option<String> {
    let nanos = step["took_ns"].as_u64()?;
    let memory = step["memory_bytes"].as_u64().unwrap_or(0) >> 10;
    let lane = text(&step["lane"]);
    Some(format!(
        "{lane}, {}.{} us, {memory} KiB",
        nanos / 1_000,
        nanos % 1_000 / 100
    ))
}

/// The story for people: what was asked, then plugin by plugin what came of it.
fn tell(told: &Value, is_verbose: bool) -> String {
    let story = &told["story"];
    let subject = match story["subject"].as_str() {
        None | Some("") => String::new(),
        Some(subject) => format!(" for {}", word(subject)),
    };
    let mut lines = vec![
        format!("trace  {}", text(&told["trace"])),
        format!("app    {}", text(&told["app"])),
        format!("at     {}", text(&story["at"])),
        format!("hook   {}{subject}", text(&story["hook"])),
    ];
    if let Some(user) = story["user"].as_str().filter(|user| !user.is_empty()) {
        lines.push(format!("user   {}", word(user)));
    }
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
        lines.extend(step["reason"].as_str().map(|reason| format!("  {reason}")));
        lines.extend(measured(step).map(|measured| format!("  {measured}")));
        return;
    };
    let consequence = if step["passed_over"] == true {
        "; the message went on without it"
    } else {
        ""
    };
    lines.push(format!("{plugin} failed ({kind}){consequence}"));
    lines.push(format!("  {}", text(&step["detail"])));
    lines.extend(measured(step).map(|measured| format!("  {measured}")));
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
    fn stories_are_listed_with_who_did_what_and_how_long_it_took() {
        let listed = list(&json!({ "items": [{
            "trace": "a71c", "app": "default",
            "story": {
                "at": "2026-11-21T15:00:00.000Z", "hook": "filtering", "subject": "chat:lobby", "user": "ann",
                "outcome": "refused",
                "plugins": [
                    { "plugin": "first", "version": 2, "verdict": "pass", "lane": "inline", "took_ns": 1_290,
                      "memory_bytes": 131_072 },
                    { "plugin": "shout", "version": 1, "verdict": "refuse", "reason": "error 499: no" },
                ],
            },
        }]}));
        let line = listed.lines().nth(1).unwrap();
        assert!(
            line.ends_with("ann   first@2 pass (inline, 1.2 us, 128 KiB), shout@1 refuse"),
            "{listed}"
        );
        assert!(list(&json!({ "items": [] })).contains("nothing"));
    }

    #[test]
    fn a_story_says_why_and_shows_the_stack_on_request() {
        let told = json!({
            "trace": "a71c", "app": "default",
            "story": {
                "at": "2026-11-21T15:00:00.000Z", "at_unix_ms": 0, "hook": "filtering", "subject": "chat:lobby",
                "user": "ann",
                "plugins": [
                    { "plugin": "first", "version": 2, "verdict": "pass", "lane": "aside", "took_ns": 5_600,
                      "memory_bytes": 65_536 },
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
            "user   ann",
            "first version 2 answered pass\n  aside, 5.6 us, 64 KiB",
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
