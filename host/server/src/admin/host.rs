//! What the admin API needs from whatever runs plugins.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use futures_util::stream::BoxStream;
use serde_json::Value;
use tidegate_control::{AppName, DesiredState, Digest, Hook, PluginName};
use tidegate_realtime::{
    broker::BrokerError,
    ids::ClientId,
    node::{ScheduleFound, SessionFilter, SessionsFound},
};
use tidegate_sandbox::LogFilter;

/// An answer that takes its time.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs plugins. Implemented over the sandbox by the node, and by a fake in tests.
pub trait PluginHost: Send + Sync + 'static {
    /// Checks an upload. Called on a thread that may be kept busy.
    fn admit(&self, upload: &[u8]) -> Result<Admitted, Refused>;

    /// Compiles an admitted upload and instantiates it once, before it is stored.
    fn try_out(&self, artifact: Arc<[u8]>) -> Later<Result<(), Refused>>;

    /// Compiles a version and instantiates it once, so that [`Self::apply`] is quick and does not fail. May be
    /// asked for a version that is ready already.
    fn prepare(&self, candidate: Candidate) -> Later<Result<(), Refused>>;

    /// Asks a version whether it can use these settings, JSON, at a hook; after [`Self::prepare`].
    fn check_settings(
        &self,
        _candidate: Candidate,
        _hook: Hook,
        _settings: String,
    ) -> Later<Result<(), Refused>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Makes this what runs. Once it has answered, no later call runs anything else. On failure what ran
    /// before goes on.
    fn apply(&self, desired: DesiredState) -> Later<Result<(), Refused>>;

    /// As [`Self::apply`] when the node starts: a binding that cannot be carried out does not keep the others from
    /// running. It answers its failure policy, and [`Self::problem`] says why.
    fn start(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        self.apply(desired)
    }

    /// Compiles what this state names and does not run yet, so that [`Self::follow`] is quick. Changes nothing.
    fn make_ready(&self, _desired: DesiredState) -> Later<()> {
        Box::pin(std::future::ready(()))
    }

    /// As [`Self::apply`] for what another node decided: a binding that cannot be carried out here stays as it was, and
    /// [`Self::problem`] says why. On failure all that ran before goes on.
    fn follow(&self, desired: DesiredState) -> Later<Result<(), Refused>> {
        self.apply(desired)
    }

    /// What runs here, a row for each plugin that is bound, as the schema `RunningPlugin` says.
    fn running(&self) -> Vec<Value> {
        Vec::new()
    }

    /// Tries what could not be carried out once more, without changing what runs. Answers whether [`Self::apply`]
    /// would now carry out more of it.
    fn retry(&self) -> Later<bool> {
        Box::pin(std::future::ready(false))
    }

    /// Why a binding cannot be carried out, by its id.
    fn problem(&self, _binding: &str) -> Option<Refused> {
        None
    }

    /// Gives back what a plugin kept that was deleted.
    fn forget_plugin(&self, _app: &AppName, _plugin: &PluginName) {}

    /// Gives back what the plugins of an app kept that was deleted; these were in it.
    fn forget_app(&self, _app: &AppName, _plugins: &[PluginName]) {}

    /// What happened under a trace id, while it is remembered.
    fn explain(&self, trace: &str) -> Option<Story>;

    /// What the node remembers of an app's questions, the newest first, as the schema `Story` says.
    fn stories(&self, app: &AppName, query: StoryQuery) -> Vec<serde_json::Value>;

    /// Who is asked in an app, as the schema `Pipeline` says.
    fn pipelines(&self, app: &AppName, query: PipelineQuery) -> Vec<Value>;

    /// The last lines of a plugin's log, oldest first.
    fn logs(&self, query: &LogQuery, limit: usize) -> Vec<Value>;

    /// The last lines of a plugin's log and then those that come. Never ends by itself, and never waits for its reader.
    fn follow_log(&self, query: &LogQuery, limit: usize) -> LogStream;

    /// Counters of every plugin, as JSON.
    fn statistics(&self) -> Value;

    /// What the plugins of an app did, or one of them: a row for each version and hook, as the schema
    /// `HookStatistics` says.
    fn statistics_of(&self, app: &AppName, plugin: Option<&PluginName>) -> Vec<Value>;
}

/// Lets the clients of created apps in. Implemented over the realtime core by the node, and by a fake in tests.
pub trait AppHost: Send + Sync + 'static {
    /// The app's clients may connect from now on, with tokens that this secret signed.
    fn open(&self, app: &AppName, token_secret: &str);

    /// Ends the app's sessions; nobody connects to it any more.
    fn close(&self, app: &AppName);

    /// Finds the app's sessions on all nodes.
    fn sessions(
        &self,
        app: &AppName,
        filter: SessionFilter,
    ) -> Later<Result<SessionsFound, BrokerError>>;

    /// Ends a session of the app, wherever it is.
    fn kick(&self, app: &AppName, client: ClientId) -> Later<Result<(), BrokerError>>;

    /// What the app's plugins do by the clock, on all nodes.
    fn schedule(&self, app: &AppName) -> Later<ScheduleFound>;

    /// Nodes that are one service, this one included.
    fn num_nodes(&self) -> usize {
        1
    }
}

/// An upload that may be stored.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The bytes to keep: the upload, or the component that a core module became.
    pub artifact: Vec<u8>,
    pub hooks: Vec<Hook>,
    pub imports: Vec<String>,
}

/// A version about to run.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub app: AppName,
    pub plugin: PluginName,
    pub version: u32,
    pub digest: Digest,
    pub artifact: Arc<[u8]>,
}

/// Lines that somebody wants of a plugin's log.
#[derive(Debug, Clone)]
pub struct LogQuery {
    pub app: AppName,
    pub plugin: PluginName,
    pub filter: LogFilter,
}

/// Lines as they come, some at a time.
pub type LogStream = BoxStream<'static, Vec<Value>>;

/// Rules that no plugin breaks: the node cannot compile now. Answered with 503.
pub const COMPILE_QUEUE: &str = "compile-queue";
pub const COMPILE_UNAVAILABLE: &str = "compile-unavailable";

/// Why a plugin may not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Stable name of the rule.
    pub rule: String,
    /// What was found.
    pub detail: String,
    /// What to do.
    pub help: String,
}

/// Which pipelines are wanted.
#[derive(Debug, Clone, Default)]
pub struct PipelineQuery {
    /// All hooks if none is named.
    pub hook: Option<Hook>,
    /// Those that a channel meets, if one is named.
    pub channel: Option<String>,
}

/// Outcomes that a [`StoryQuery`] may ask for, as the sandbox names them.
pub(super) const OUTCOMES: [&str; 3] = ["failed", "refused", "answered"];

/// Which stories are wanted.
#[derive(Debug, Clone, Default)]
pub struct StoryQuery {
    pub user: Option<String>,
    /// Channel or method.
    pub channel: Option<String>,
    /// One of `OUTCOMES`.
    pub outcome: Option<&'static str>,
    pub most: usize,
}

/// What happened in one plugin call.
#[derive(Debug, Clone)]
pub struct Story {
    pub app: AppName,
    pub story: Value,
}

impl Refused {
    /// Whether the plugin may be as good as any: the node could not find out.
    pub(super) fn is_for_want_of_a_compiler(&self) -> bool {
        [COMPILE_QUEUE, COMPILE_UNAVAILABLE].contains(&&*self.rule)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}
