//! What each node of the cluster runs.

use serde_json::{Value, json};
use tidegate_control::{NodeReport, Revision};

use super::{
    follow::SILENT,
    problem::Problem,
    routes::{Answer, Call},
};

/// Of a node that keys were revoked behind the back of, perhaps.
const CUT_OFF: &str =
    "cut off from the control store for longer than control.postgres.max_copy_age";

pub(super) async fn list(call: Call) -> Result<Answer, Problem> {
    let own = call.admin.node.uid.clone();
    let mut this = node(&call, &own, &call.admin.own_report(), true);
    if let Some(heard) = call.admin.store.heard() {
        this["store_heard_seconds_ago"] = json!(heard.ago.as_secs());
        if heard.is_too_long && call.caller.app.is_none() {
            this["problem"] = json!(CUT_OFF);
        }
    }
    let mut items = vec![this];
    let mut body = json!({});
    // While the store is away this node can still say what it runs itself.
    match call.ask(read).await {
        Ok((revision, reports)) => {
            body["revision"] = json!(revision);
            for NodeReport {
                node: uid,
                at,
                report,
            } in reports
            {
                let report: Value = serde_json::from_str(&report).unwrap_or_default();
                if uid != own {
                    let mut shown = node(&call, &uid, &report, false);
                    shown["reported_at"] = json!(at);
                    items.push(shown);
                }
            }
        }
        Err(problem) => body["problem"] = json!(problem.to_string()),
    }
    items.sort_by_key(|node| node["name"].to_string());
    if !call.admin.store.is_shared() {
        // Nobody else changes what is stored, so all of it runs.
        for item in &mut items {
            item["revision"] = body["revision"].clone();
        }
        let num_others = call.admin.apps.num_nodes() - 1;
        if num_others > 0 {
            body["problem"] = json!(format!(
                "{num_others} more on the same Redis, each with a control store of its own: plugins, bindings, apps and \
                 keys are decided on each by itself; with `control.store = \"postgres\"` they have one"
            ));
        }
    }
    body["items"] = json!(items);
    Ok(Answer::ok(body))
}

fn read(
    store: &tidegate_control::Store,
) -> Result<(Revision, Vec<NodeReport>), tidegate_control::StoreError> {
    let reports = if store.is_shared() {
        store.reports(SILENT)?
    } else {
        Vec::new()
    };
    Ok((store.revision()?, reports))
}

/// A node with the plugins that the caller may know of.
fn node(call: &Call, uid: &str, report: &Value, is_this: bool) -> Value {
    let mut plugins = report["plugins"].as_array().cloned().unwrap_or_default();
    plugins.retain(|plugin| {
        let app = plugin["app"].as_str().unwrap_or_default();
        tidegate_control::AppName::parse(app).is_ok_and(|app| call.caller.reaches(&app))
    });
    let mut shown = json!({
        "node": uid,
        "name": report["name"],
        "version": report["version"],
        "revision": report["revision"],
        "is_this": is_this,
        "plugins": plugins,
    });
    if call.caller.app.is_none() && report["problem"].is_string() {
        shown["problem"] = report["problem"].clone();
    }
    shown
}
