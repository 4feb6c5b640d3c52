//! What plugins did, as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tidegate_sandbox::{HookStatistics, Sandbox};

/// Of the node: how plugins are run, and every version at every hook.
pub(super) fn of_node(sandbox: &Sandbox) -> Value {
    let statistics = sandbox.statistics();
    let hooks = statistics.hooks.iter().map(|hook| {
        let mut shown = row(hook);
        shown["app"] = json!(hook.app.as_str());
        shown
    });
    json!({
        "aside": {
            "threads": statistics.aside.threads,
            "waiting": statistics.aside.waiting,
            "shed": statistics.aside.shed,
        },
        "max_instances": statistics.max_instances,
        "instances_evicted": statistics.instances_evicted,
        "instances": statistics.instances,
        "instances_made": statistics.instances_made,
        "log_lines_dropped": statistics.log_lines_dropped,
        "hooks": hooks.collect::<Vec<_>>(),
    })
}

/// Every version of the app's plugins at every hook; of one plugin, if one is named.
pub(super) fn of_app(sandbox: &Sandbox, app: &str, plugin: Option<&str>) -> Vec<Value> {
    let statistics = sandbox.statistics_of(app);
    statistics
        .iter()
        .filter(|hook| plugin.is_none_or(|plugin| *hook.plugin == *plugin))
        .map(row)
        .collect()
}

fn row(hook: &HookStatistics) -> Value {
    let verdicts: Map<_, _> = hook
        .verdicts
        .iter()
        .map(|(verdict, count)| (verdict.as_str().to_owned(), json!(count)))
        .collect();
    let failed: Map<_, _> = hook
        .failed
        .iter()
        .map(|(kind, count)| (kind.as_str().to_owned(), json!(count)))
        .collect();
    let time = &hook.durations;
    json!({
        "plugin": &*hook.plugin,
        "version": hook.version,
        "hook": hook.hook.as_str(),
        "is_bound": hook.is_bound,
        "calls": hook.calls(),
        "answered": hook.answered,
        "refused": hook.refused,
        "verdicts": verdicts,
        "failures": hook.failures(),
        "failed": failed,
        "passed_over": hook.passed_over,
        "breaker": hook.breaker.as_str(),
        "breaker_openings": hook.breaker_openings,
        "breaker_refusals": hook.breaker_refusals(),
        "lane": hook.lane.as_str(),
        "inline": hook.inline(),
        "aside": hook.aside,
        "near_deadline": hook.near_deadline,
        "near_memory": hook.near_memory,
        "time": {
            "samples": time.samples,
            "total_ns": nanos(time.total),
            "mean_ns": nanos(time.mean),
            "p50_ns": nanos(time.p50),
            "p99_ns": nanos(time.p99),
            "p999_ns": nanos(time.p999),
            "max_ns": nanos(time.max),
        },
        "memory": {
            "instances": hook.memory.instances,
            "bytes": hook.memory.bytes,
            "peak_bytes": hook.memory.peak_bytes,
        },
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
