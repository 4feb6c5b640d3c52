//! Stories, as JSON.

use serde_json::{Value, json};
use tidegate_control::Timestamp;
use tidegate_sandbox::{StepEnd, Story, StoryStep, Took};

pub(super) fn row(story: &Story) -> Value {
    let at = Timestamp::from_millis(i64::try_from(story.at_millis).unwrap_or(i64::MAX));
    json!({
        "at": at,
        "hook": story.hook.as_str(),
        "subject": &*story.subject,
        "user": &*story.user,
        "outcome": story.outcome().as_str(),
        "at_unix_ms": story.at_millis,
        "plugins": story.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn step(step: &StoryStep) -> Value {
    let mut row = json!({ "plugin": &*step.plugin, "version": step.version });
    match &step.ended {
        StepEnd::Answered(verdict) => row["verdict"] = json!(verdict),
        StepEnd::Failed {
            kind,
            detail,
            log,
            frames,
            is_passed_over,
        } => {
            row["failure"] = json!(kind.as_str());
            row["detail"] = json!(&**detail);
            row["log"] = json!(&**log);
            row["backtrace"] = json!(&**frames);
            row["passed_over"] = json!(is_passed_over);
        }
    }
    if let Some(reason) = &step.reason {
        row["reason"] = json!(&**reason);
    }
    if let Some(measured) = step.measured {
        row["lane"] = json!(measured.lane.as_str());
        let (member, took) = match measured.took {
            Took::Exactly(took) => ("took_ns", took),
            Took::Under(took) => ("took_under_ns", took),
        };
        row[member] = json!(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        if !measured.waited.is_zero() {
            row["waited_ns"] = json!(u64::try_from(measured.waited.as_nanos()).unwrap_or(u64::MAX));
        }
        row["memory_bytes"] = json!(measured.memory_bytes);
    }
    row
}
