//! The sandbox: plugins as WebAssembly components, admitted, compiled, limited and asked.
//!
//! Implements the hook traits of `tidegate-realtime` and nothing of them leaks back: no wasmtime type is in
//! this crate's interface. It stores nothing but compiled code and knows no control store; the server hands
//! in the complete desired state as [`Bindings`].
//!
//! The way of an upload: [`Sandbox::admit`] (checks, conversion) → [`Sandbox::compile`] (machine code, cache,
//! trial) → [`Sandbox::apply`] (swap). The way of a question: the snapshot → the app's pipeline → the worker's own
//! instance → the checked answer.
//!
//! Invariants: a plugin's failure is its own (the instance is dropped, the question fails, nothing else
//! notices); no guest value is used before it was checked; a host function never asks a hook, and none blocks but those
//! of capabilities that wait, on threads of their own.

mod activation;
mod admit;
mod binding;
mod breaker;
mod cache;
mod call;
mod capabilities;
mod clock;
mod compile;
mod conduct;
mod convert;
mod deadline;
mod engine;
mod failure;
mod generated;
mod guest;
mod instance;
mod instances;
mod lane;
mod limits;
mod logs;
mod metrics;
mod pipeline;
mod pipelines;
mod sandbox;
mod slots;
mod snapshot;
mod stories;
mod stubs;
mod ticker;
mod unit;
mod verdict;

pub use activation::{ApplyError, BindingProblem};
pub use admit::{AdmissionRefused, Admitted, MAX_UPLOAD_BYTES};
pub use binding::{
    BadScope, Binding, Bindings, Class, FailurePolicy, Hook, Isolation, PluginLimits, Scope,
};
pub use breaker::BreakerState;
pub use cache::CacheConfig;
pub use clock::Clock;
pub use compile::{
    Compilation, CompileChild, CompileError, Compiled, ComponentDigest,
    DEFAULT_COMPILE_ADDRESS_SPACE_BYTES, DEFAULT_COMPILE_TIME, SettingsProblem, compile_child,
};
pub use conduct::{UnfitSender, UnfitVersion};
pub use engine::Allocation;
pub use failure::FailureKind;
pub use lane::{AsideStatistics, Lane};
pub use limits::{DEFAULT_MEMORY_BYTES, MEMORY_CAP_BYTES, STATE_SWEEP_INTERVAL, StateQuotas};
pub use logs::{LogCall, LogFilter, LogFollower, LogItem, LogLevel, LogLine, Loss, Speaker};
pub use metrics::{Durations, HookStatistics, MemoryStatistics};
pub use pipelines::{Pipeline, PipelineQuery, PipelineStep};
pub use sandbox::{Sandbox, SandboxConfig, SandboxError, SandboxStatistics};
pub use stories::{Measured, StepEnd, Story, StoryOutcome, StoryQuery, StoryStep, Took};
pub use verdict::Verdict;

pub(crate) use sandbox::Runtime;
