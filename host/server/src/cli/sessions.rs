//! `sessions …`: who is connected, and where.

use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Failure, Output, block_on, output::table, server::AdminServer};

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

const MEMBERS: [&str; 7] = [
    "client",
    "user",
    "node",
    "since_ms",
    "transport",
    "name",
    "address",
];

const TITLES: [&str; 7] = [
    "CLIENT",
    "USER",
    "NODE",
    "SINCE (UNIX MS)",
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
        output.note(&format!("node {} {what}", text(node)));
    }
    output.result(&answer, || {
        let rows: Vec<_> = answer["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(row)
            .collect();
        let mut shown = table(&TITLES, &rows);
        if answer["has_more"] == true {
            shown.push_str("\nthere are more; --limit shows up to 1000, --user those of one user");
        }
        shown
    });
    Ok(())
}

fn inspect(One { client, server }: &One, output: Output) -> Result<(), Failure> {
    let answer = call(server, Method::GET, &path_of(server, client), output)?;
    output.result(&answer, || {
        let mut lines: Vec<String> = Vec::new();
        for member in MEMBERS.iter().chain(&["version"]) {
            lines.push(format!("{member:<10} {}", text(&answer[*member])));
        }
        lines.join("\n")
    });
    Ok(())
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

fn row(session: &Value) -> Vec<String> {
    MEMBERS.map(|member| text(&session[member])).to_vec()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
