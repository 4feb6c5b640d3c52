//! Pipelines, as JSON.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_sandbox::{Pipeline, PipelineStep};

pub(super) fn row(pipeline: &Pipeline) -> Value {
    json!({
        "hook": pipeline.hook.as_str(),
        "scope": pipeline.scope.to_string(),
        "lane": pipeline.lane.as_str(),
        "deadlines_ms": millis(pipeline.deadlines),
        "worst_case_ms": millis(pipeline.worst_case),
        "plugins": pipeline.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn step(step: &PipelineStep) -> Value {
    json!({
        "plugin": &*step.plugin,
        "version": step.version,
        "scope": step.scope.to_string(),
        "failure_policy": step.failure_policy.as_str(),
        "isolation": step.isolation.as_str(),
        "lane": step.lane.as_str(),
        "breaker": step.breaker.as_str(),
        "deadline_ms": millis(step.deadline),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
