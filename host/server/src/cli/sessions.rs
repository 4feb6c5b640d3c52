//! `sessions …`: who is connected, and where.

use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    Failure, Output, block_on,
    output::{moment, string, table, word},
    server::AdminServer,
};

#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// List connected sessions of an app on all nodes, newest first
    List(List),
    /// Show where a session is and since when
    Inspect(One),
    /// End a session, on whatever node it is; its client does not come back by itself
    Kick(One),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate sessions list
  tidegate sessions list --user alice
  tidegate sessions list --app shop --limit 20 --json")]
pub struct List {
    /// Only sessions of this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Sessions to show, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    server: AdminServer,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate sessions inspect 0f8c2f6e-6f9f-4d39-a0a5-3d8b8f1f4c55
  tidegate sessions kick 0f8c2f6e-6f9f-4d39-a0a5-3d8b8f1f4c55")]
pub struct One {
    /// Id of the session's client, as `sessions list` shows it
    client: String,
    #[command(flatten)]
    server: AdminServer,
}

pub(super) fn run(command: SessionsCommand, output: Output) -> Result<(), Failure> {
    match command {
        SessionsCommand::List(command) => list(&command, output),
        SessionsCommand::Inspect(command) => inspect(&command, output),
        SessionsCommand::Kick(command) => kick(&command, output),
    }
}

const TITLES: [&str; 7] = [
    "CLIENT",
    "USER",
    "NODE",
    "SINCE",
    "TRANSPORT",
    "LIBRARY",
    "ADDRESS",
];

fn list(command: &List, output: Output) -> Result<(), Failure> {
    let List {
        user,
        limit,
        server,
    } = command;
    let mut path = format!(
        "/admin/v1/apps/{}/sessions?limit={limit}",
        encoded(&server.app)
    );
    if let Some(user) = user {
        path.push_str("&user=");
        path.push_str(&encoded(user));
    }
    let answer = call(server, Method::GET, &path, output)?;
    let is_marked = |node: &Value| {
        let items = answer["items"].as_array().into_iter().flatten();
        items
            .filter(|item| item["silent"] == true)
            .any(|item| item["node"] == *node)
    };
    for node in answer["silent_nodes"].as_array().into_iter().flatten() {
        let what = if is_marked(node) {
            "is silent; its sessions may be gone"
        } else {
            "did not answer; its sessions are not in the list"
        };
        output.note(&format!("node {} {what}", string(node)));
    }
    output.result(&answer, || listed(&answer, user.as_deref()));
    Ok(())
}

fn listed(answer: &Value, user: Option<&str>) -> String {
    let items = answer["items"].as_array();
    let rows: Vec<_> = items
        .into_iter()
        .flatten()
        .map(|session| row(session).to_vec())
        .collect();
    if rows.is_empty() {
        return match user {
            Some(user) => format!("no session of user {} is connected", word(user)),
            None => "no session is connected".to_owned(),
        };
    }
    let mut shown = table(&TITLES, &rows);
    if answer["has_more"] == true {
        shown.push_str("\nthere are more; --limit shows up to 1000, --user those of one user");
    }
    shown
}

fn inspect(One { client, server }: &One, output: Output) -> Result<(), Failure> {
    let answer = call(server, Method::GET, &path_of(server, client), output)?;
    output.result(&answer, || inspected(&answer));
    Ok(())
}

fn inspected(session: &Value) -> String {
    let names = [
        "client",
        "user",
        "node",
        "since",
        "transport",
        "name",
        "address",
    ];
    let version = ("version", string(&session["version"]));
    let lines: Vec<String> = names
        .into_iter()
        .zip(row(session))
        .chain([version])
        .map(|(name, value)| format!("{name:<10} {value}").trim_end().to_owned())
        .collect();
    lines.join("\n")
}

fn kick(One { client, server }: &One, output: Output) -> Result<(), Failure> {
    call(server, Method::DELETE, &path_of(server, client), output)?;
    output.result(&json!({ "kicked": client }), || {
        format!("session {client} was ended (3503)")
    });
    Ok(())
}

fn call(
    server: &AdminServer,
    method: Method,
    path: &str,
    output: Output,
) -> Result<Value, Failure> {
    let client = server.client(output)?;
    block_on(client.call(method, path, &Value::Null)).map_err(|failure| {
        if failure.details["status"] == 404 {
            return failure.hint("`tidegate sessions list` shows who is connected");
        }
        failure
    })
}

fn path_of(server: &AdminServer, client: &str) -> String {
    format!(
        "/admin/v1/apps/{}/sessions/{}",
        encoded(&server.app),
        encoded(client)
    )
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What is shown of a session, in the order of [`TITLES`].
fn row(session: &Value) -> [String; 7] {
    [
        string(&session["client"]),
        string(&session["user"]),
        string(&session["node"]),
        moment(&session["since_ms"]),
        string(&session["transport"]),
        string(&session["name"]),
        string(&session["address"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Value {
        json!({
            "client": "c1", "user": "ann", "node": "uid-1", "since_ms": 1_700_000_000_000_u64,
            "transport": "websocket", "name": "js", "version": "5.2", "address": "192.0.2.1",
        })
    }

    #[test]
    fn a_session_is_shown_with_a_moment_that_people_read() {
        let shown = listed(&json!({ "items": [session()] }), None);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            TITLES,
            "{shown}"
        );
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            [
                "c1",
                "ann",
                "uid-1",
                "2023-11-14T22:13:20Z",
                "websocket",
                "js",
                "192.0.2.1"
            ]
        );
        let shown = inspected(&session());
        for line in [
            "node       uid-1",
            "since      2023-11-14T22:13:20Z",
            "version    5.2",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{shown}");
        }
    }

    #[test]
    fn an_empty_list_says_so() {
        let nobody = json!({ "items": [], "has_more": false });
        assert_eq!(listed(&nobody, None), "no session is connected");
        assert_eq!(
            listed(&nobody, Some("ann")),
            "no session of user ann is connected"
        );
    }
}
