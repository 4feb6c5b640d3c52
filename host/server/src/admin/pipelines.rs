//! Pipelines: who is asked at which hook, in which order, and how long that may take.

use serde_json::json;
use tidegate_control::Hook;
use tidegate_realtime::channel::BadName;

use super::{
    bindings::known_namespaces,
    host::PipelineQuery,
    problem::Problem,
    routes::{Answer, Call},
};

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let hook: Option<Hook> = call.query.get("hook").map(str::parse).transpose()?;
    let channel = call.query.get("channel").map(str::to_owned);
    let warning = channel.as_deref().and_then(|name| useless(&call, name));
    let query = PipelineQuery { hook, channel };
    let items = call.admin.host.pipelines(&call.app()?, query);
    let mut body = json!({ "items": items });
    if let Some(warning) = warning {
        body["warnings"] = json!([warning]);
    }
    Ok(Answer::ok(body))
}

/// Why nobody will ever be asked about a channel: it may be a typo.
fn useless(call: &Call, channel: &str) -> Option<String> {
    let why = call.admin.channels.resolve(channel).err()?;
    Some(match why {
        BadName::UnknownNamespace => format!(
            "the configuration has no namespace for this channel; {}",
            known_namespaces(call)
        ),
        BadName::Empty | BadName::TooLong | BadName::NotPrintable | BadName::Pattern => {
            let why = why.to_string();
            let why = why.strip_prefix("bad request: ").unwrap_or(&why);
            format!("no channel can have this name: {why}")
        }
    })
}
