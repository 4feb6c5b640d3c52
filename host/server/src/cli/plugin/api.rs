//! The paths and bodies of the admin API that plugin commands use, in one place.

use std::{ops::ControlFlow, time::Duration};

use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tidegate_control::{Hook, Scope};

use crate::cli::{Failure, Output, http::Client, server::AdminServer};

/// The admin API, for one app.
#[derive(Debug)]
pub(super) struct PluginApi {
    client: Client,
    app: String,
}

/// Where a plugin is to be asked.
#[derive(Debug)]
pub(super) struct Binding<'a> {
    pub(super) name: &'a str,
    pub(super) hook: Hook,
    pub(super) scope: &'a Scope,
    pub(super) config: Option<&'a Value>,
    pub(super) position: Option<u32>,
    pub(super) failure_policy: Option<&'a str>,
    pub(super) isolation: Option<&'a str>,
}

/// Lines that are wanted of a plugin's log.
#[derive(Debug)]
pub(super) struct LogsWanted<'a> {
    pub(super) name: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) trace: Option<&'a str>,
    pub(super) level: Option<&'a str>,
    pub(super) version: Option<u32>,
    pub(super) limit: u16,
}

impl LogsWanted<'_> {
    /// Whether there may be lines that are not wanted.
    pub(super) fn is_filtered(&self) -> bool {
        self.user.is_some()
            || self.trace.is_some()
            || self.level.is_some()
            || self.version.is_some()
    }

    fn query(&self) -> String {
        let Self {
            name: _,
            user,
            trace,
            level,
            version,
            limit,
        } = self;
        let version = version.map(|version| version.to_string());
        let mut query = format!("limit={limit}");
        for (name, value) in [
            ("user", *user),
            ("trace", trace.map(str::trim)),
            ("level", *level),
            ("version", version.as_deref()),
        ] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        query
    }
}

impl PluginApi {
    pub(super) fn new(server: &AdminServer, output: Output) -> Result<Self, Failure> {
        Ok(Self {
            client: server.client(output)?,
            app: encode(&server.app),
        })
    }

    fn path(&self, rest: &str) -> String {
        format!("/admin/v1/apps/{}/{rest}", self.app)
    }

    pub(super) async fn upload(
        &self,
        name: &str,
        wasm: Vec<u8>,
        note: &str,
    ) -> Result<Value, Failure> {
        let path = self.path(&format!("plugins/{name}/versions?note={}", encode(note)));
        let answer = self
            .client
            .send(Method::POST, &path, "application/wasm", wasm.into())
            .await?;
        self.client.accepted(&answer)
    }

    pub(super) async fn plugins(&self) -> Result<Vec<Value>, Failure> {
        self.list("plugins", "after").await
    }

    pub(super) async fn versions(&self, name: &str) -> Result<Vec<Value>, Failure> {
        self.list(&format!("plugins/{name}/versions"), "before")
            .await
    }

    /// With secrets in settings redacted.
    pub(super) async fn bindings(&self) -> Result<Vec<Value>, Failure> {
        self.list("bindings", "after").await
    }

    /// With secrets in settings as they are; for operator keys.
    pub(super) async fn revealed_bindings(&self) -> Result<Vec<Value>, Failure> {
        self.list("bindings?reveal=true", "after").await
    }

    pub(super) async fn version(&self, name: &str, number: u32) -> Result<Value, Failure> {
        let path = self.path(&format!("plugins/{name}/versions/{number}"));
        self.client.call(Method::GET, &path, &Value::Null).await
    }

    pub(super) async fn activate(&self, name: &str, number: u32) -> Result<Value, Failure> {
        let path = self.path(&format!("plugins/{name}/activate"));
        self.client
            .call(Method::POST, &path, &json!({"version": number}))
            .await
    }

    pub(super) async fn rollback(&self, name: &str) -> Result<Value, Failure> {
        let path = self.path(&format!("plugins/{name}/rollback"));
        self.client.call(Method::POST, &path, &json!({})).await
    }

    pub(super) async fn bind(&self, binding: Binding<'_>) -> Result<Value, Failure> {
        let Binding {
            name,
            hook,
            scope,
            config,
            position,
            failure_policy,
            isolation,
        } = binding;
        let mut body = json!({
            "plugin": name,
            "hook": hook.as_str(),
            "scope": scope.to_string(),
        });
        if let Some(failure_policy) = failure_policy {
            body["failure_policy"] = failure_policy.into();
        }
        if let Some(isolation) = isolation {
            body["isolation"] = isolation.into();
        }
        if let Some(config) = config {
            body["config"] = config.clone();
        }
        if let Some(position) = position {
            body["position"] = position.into();
        }
        self.client
            .call(Method::POST, &self.path("bindings"), &body)
            .await
    }

    pub(super) async fn unbind(&self, id: &str) -> Result<(), Failure> {
        let path = self.path(&format!("bindings/{}", encode(id)));
        self.client
            .call(Method::DELETE, &path, &Value::Null)
            .await
            .map(drop)
    }

    /// Who is asked where; of one hook, for one channel. With `items`, and `warnings` where there are some.
    pub(super) async fn pipelines(
        &self,
        hook: Option<Hook>,
        channel: Option<&str>,
    ) -> Result<Value, Failure> {
        let mut query = Vec::new();
        if let Some(hook) = hook {
            query.push(format!("hook={}", hook.as_str()));
        }
        if let Some(channel) = channel {
            query.push(format!("channel={}", encode(channel)));
        }
        let path = self.path(&format!("pipelines?{}", query.join("&")));
        let found = self.client.call(Method::GET, &path, &Value::Null).await?;
        if found["items"].is_array() {
            Ok(found)
        } else {
            Err(no_items())
        }
    }

    /// What the app's plugins do by the clock.
    pub(super) async fn schedule(&self) -> Result<Value, Failure> {
        let path = self.path("schedule");
        let found = self.client.call(Method::GET, &path, &Value::Null).await?;
        if found["items"].is_array() {
            Ok(found)
        } else {
            Err(no_items())
        }
    }

    /// What the app's plugins did so far.
    pub(super) async fn statistics(&self) -> Result<Value, Failure> {
        let path = self.path("statistics");
        self.client.call(Method::GET, &path, &Value::Null).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Failure> {
        let path = self.path(&format!("plugins/{name}"));
        self.client
            .call(Method::DELETE, &path, &Value::Null)
            .await
            .map(drop)
    }

    /// The plugin with its newest versions, newest first, and its bindings.
    pub(super) async fn plugin(&self, name: &str) -> Result<Value, Failure> {
        let path = self.path(&format!("plugins/{name}"));
        self.client.call(Method::GET, &path, &Value::Null).await
    }

    pub(super) async fn logs(&self, wanted: &LogsWanted<'_>) -> Result<Vec<Value>, Failure> {
        let path = self.path(&format!("plugins/{}/logs?{}", wanted.name, wanted.query()));
        let mut answer = self.client.call(Method::GET, &path, &Value::Null).await?;
        match answer["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Err(no_items()),
        }
    }

    /// Calls `opened` once the server has accepted, then gives `each` item until it has enough or the server ends it.
    pub(super) async fn follow_logs(
        &self,
        wanted: &LogsWanted<'_>,
        max_silence: Duration,
        (opened, mut each): (impl FnOnce(), impl FnMut(&Value) -> ControlFlow<()>),
    ) -> Result<(), Failure> {
        let path = self.path(&format!(
            "plugins/{}/logs/follow?{}",
            wanted.name,
            wanted.query()
        ));
        let each = |line: &[u8]| match serde_json::from_slice(line) {
            Ok(item) => each(&item),
            // A sign of life.
            Err(_) => ControlFlow::Continue(()),
        };
        self.client.lines(&path, max_silence, (opened, each)).await
    }

    /// All pages of a list; `cursor` is the parameter that takes the `next` of the page before.
    async fn list(&self, rest: &str, cursor: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut path = self.path(rest);
        loop {
            let mut page = self.client.call(Method::GET, &path, &Value::Null).await?;
            let Value::Array(items) = page["items"].take() else {
                return Err(no_items());
            };
            let is_last = items.is_empty();
            all.extend(items);
            let next = match &page["next"] {
                Value::String(next) => encode(next),
                Value::Number(next) => next.to_string(),
                _ => return Ok(all),
            };
            if is_last {
                return Ok(all);
            }
            path = self.path(&format!("{rest}?{cursor}={next}"));
        }
    }
}

fn no_items() -> Failure {
    Failure::new("the server's answer has no `items`; is it the admin API of this release?")
}

/// The number of an uploaded version.
pub(super) fn version_number(uploaded: &Value) -> Result<u32, Failure> {
    uploaded["number"]
        .as_u64()
        .or_else(|| uploaded["version"]["number"].as_u64())
        .or_else(|| uploaded["version"].as_u64())
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| {
            Failure::new(
                "the server's answer has no version number; is it the admin API of this release?",
            )
        })
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
