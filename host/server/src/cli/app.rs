//! `app …`: apps and their keys.

use clap::{Args, Subcommand};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tidegate_control::AppName;

use super::{
    Failure, Output, block_on,
    http::Client,
    output::{string, table},
    server::AdminAccess,
};

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Create an app and show the secret for its connection tokens, once
    Create(Create),
    /// List the apps that the key reaches
    List(List),
    /// Delete an app with its plugins and keys; its name is never used again
    Delete(Delete),
    /// List, make or revoke the keys of an app
    Keys(Keys),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate app create shop
  tidegate app keys shop --create api --label 'back end'

Clients connect at /apps/NAME/connection/websocket with tokens that the secret signed (HS256, exp required).")]
pub struct Create {
    /// Name of the app: a-z, 0-9 and `-`
    #[arg(value_parser = app_name)]
    name: String,
    #[command(flatten)]
    server: AdminAccess,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate app list")]
pub struct List {
    #[command(flatten)]
    server: AdminAccess,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate app delete shop

Refused while a plugin is bound in the app. Closes its connections and revokes its keys.")]
pub struct Delete {
    /// Name of the app
    #[arg(value_parser = app_name)]
    name: String,
    #[command(flatten)]
    server: AdminAccess,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tidegate app keys shop
  tidegate app keys shop --create api --method publish --method broadcast
  tidegate app keys shop --create deploy --label ci
  tidegate app keys shop --revoke key_0123456789abcdef0123")]
pub struct Keys {
    /// Name of the app
    #[arg(value_parser = app_name)]
    name: String,
    /// Make a key of this role and show its secret, once
    #[arg(long, value_name = "ROLE", value_parser = ["api", "deploy", "app-admin"])]
    create: Option<String>,
    /// A line about the new key
    #[arg(long, default_value = "", requires = "create")]
    label: String,
    /// Server API method that the new api key may call; may be given several times [default: all]
    #[arg(long = "method", value_name = "METHOD", requires = "create")]
    methods: Vec<String>,
    /// Revoke the key with this id, at once
    #[arg(long, value_name = "ID", conflicts_with = "create")]
    revoke: Option<String>,
    #[command(flatten)]
    server: AdminAccess,
}

fn app_name(text: &str) -> Result<String, String> {
    AppName::parse(text)
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

pub(super) fn run(command: AppCommand, output: Output) -> Result<(), Failure> {
    match command {
        AppCommand::Create(command) => create(&command, output),
        AppCommand::List(command) => list(&command, output),
        AppCommand::Delete(command) => delete(&command, output),
        AppCommand::Keys(command) => keys(command, output),
    }
}

fn create(Create { name, server }: &Create, output: Output) -> Result<(), Failure> {
    let client = server.client(output)?;
    let body = json!({ "name": name });
    let made = call(&client, Method::POST, "/admin/v1/apps", &body)?;
    output.result(&made, || {
        format!(
            "app {name} is there; its clients connect at /apps/{name}/connection/websocket\n\
             token secret  {}\n\
             The secret is shown this once; sign connection tokens with it (HS256).\n\
             next: tidegate app keys {name} --create api",
            string(&made["token_secret"])
        )
    });
    Ok(())
}

fn list(List { server }: &List, output: Output) -> Result<(), Failure> {
    let client = server.client(output)?;
    let mut answer = call(&client, Method::GET, "/admin/v1/apps", &Value::Null)?;
    let apps = items(&mut answer);
    output.result(&json!({ "apps": apps }), || {
        let row = |app: &Value| {
            ["name", "created_at"]
                .map(|name| string(&app[name]))
                .to_vec()
        };
        table(
            &["APP", "CREATED"],
            &apps.iter().map(row).collect::<Vec<_>>(),
        )
    });
    Ok(())
}

fn delete(Delete { name, server }: &Delete, output: Output) -> Result<(), Failure> {
    let client = server.client(output)?;
    let path = format!("/admin/v1/apps/{name}");
    call(&client, Method::DELETE, &path, &Value::Null)?;
    output.result(&json!({ "deleted": name }), || {
        format!("app {name} is gone, with its plugins and keys")
    });
    Ok(())
}

fn keys(command: Keys, output: Output) -> Result<(), Failure> {
    let Keys {
        name,
        create,
        label,
        methods,
        revoke,
        server,
    } = command;
    let client = server.client(output)?;
    let path = format!("/admin/v1/apps/{name}/keys");
    if let Some(role) = create {
        let mut body = json!({ "role": role, "label": label });
        if !methods.is_empty() {
            body["methods"] = json!(methods);
        }
        let made = call(&client, Method::POST, &path, &body)?;
        output.result(&made, || {
            format!(
                "{}\nkey {} of app {name}, role {role}; it is shown this once",
                string(&made["secret"]),
                string(&made["id"])
            )
        });
        return Ok(());
    }
    if let Some(id) = revoke {
        let id = utf8_percent_encode(&id, NON_ALPHANUMERIC);
        let path = format!("{path}/{id}");
        let revoked = call(&client, Method::DELETE, &path, &Value::Null).map_err(|failure| {
            if is_of_key(&failure) {
                failure.hint(format!(
                    "`tidegate app keys {name}` shows the keys with their ids"
                ))
            } else {
                failure
            }
        })?;
        output.result(&revoked, || {
            format!("key {} opens nothing any more", string(&revoked["id"]))
        });
        return Ok(());
    }
    let mut answer = call(&client, Method::GET, &path, &Value::Null)?;
    let keys = items(&mut answer);
    output.result(&json!({ "keys": keys }), || {
        if keys.is_empty() {
            return format!("no keys yet; `tidegate app keys {name} --create api` makes one");
        }
        let row = |key: &Value| {
            ["id", "role", "label", "created_at", "revoked_at"]
                .map(|name| string(&key[name]))
                .to_vec()
        };
        table(
            &["KEY", "ROLE", "LABEL", "CREATED", "REVOKED"],
            &keys.iter().map(row).collect::<Vec<_>>(),
        )
    });
    Ok(())
}

fn call(client: &Client, method: Method, path: &str, body: &Value) -> Result<Value, Failure> {
    block_on(client.call(method, path, body)).map_err(|failure| {
        if failure.details["status"] == 404 {
            return failure.hint("`tidegate app list` shows the apps that the key reaches");
        }
        failure
    })
}

/// Whether it is the key that does not exist, rather than its app.
fn is_of_key(failure: &Failure) -> bool {
    let detail = failure.details["detail"].as_str().unwrap_or_default();
    failure.details["status"] == 404 && detail.contains("the key")
}

fn items(answer: &mut Value) -> Vec<Value> {
    match answer["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}
