//! What plugins do by the clock: when each period is due, and what came of the last run.

use serde_json::{Value, json};
use tidegate_realtime::schedule::{LastRun, Planned, RunOutcome};

use super::{
    problem::Problem,
    routes::{Answer, Call},
};

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let planned = call.admin.apps.schedule(&call.app()?);
    let items: Vec<Value> = planned.iter().map(shown).collect();
    Ok(Answer::ok(json!({ "items": items })))
}

fn shown(planned: &Planned) -> Value {
    let Planned {
        plugin,
        period,
        every,
        next_ms,
        last,
    } = planned;
    let mut shown = json!({
        "plugin": **plugin,
        "period": **period,
        "every_seconds": every.as_secs(),
        "next_ms": next_ms,
    });
    if let Some(LastRun { due_ms, outcome }) = last {
        shown["last_due_ms"] = (*due_ms).into();
        shown["last_outcome"] = outcome.as_str().into();
        if let RunOutcome::Failed { trace_id } = outcome {
            shown["trace"] = (**trace_id).into();
        }
    }
    shown
}
