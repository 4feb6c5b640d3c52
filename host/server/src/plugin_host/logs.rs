//! The plugins' logs as the admin API shows them.

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tidegate_control::Timestamp;
use tidegate_realtime::ids::AppId;
use tidegate_sandbox::{Hook, LogCall, LogItem, LogLine, Sandbox, Speaker};

use crate::admin::{LogQuery, LogStream};

pub(super) fn recent(sandbox: &Sandbox, query: &LogQuery, limit: usize) -> Vec<Value> {
    let Some(app) = app(query) else {
        return Vec::new();
    };
    let items = sandbox.log(&app, query.plugin.as_str(), &query.filter, limit);
    items.iter().map(show).collect()
}

pub(super) fn follow(sandbox: &Sandbox, query: &LogQuery, limit: usize) -> LogStream {
    let Some(app) = app(query) else {
        return stream::pending().boxed();
    };
    let filter = query.filter.clone();
    let follower = sandbox.follow_log(&app, query.plugin.as_str(), filter, limit);
    let next = |mut follower: tidegate_sandbox::LogFollower| async {
        let items = follower.next().await;
        Some((items.iter().map(show).collect(), follower))
    };
    stream::unfold(follower, next).boxed()
}

/// Names of apps are ids of apps.
fn app(query: &LogQuery) -> Option<AppId> {
    AppId::parse(query.app.as_str()).ok()
}

fn show(item: &LogItem) -> Value {
    let (number, line) = match item {
        LogItem::Line { number, line } => (number, line),
        LogItem::Dropped { count, why } => {
            return json!({ "event": "dropped", "count": count, "reason": why.as_str() });
        }
    };
    let LogLine {
        at_millis,
        level,
        speaker,
        message,
        call,
    } = &**line;
    let LogCall {
        plugin,
        version,
        hook,
        user,
        client,
        subject,
        trace_id,
    } = &**call;
    let at = Timestamp::from_millis(i64::try_from(*at_millis).unwrap_or(i64::MAX));
    let (from, failure) = match speaker {
        Speaker::Plugin => ("plugin", None),
        Speaker::Node(failure) => ("node", *failure),
    };
    let mut shown = json!({
        "event": "line",
        "number": number,
        "at": at,
        "level": level.as_str(),
        "from": from,
        "plugin": **plugin,
        "version": version,
        "hook": hook.as_str(),
        "message": **message,
    });
    let subject_is = match hook {
        Hook::Rpc => "method",
        Hook::Events => "batch",
        Hook::Schedule => "period",
        Hook::Authentication | Hook::Authorization | Hook::Filtering | Hook::Routing => "channel",
    };
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown[name] = value;
        }
    };
    set("failure", failure.map(|kind| kind.as_str().into()));
    set("user", user.as_deref().map(Into::into));
    set("client", client.map(|client| client.to_string().into()));
    set(subject_is, subject.as_deref().map(Into::into));
    set("trace", trace_id.as_deref().map(Into::into));
    shown
}
