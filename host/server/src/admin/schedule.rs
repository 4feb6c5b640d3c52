//! What plugins do by the clock: when each period is due, and what came of the last run, on whatever node it was.

use serde_json::{Value, json};
use tidegate_realtime::{
    node::{PeriodFound, RunPlace, ScheduleFound},
    schedule::Planned,
};

use super::{
    problem::Problem,
    routes::{Answer, Call},
};

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let ScheduleFound {
        periods,
        silent_nodes,
    } = call.admin.apps.schedule(&call.app()?).await;
    let items: Vec<Value> = periods.into_iter().map(shown).collect();
    Ok(Answer::ok(
        json!({ "items": items, "silent_nodes": silent_nodes }),
    ))
}

fn shown(PeriodFound { planned, last }: PeriodFound) -> Value {
    let Planned {
        plugin,
        period,
        every,
        next_ms,
        last: _,
    } = planned;
    let mut shown = json!({
        "plugin": *plugin,
        "period": *period,
        "every_seconds": every.as_secs(),
        "next_ms": next_ms,
    });
    if let Some(RunPlace {
        plugin: _,
        period: _,
        node,
        node_name,
        due_ms,
        outcome,
        trace,
        took_ms,
    }) = last
    {
        shown["last_due_ms"] = due_ms.into();
        shown["last_outcome"] = outcome.into();
        shown["node"] = node.into();
        shown["node_name"] = node_name.into();
        if let Some(took_ms) = took_ms {
            shown["last_took_ms"] = took_ms.into();
        }
        if let Some(trace) = trace {
            shown["trace"] = trace.into();
        }
    }
    shown
}
