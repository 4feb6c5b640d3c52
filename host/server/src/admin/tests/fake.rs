//! A plugin host that does as it is told, and a client of the API.
//!
//! Uploads are text: `filtering rpc; anything` exports those hooks; `refuse …` is refused; a version that says
//! `compile: RULE` breaks that rule when it is compiled, one that says `untried` fails its later trial, one that says `needs: WORD` can use settings with this word in them alone, one that says `unfit` passes it and cannot be applied; one that says `slow` waits for [`FakeHost::compiler`] in both.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Request},
};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_control::{Actor, AppName, DesiredState, KeyRole, PluginName, Store};
use tidegate_realtime::{
    broker::BrokerError,
    ids::ClientId,
    namespace::ChannelConfig,
    node::{PeriodFound, RunPlace, ScheduleFound, SessionFilter, SessionPlace, SessionsFound},
    schedule::Planned,
};
use tower::ServiceExt;

use crate::admin::{
    Admin, AdminConfig,
    host::{
        Admitted, AppHost, Candidate, Later, LogQuery, LogStream, PipelineQuery, PluginHost,
        Refused, Story, StoryQuery,
    },
    schemas,
};

pub(super) struct FakeHost {
    /// What runs.
    pub(super) running: Mutex<DesiredState>,
    /// Everything that happened, in order.
    pub(super) log: Mutex<Vec<String>>,
    artifacts: Mutex<Vec<(tidegate_control::Digest, String)>>,
    /// While set, applying waits for the gate.
    pub(super) gate: Mutex<Option<Arc<tokio::sync::Semaphore>>>,
    /// Each `slow` version takes a permit.
    pub(super) compiler: Arc<tokio::sync::Semaphore>,
    /// Told when one waits for it.
    pub(super) compiling: Arc<tokio::sync::Notify>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            log: Mutex::default(),
            artifacts: Mutex::default(),
            gate: Mutex::default(),
            compiler: Arc::new(tokio::sync::Semaphore::new(0)),
            compiling: Arc::default(),
        }
    }
}

impl FakeHost {
    /// Runs what is unfit from now on.
    pub(super) fn forget_artifacts(&self) {
        self.artifacts.lock().clear();
    }

    /// Takes its time for `slow` versions.
    fn compile(&self, text: &str) -> impl Future<Output = ()> + Send + 'static {
        let compiler = text.contains("slow").then(|| self.compiler.clone());
        let compiling = self.compiling.clone();
        async move {
            if let Some(compiler) = compiler {
                compiling.notify_one();
                compiler.acquire().await.unwrap().forget();
            }
        }
    }
}

fn refusal(rule: &str) -> Refused {
    Refused {
        rule: rule.to_owned(),
        detail: "something was found".to_owned(),
        help: "do something about it".to_owned(),
    }
}

impl PluginHost for FakeHost {
    fn admit(&self, upload: &[u8]) -> Result<Admitted, Refused> {
        let text = std::str::from_utf8(upload).map_err(|_| refusal("not-text"))?;
        assert!(!text.contains("panic"), "the checks gave up");
        if text.starts_with("refuse") {
            return Err(refusal("imports"));
        }
        let hooks = text.split(';').next().unwrap_or_default();
        Ok(Admitted {
            artifact: upload.to_vec(),
            hooks: hooks
                .split_whitespace()
                .map(|hook| hook.parse().unwrap())
                .collect(),
            imports: vec!["tidegate:plugin/log@0.1.0".to_owned()],
        })
    }

    fn try_out(&self, artifact: Arc<[u8]>) -> Later<Result<(), Refused>> {
        let text = String::from_utf8_lossy(&artifact).into_owned();
        let compiled = self.compile(&text);
        Box::pin(async move {
            compiled.await;
            match text.split_once("compile: ") {
                Some((_, rule)) => Err(refusal(rule)),
                None => Ok(()),
            }
        })
    }

    fn prepare(&self, candidate: Candidate) -> Later<Result<(), Refused>> {
        let text = String::from_utf8(candidate.artifact.to_vec()).unwrap();
        self.log.lock().push(format!(
            "prepare {} {}",
            candidate.plugin, candidate.version
        ));
        self.artifacts.lock().push((candidate.digest, text.clone()));
        let compiled = self.compile(&text);
        Box::pin(async move {
            compiled.await;
            if text.contains("untried") {
                return Err(refusal("trial"));
            }
            Ok(())
        })
    }

    fn check_settings(
        &self,
        candidate: Candidate,
        _: tidegate_control::Hook,
        settings: String,
    ) -> Later<Result<(), Refused>> {
        let text = String::from_utf8(candidate.artifact.to_vec()).unwrap();
        let checked = match text.split_once("needs: ") {
            Some((_, word)) if !settings.contains(word) => Err(Refused {
                detail: format!("no {word} in {settings}"),
                ..refusal("settings")
            }),
            _ => Ok(()),
        };
        Box::pin(std::future::ready(checked))
    }

    fn apply(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        let versions: Vec<String> = desired
            .bindings
            .iter()
            .map(|binding| format!("{}@{}", binding.plugin, binding.version))
            .collect();
        self.log
            .lock()
            .push(format!("apply {}", versions.join(" ")));
        let is_unfit = desired.bindings.iter().any(|binding| {
            self.artifacts
                .lock()
                .iter()
                .any(|(digest, text)| *digest == binding.digest && text.contains("unfit"))
        });
        if is_unfit {
            return Box::pin(async { Err(refusal("pool")) });
        }
        *self.running.lock() = desired;
        let gate = self.gate.lock().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            Ok(())
        })
    }

    fn explain(&self, trace: &str) -> Option<Story> {
        let app = trace.strip_prefix("of-")?;
        Some(Story {
            app: AppName::parse(app).unwrap(),
            story: json!({ "cause": "trap" }),
        })
    }

    fn stories(&self, app: &AppName, query: StoryQuery) -> Vec<Value> {
        let story = json!({
            "outcome": query.outcome, "user": query.user, "subject": query.channel, "most": query.most,
        });
        vec![json!({ "trace": "a71c", "app": app, "story": story })]
    }

    fn pipelines(&self, _: &AppName, query: PipelineQuery) -> Vec<Value> {
        let step = json!({
            "plugin": "filter", "version": 1, "scope": "app", "failure_policy": "closed", "isolation": "shared",
            "lane": "aside", "breaker": "closed", "deadline_ms": 5,
        });
        vec![json!({
            "hook": query.hook.map_or("filtering", tidegate_control::Hook::as_str),
            "scope": query.channel.unwrap_or("app".to_owned()),
            "lane": "aside", "deadlines_ms": 5, "worst_case_ms": 300, "plugins": [step],
        })]
    }

    fn logs(&self, query: &LogQuery, limit: usize) -> Vec<Value> {
        vec![said(&format!(
            "{limit} of {}: {:?}",
            query.plugin, query.filter
        ))]
    }

    fn follow_log(&self, query: &LogQuery, _: usize) -> LogStream {
        let said = stream::iter([vec![said("one"), said("two")]]);
        // Only this one has more to say, so that tests of every route come to an end.
        if query.plugin.as_str() == "chatty" {
            said.chain(stream::pending()).boxed()
        } else {
            said.boxed()
        }
    }

    fn statistics(&self) -> Value {
        json!([])
    }

    fn statistics_of(&self, _: &AppName, plugin: Option<&PluginName>) -> Vec<Value> {
        let row = |plugin: &str, calls: u64, p99: u64| {
            json!({
                "plugin": plugin, "version": 1, "hook": "filtering", "is_bound": true,
                "calls": calls, "answered": calls, "refused": 0, "verdicts": { "pass": calls },
                "failures": 0, "failed": {}, "passed_over": 0,
                "breaker": "closed", "breaker_openings": 0, "breaker_refusals": 0,
                "lane": "inline", "inline": calls, "aside": 0, "near_deadline": 0, "near_memory": 0,
                "time": {
                    "samples": calls, "total_ns": 1, "mean_ns": 1, "p50_ns": 1, "p99_ns": p99, "p999_ns": p99,
                    "max_ns": p99,
                },
                "memory": { "instances": 1, "bytes": 65_536, "peak_bytes": 65_536 },
            })
        };
        if let Some(plugin) = plugin.filter(|plugin| plugin.as_str() == "worn") {
            let mut failing = row(plugin.as_str(), 8, 100);
            failing["version"] = json!(2);
            failing["calls"] = json!(11);
            failing["failures"] = json!(3);
            failing["failed"] = json!({ "timeout": 2, "trap": 1 });
            let mut idle = row(plugin.as_str(), 0, 0);
            (idle["version"], idle["hook"]) = (json!(2), json!("routing"));
            return vec![row(plugin.as_str(), 5, 100), failing, idle];
        }
        vec![row("quick", 9, 100), row("slow", 3, 900)]
    }
}

fn said(message: &str) -> Value {
    json!({ "event": "line", "message": message })
}

/// Remembers which apps are open, and with which secret.
#[derive(Default)]
pub(super) struct FakeApps {
    pub(super) open: Mutex<BTreeMap<String, String>>,
    pub(super) sessions: Mutex<Vec<SessionPlace>>,
    /// The other nodes cannot be asked.
    pub(super) is_cut_off: AtomicBool,
}

impl AppHost for FakeApps {
    fn open(&self, app: &AppName, token_secret: &str) {
        self.open
            .lock()
            .insert(app.to_string(), token_secret.to_owned());
    }

    fn close(&self, app: &AppName) {
        self.open.lock().remove(app.as_str());
    }

    fn schedule(&self, _: &AppName) -> Later<ScheduleFound> {
        let found = |period: &str, last| PeriodFound {
            planned: Planned {
                plugin: "gong".into(),
                period: period.into(),
                every: std::time::Duration::from_secs(60),
                next_ms: 120_000,
                last: None,
            },
            last,
        };
        let last = RunPlace {
            plugin: "gong".into(),
            period: "old".into(),
            node: "n-1".into(),
            node_name: "first".into(),
            due_ms: 60_000,
            outcome: "failed".into(),
            trace: Some("t-1".into()),
            took_ms: Some(12),
        };
        Box::pin(std::future::ready(ScheduleFound {
            periods: vec![found("new", None), found("old", Some(last))],
            silent_nodes: vec!["n-2".into()],
        }))
    }

    fn sessions(
        &self,
        _: &AppName,
        filter: SessionFilter,
    ) -> Later<Result<SessionsFound, BrokerError>> {
        if self.is_cut_off.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Err(BrokerError::Unavailable)));
        }
        let is_meant = |place: &SessionPlace| {
            filter.user.as_deref().is_none_or(|user| user == place.user)
                && filter
                    .client
                    .is_none_or(|client| client.to_string() == place.client)
        };
        let sessions = self.sessions.lock().clone();
        Box::pin(std::future::ready(Ok(SessionsFound {
            sessions: sessions.into_iter().filter(is_meant).collect(),
            ..SessionsFound::default()
        })))
    }

    fn kick(&self, _: &AppName, client: ClientId) -> Later<Result<(), BrokerError>> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|place| place.client != client.to_string());
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(super) struct Bench {
    pub(super) router: Router,
    pub(super) admin: Arc<Admin>,
    pub(super) host: Arc<FakeHost>,
    pub(super) apps: Arc<FakeApps>,
    pub(super) store: Arc<Store>,
    /// An operator's.
    pub(super) key: String,
    dir: TempDir,
}

pub(super) struct Got {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self::on(store, dir)
    }

    /// On a store that has no keys yet, whose data directory this is.
    pub(super) fn on(store: Store, dir: TempDir) -> Self {
        let store = Arc::new(store);
        let first = store.ensure_first_keys(&Actor::node()).unwrap().unwrap();
        let host = Arc::new(FakeHost::default());
        let apps = Arc::new(FakeApps::default());
        let config = AdminConfig {
            key: Some("from-the-file".to_owned()),
            channels: ChannelConfig {
                namespaces: [("chat".into(), Arc::default())].into(),
                ..ChannelConfig::default()
            },
            ..AdminConfig::default()
        };
        let admin = Admin::new(config, store.clone(), host.clone(), apps.clone());
        Self {
            router: admin.router(),
            admin,
            host,
            apps,
            store,
            key: first.operator.secret.reveal().to_owned(),
            dir,
        }
    }

    /// The data directory, after the end of the node.
    pub(super) fn into_data_dir(self) -> TempDir {
        self.dir
    }

    /// A second app with a key of its own.
    pub(super) fn key_of_other_app(&self, role: KeyRole) -> String {
        let app = AppName::parse("other").unwrap();
        // The app is there already when a test asks for a second key.
        self.store.create_app(&Actor::node(), &app).ok();
        self.key_in(&app, role)
    }

    pub(super) fn key_in(&self, app: &AppName, role: KeyRole) -> String {
        let made = self
            .store
            .create_key(&Actor::node(), role, Some(app), &[], "");
        made.unwrap().secret.reveal().to_owned()
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Got {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: &str, key: &str) -> Got {
        let content = if path.contains("/versions") && method == "POST" {
            "application/wasm"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin/v1{path}"))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", content)
            .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        self.ask("GET", path, "", &self.key).await
    }

    pub(super) async fn post(&self, path: &str, body: impl ToString) -> Got {
        self.ask("POST", path, &body.to_string(), &self.key).await
    }

    pub(super) async fn delete(&self, path: &str) -> Got {
        self.ask("DELETE", path, "", &self.key).await
    }

    pub(super) async fn upload(&self, plugin: &str, artifact: &str) -> Got {
        let path = format!("/apps/default/plugins/{plugin}/versions");
        self.post(&path, artifact).await
    }

    pub(super) async fn activate(&self, plugin: &str, version: u32) -> Got {
        let path = format!("/apps/default/plugins/{plugin}/activate");
        self.post(&path, json!({ "version": version })).await
    }

    pub(super) async fn bind(&self, plugin: &str, hook: &str) -> Got {
        let body = json!({ "plugin": plugin, "hook": hook });
        self.post("/apps/default/bindings", body).await
    }

    /// `plugin@version` of everything that runs.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.host.running.lock();
        let bindings = running.bindings.iter();
        bindings
            .map(|binding| format!("{}@{}", binding.plugin, binding.version))
            .collect()
    }

    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.host.log.lock())
    }
}

impl Got {
    /// A success of this status whose body has the shape that the document names.
    #[track_caller]
    pub(super) fn is(&self, status: u16, schema: &str) -> &Value {
        assert_eq!(self.status, status, "{}", self.text);
        conforms(&self.body, &schemas::reference(schema));
        &self.body
    }

    /// A problem with this status and code.
    #[track_caller]
    pub(super) fn is_problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        conforms(&self.body, &schemas::reference("Problem"));
        assert_eq!(self.body["status"], status);
        &self.body
    }
}

/// Holds a value against a schema of the document; knows the words that the document uses.
#[track_caller]
pub(super) fn conforms(value: &Value, schema: &Value) {
    let Some(schema) = schema.as_object() else {
        panic!("a schema is an object")
    };
    if let Some(reference) = schema.get("$ref") {
        let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
        let components = schemas::components();
        let Some(target) = components.get(name) else {
            panic!("{name} is not a schema")
        };
        return conforms(value, target);
    }
    let Some(kind) = schema.get("type") else {
        return; // Any JSON.
    };
    let kinds: Vec<&str> = match kind {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().unwrap()],
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&found), "{value} is not {kinds:?}");
    for item in value.as_array().into_iter().flatten() {
        conforms(item, &schema["items"]);
    }
    let (Some(members), Some(properties)) = (value.as_object(), schema.get("properties")) else {
        return;
    };
    for name in schema["required"].as_array().unwrap() {
        assert!(
            members.contains_key(name.as_str().unwrap()),
            "{name} is missing in {value}"
        );
    }
    for (name, member) in members {
        let Some(property) = properties.get(name) else {
            panic!("{name} is not declared, in {value}")
        };
        conforms(member, property);
    }
}
