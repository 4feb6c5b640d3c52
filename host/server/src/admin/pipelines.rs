//! Pipelines: who is asked at which hook, in which order, and how long that may take.

use serde_json::json;
use tidegate_control::Hook;

use super::{
    host::PipelineQuery,
    problem::Problem,
    routes::{Answer, Call},
};

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let hook: Option<Hook> = call.query.get("hook").map(str::parse).transpose()?;
    let channel = call.query.get("channel").map(str::to_owned);
    let query = PipelineQuery { hook, channel };
    let items = call.admin.host.pipelines(&call.app()?, query);
    Ok(Answer::ok(json!({ "items": items })))
}
