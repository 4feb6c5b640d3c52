//! `explain`: what plugins made of a command, by its trace id or lately.

use clap::Args;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    Failure, Output, block_on,
    http::Client,
    output::{table, text, word},
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
    id: Option<String>,
    /// List the last commands in place of one
    #[arg(long)]
    recent: bool,
    /// Only commands of this user
    #[arg(long)]
    user: Option<String>,
    /// Only about this channel, or this rpc method
    #[arg(long)]
    channel: Option<String>,
    /// Only those in which a plugin failed
    #[arg(long)]
    failed: bool,
    /// Only those that a plugin refused
    #[arg(long, conflicts_with = "failed")]
    refused: bool,
    /// How many, 1 to 200; 50 if not said
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: Option<u32>,
    /// Show where in its code the plugin was
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    server: AdminServer,
}

/// Characters of a trace id.
const ID_DIGITS: usize = 12;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Story(&'a str),
    Recent,
}

impl Explain {
    /// One command or the last ones. Said here and not by attributes, whose messages know one of the two ways only.
    fn wanted(&self) -> Result<Wanted<'_>, Failure> {
        let filters = [
            ("--user", self.user.is_some()),
            ("--channel", self.channel.is_some()),
            ("--failed", self.failed),
            ("--refused", self.refused),
            ("--limit", self.limit.is_some()),
        ];
        let filter = filters.into_iter().find(|(_, is_given)| *is_given);
        let usage = |text: String, hint: &str| Err(Failure::usage(text).hint(hint));
        match (&self.id, self.recent, filter) {
            (Some(_), true, _) => usage(
                "a trace id and --recent were given".to_owned(),
                "name one command by its id, or list the last ones with --recent",
            ),
            (Some(_), false, Some((filter, _))) => usage(
                format!(
                    "{filter} picks from the list of --recent, and a trace id is one command already"
                ),
                "leave it out, or the id",
            ),
            (Some(id), false, None) => {
                let id = id.trim();
                if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Ok(Wanted::Story(id));
                }
                usage(
                    format!(
                        "`{}` is no trace id, which has {ID_DIGITS} hex digits",
                        word(id)
                    ),
                    "it is in the text of the error that the client got; --recent lists the last commands",
                )
            }
            (None, true, _) if self.verbose => usage(
                "--verbose shows the stack of one command".to_owned(),
                "give its trace id in place of --recent",
            ),
            (None, true, _) => Ok(Wanted::Recent),
            (None, false, Some((filter, _))) => usage(
                format!("{filter} picks from a list that was not asked for"),
                "add --recent",
            ),
            (None, false, None) => usage(
                "no command was named".to_owned(),
                "give the trace id of its error, or --recent for the last commands",
            ),
        }
    }
}

/// What to do after error 100 with this text: a plugin that failed left a trace id there, anything else is the node's own.
pub(super) fn after_internal_error(message: &str) -> String {
    let trace = message
        .split_once("(trace ")
        .and_then(|(_, rest)| rest.split_once(')'));
    match trace {
        Some((trace, _)) => format!("`tidegate explain {trace}` tells its story"),
        None => {
            "no plugin did this: `tidegate health` says how the node is, and its log why".to_owned()
        }
    }
}

pub(super) fn run(command: &Explain, output: Output) -> Result<(), Failure> {
    let wanted = command.wanted()?;
    let client = command.server.client(output)?;
    let id = match wanted {
        Wanted::Recent => return recent(command, &client, output),
        Wanted::Story(id) => utf8_percent_encode(id, NON_ALPHANUMERIC),
    };
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
        command.limit.unwrap_or(50)
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

/// What a call took, if that is known.
fn measured(step: &Value) -> Option<String> {
    let (under, nanos) = match step["took_ns"].as_u64() {
        Some(nanos) => ("", nanos),
        None => ("under ", step["took_under_ns"].as_u64()?),
    };
    let memory = step["memory_bytes"].as_u64().unwrap_or(0) >> 10;
    let lane = text(&step["lane"]);
    let waited = step["waited_ns"]
        .as_u64()
        .map_or_else(String::new, |waited| {
            format!(
                " and {}.{} ms of waiting",
                waited / 1_000_000,
                waited % 1_000_000 / 100_000
            )
        });
    Some(format!(
        "{lane}, {under}{}.{} us{waited}, {memory} KiB",
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        explain: Explain,
    }

    fn parsed(line: &str) -> Explain {
        use clap::Parser as _;
        Line::parse_from(["tidegate"].into_iter().chain(line.split_whitespace())).explain
    }

    #[test]
    fn one_command_or_the_last_ones_and_nothing_is_ignored() {
        assert_eq!(
            parsed("a71cd982164b --verbose").wanted().unwrap(),
            Wanted::Story("a71cd982164b")
        );
        assert_eq!(
            parsed("--recent --user ann --limit 3").wanted().unwrap(),
            Wanted::Recent
        );
        for (line, said) in [
            ("", "--recent for the last commands"),
            ("--refused", "add --recent"),
            ("a71cd982164b --user ann", "leave it out, or the id"),
            ("a71cd982164b --recent", "one command by its id"),
            ("a71cd982164b --limit 2", "leave it out"),
            ("--recent --verbose", "give its trace id"),
            ("abc", "--recent lists"),
            ("zzzzzzzzzzzz", "--recent lists"),
        ] {
            let failure = parsed(line).wanted().unwrap_err();
            assert!(failure.hint.contains(said), "{line}: {}", failure.hint);
        }
    }

    #[test]
    fn what_clients_chose_can_neither_steer_the_terminal_nor_forge_a_row() {
        let chosen = "\u{1b}]0;owned\u{7}\nforged row";
        let story = json!({
            "at": "2026-11-21T15:00:00.000Z", "hook": "rpc", "subject": chosen, "user": chosen,
            "outcome": "answered", "plugins": [],
        });
        let listed =
            list(&json!({ "items": [{ "trace": "a71c", "app": "default", "story": story }] }));
        let told = tell(
            &json!({ "trace": "a71c", "app": "default", "story": story }),
            false,
        );
        for text in [listed, told] {
            assert!(
                !text.contains('\u{1b}') && !text.contains('\u{7}'),
                "{text:?}"
            );
            assert!(
                !text.lines().any(|line| line.starts_with("forged")),
                "{text}"
            );
            assert!(text.contains("owned"), "{text}");
        }
    }

    #[test]
    fn a_failed_call_that_was_not_timed_has_a_bound() {
        let step = json!({ "lane": "inline", "took_under_ns": 1_000_000, "memory_bytes": 65_536 });
        assert_eq!(measured(&step).unwrap(), "inline, under 1000.0 us, 64 KiB");
    }

    #[test]
    fn what_a_call_waited_is_told_beside_what_it_took() {
        let step = json!({
            "lane": "waiting", "took_ns": 20_500, "waited_ns": 1_260_000, "memory_bytes": 65_536,
        });
        let told = measured(&step).unwrap();
        assert_eq!(told, "waiting, 20.5 us and 1.2 ms of waiting, 64 KiB");
    }

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
