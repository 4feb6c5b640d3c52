//! The life of a plugin through the API.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_control::{AppName, KeyRole};
use tokio::task::JoinSet;

use super::fake::Bench;

const PLUGIN: &str = "/apps/default/plugins/filter";

#[tokio::test]
async fn a_plugin_goes_from_upload_to_running_and_back() {
    let bench = Bench::new();
    let got = bench.upload("filter", "filtering; one").await;
    let version = got.is(201, "UploadedVersion");
    assert_eq!(version["number"], 1);
    assert_eq!(version["hooks"], json!(["filtering"]));
    assert_eq!(version["imports"], json!(["tidegate:plugin/log@0.1.0"]));
    assert_eq!(version["size"], 14);
    assert_eq!(version["digest"].as_str().unwrap().len(), 64);

    bench
        .bind("filter", "filtering")
        .await
        .is(201, "BoundBinding");
    assert!(bench.running().is_empty(), "nothing is active yet");
    bench.activate("filter", 1).await.is(200, "Activation");
    assert_eq!(bench.running(), ["filter@1"]);

    bench.upload("filter", "filtering; two").await;
    assert_eq!(bench.running(), ["filter@1"], "an upload runs nothing");
    let got = bench.activate("filter", 2).await;
    assert_eq!(got.is(200, "Activation")["previous_version"], 1);
    assert_eq!(bench.running(), ["filter@2"]);

    let got = bench.post(&format!("{PLUGIN}/rollback"), "").await;
    assert_eq!(got.is(200, "Activation")["version"], 1);
    assert_eq!(bench.running(), ["filter@1"]);
    bench
        .post(&format!("{PLUGIN}/rollback"), "{}")
        .await
        .is_problem(409, "conflict");

    let got = bench.get(PLUGIN).await;
    let details = got.is(200, "PluginDetails");
    assert_eq!(details["active_version"], 1);
    assert_eq!(details["newest_version"], 2);
    let binding = details["bindings_list"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/apps/default/bindings/{binding}");
    bench.delete(PLUGIN).await.is_problem(409, "conflict");
    bench.delete(&path).await.is(200, "Binding");
    assert!(bench.running().is_empty());
    bench.delete(&path).await.is_problem(404, "not-found");
    assert_eq!(bench.delete(PLUGIN).await.status, 204);
    bench.get(PLUGIN).await.is_problem(404, "not-found");
}

#[tokio::test]
async fn the_same_bytes_again_are_the_same_version() {
    let bench = Bench::new();
    bench
        .upload("filter", "filtering; one")
        .await
        .is(201, "UploadedVersion");
    let got = bench.upload("filter", "filtering; one").await;
    let again = got.is(200, "UploadedVersion");
    assert_eq!(
        (&again["number"], &again["is_new"]),
        (&json!(1), &json!(false))
    );
}

#[tokio::test]
async fn w1_a_refused_upload_says_rule_and_remedy_stores_nothing_and_is_audited() {
    let bench = Bench::new();
    let got = bench.upload("filter", "refuse me").await;
    let problem = got.is_problem(422, "plugin-refused");
    assert_eq!(problem["rule"], "imports");
    assert_eq!(problem["help"], "do something about it");
    bench.get(PLUGIN).await.is_problem(404, "not-found");

    let got = bench.get("/apps/default/audit").await;
    let entry = &got.is(200, "AuditEntries")["items"][0];
    assert_eq!(entry["action"], "plugin.upload");
    assert_eq!(entry["result"], "refused: imports: something was found");
    assert_eq!(entry["ip"], "127.0.0.1");
}

#[tokio::test]
async fn w2_what_cannot_be_compiled_is_refused_at_upload_and_a_node_that_cannot_compile_says_when_to_retry()
 {
    let bench = Bench::new();
    let got = bench
        .upload("filter", "filtering; compile: compile-time")
        .await;
    assert_eq!(
        got.is_problem(422, "plugin-refused")["rule"],
        "compile-time"
    );
    for rule in ["compile-queue", "compile-unavailable"] {
        let got = bench
            .upload("filter", &format!("filtering; compile: {rule}"))
            .await;
        assert_eq!(got.is_problem(503, "plugin-not-tried")["rule"], rule);
        assert_eq!(got.headers["retry-after"], "30");
    }
    bench.get(PLUGIN).await.is_problem(404, "not-found");
}

#[tokio::test]
async fn w1_an_admission_that_gives_up_refuses_the_upload_and_nothing_else() {
    let bench = Bench::new();
    let got = bench.upload("filter", "panic").await;
    assert_eq!(
        got.is_problem(422, "plugin-refused")["rule"],
        "admission-failed"
    );
    bench
        .upload("filter", "filtering; one")
        .await
        .is(201, "UploadedVersion");
}

#[tokio::test]
async fn w1_an_upload_above_4_mib_is_413_and_one_of_4_mib_is_judged() {
    let bench = Bench::new();
    let limit = super::super::body::MAX_UPLOAD_BYTES;
    let fitting = format!("filtering;{}", " ".repeat(limit - 10));
    assert_eq!(bench.upload("filter", &fitting).await.status, 201);
    let large = format!("{fitting} ");
    bench
        .upload("filter", &large)
        .await
        .is_problem(413, "too-large");
}

#[tokio::test]
async fn a_version_is_tried_before_it_is_stored_as_active_and_applied_after() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    bench.upload("filter", "filtering; untried").await;
    bench.bind("filter", "filtering").await;
    bench.activate("filter", 1).await.is(200, "Activation");
    assert_eq!(
        bench.log(),
        ["apply ", "prepare filter 1", "apply filter@1"]
    );

    let got = bench.activate("filter", 2).await;
    assert_eq!(got.is_problem(422, "plugin-refused")["rule"], "trial");
    assert_eq!(bench.log(), ["prepare filter 2"]);
    assert_eq!(bench.get(PLUGIN).await.body["active_version"], 1);
    assert_eq!(bench.running(), ["filter@1"]);
}

#[tokio::test]
async fn a_change_that_cannot_be_applied_leaves_store_and_host_as_they_were() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    bench.upload("filter", "filtering; unfit").await;
    bench.bind("filter", "filtering").await;
    bench.activate("filter", 1).await.is(200, "Activation");

    let got = bench.activate("filter", 2).await;
    let problem = got.is_problem(500, "not-applied");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("what ran before still runs")
    );
    assert_eq!(bench.get(PLUGIN).await.body["active_version"], 1);
    assert_eq!(bench.running(), ["filter@1"]);
    let got = bench.get("/apps/default/audit").await;
    assert_eq!(got.body["items"][0]["action"], "app.restore");

    // The same for a binding: what is active but unfit cannot be bound.
    bench.upload("second", "rpc; unfit").await;
    bench.activate("second", 1).await.is(200, "Activation");
    bench
        .bind("second", "rpc")
        .await
        .is_problem(500, "not-applied");
    let got = bench.get("/apps/default/bindings").await;
    assert_eq!(
        got.is(200, "Bindings")["items"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn a_change_ends_even_when_its_caller_hangs_up() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    bench.bind("filter", "filtering").await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *bench.host.gate.lock() = Some(gate.clone());
    {
        let mut call = Box::pin(bench.activate("filter", 1));
        // The caller waits until the change is under way, then drops its request.
        while bench.running().is_empty() {
            futures_util::future::poll_immediate(&mut call).await;
            tokio::task::yield_now().await;
        }
    }
    *bench.host.gate.lock() = None;
    gate.add_permits(1);
    // The next change waits for the first, so its answer says that both are done.
    bench
        .bind("filter", "filtering")
        .await
        .is(200, "BoundBinding");
    assert_eq!(bench.get(PLUGIN).await.body["active_version"], 1);
    assert_eq!(bench.running(), ["filter@1"]);
}

#[tokio::test]
async fn an_unfit_version_makes_room_for_the_former_and_the_audit_says_why() {
    let bench = Bench::new();
    for text in ["one", "two"] {
        bench.upload("filter", &format!("filtering; {text}")).await;
    }
    bench.bind("filter", "filtering").await;
    bench.activate("filter", 1).await;
    bench.activate("filter", 2).await;
    let app = AppName::default_app();
    let plugin = tidegate_control::PluginName::parse("filter").unwrap();
    let cause = "at filtering: 5 calls in a row failed";
    let admin = &bench.admin;
    let returned = admin.return_to_former(&app, &plugin, 2, cause).await;
    assert_eq!(
        returned.unwrap().map(|activation| activation.version),
        Some(1)
    );
    assert_eq!(bench.running(), ["filter@1"]);

    let got = bench.get("/audit?limit=1").await;
    let entry = &got.is(200, "AuditEntries")["items"][0];
    assert_eq!(entry["action"], "plugin.return");
    assert_eq!(entry["who"], "node");
    assert_eq!(entry["object"], "plugin/filter/versions/1");
    assert_eq!(entry["result"], cause);

    // A report that comes late, and one for which there is nothing to go back to.
    let late = admin.return_to_former(&app, &plugin, 2, cause).await;
    assert_eq!(late, Ok(None));
    let first = admin.return_to_former(&app, &plugin, 1, cause).await;
    assert!(first.is_err_and(|error| error.starts_with("conflict: ")));
    assert_eq!(bench.running(), ["filter@1"]);
}

#[tokio::test]
async fn a_restart_runs_what_was_stored() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    bench.bind("filter", "filtering").await;
    bench.activate("filter", 1).await;
    *bench.host.running.lock() = tidegate_control::DesiredState::default();
    bench.admin.start().await.unwrap();
    assert_eq!(bench.running(), ["filter@1"]);
}

#[tokio::test]
async fn m8_pages_of_lists_are_bounded_and_can_be_followed() {
    let bench = Bench::new();
    for number in 0..3 {
        bench
            .upload("filter", &format!("filtering; {number}"))
            .await;
    }
    let path = format!("{PLUGIN}/versions");
    let got = bench.get(&format!("{path}?limit=2")).await;
    let page = got.is(200, "Versions");
    assert_eq!(page["items"][1]["number"], 2);
    let next = &page["next"];
    let got = bench.get(&format!("{path}?limit=2&before={next}")).await;
    let page = got.is(200, "Versions");
    assert_eq!(
        (&page["items"][0]["number"], &page["next"]),
        (&json!(1), &Value::Null)
    );
    for limit in ["0", "201", "1000000000", "-1", "x"] {
        for path in [&path, "/audit", "/apps/default/audit"] {
            let got = bench.get(&format!("{path}?limit={limit}")).await;
            got.is_problem(422, "invalid-field");
        }
    }
}

#[tokio::test]
async fn m6_a_key_is_shown_once_and_works_until_it_is_revoked() {
    let bench = Bench::new();
    let body = json!({ "role": "deploy", "label": "ci" });
    let got = bench.post("/apps/default/keys", body).await;
    let made = got.is(201, "NewKey");
    let (id, secret) = (
        made["id"].as_str().unwrap(),
        made["secret"].as_str().unwrap(),
    );
    assert!(secret.starts_with("tga_"));
    let got = bench.ask("GET", "/apps/default/plugins", "", secret).await;
    got.is(200, "Plugins");

    for path in ["/keys", "/apps/default/keys", "/audit"] {
        let got = bench.get(path).await;
        assert_eq!(got.status, 200);
        assert!(
            !got.text.contains(secret) && !got.text.contains("hash"),
            "{}",
            got.text
        );
    }
    let path = format!("/apps/default/keys/{id}");
    bench.delete(&path).await.is(200, "Key");
    let got = bench.ask("GET", "/apps/default/plugins", "", secret).await;
    got.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_key_makes_no_key_above_itself() {
    let bench = Bench::new();
    let admin = bench.key_in(&AppName::default_app(), KeyRole::AppAdmin);
    for (role, status) in [
        ("api", 201),
        ("deploy", 201),
        ("app-admin", 201),
        ("operator", 403),
    ] {
        let body = json!({ "role": role }).to_string();
        let got = bench.ask("POST", "/apps/default/keys", &body, &admin).await;
        assert_eq!(got.status, status, "{role}");
    }
    let got = bench.ask("POST", "/keys", "{}", &admin).await;
    got.is_problem(403, "forbidden");
}

#[tokio::test]
async fn stories_are_asked_for_by_user_channel_and_outcome() {
    let bench = Bench::new();
    let got = bench
        .get("/apps/default/stories?user=ann&channel=chat%3A1&outcome=failed&limit=7")
        .await;
    let story = &got.is(200, "Stories")["items"][0]["story"];
    let asked = json!({ "user": "ann", "subject": "chat:1", "outcome": "failed", "most": 7 });
    assert_eq!(*story, asked);
    for wrong in ["outcome=lost", "limit=0", "limit=201", "limit=many"] {
        let path = format!("/apps/default/stories?{wrong}");
        bench.get(&path).await.is_problem(422, "invalid-field");
    }
}

#[tokio::test]
async fn explain_tells_the_story_of_a_trace_to_its_own_app_alone() {
    let bench = Bench::new();
    let other = bench.key_of_other_app(KeyRole::Deploy);
    let got = bench.ask("GET", "/explain/of-other", "", &other).await;
    assert_eq!(got.is(200, "Story")["story"]["cause"], "trap");
    let foreign = bench.ask("GET", "/explain/of-default", "", &other).await;
    let missing = bench.ask("GET", "/explain/never", "", &other).await;
    foreign.is_problem(404, "not-found");
    assert_eq!(foreign.text, missing.text);
}

#[tokio::test]
async fn a_key_of_the_configuration_file_is_refused_by_name() {
    let bench = Bench::new();
    let got = bench.delete("/keys/config:admin_api.key").await;
    let problem = got.is_problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("admin_api.key")
    );
    bench
        .delete("/keys/config:nonsense")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn what_one_app_has_compiled_delays_no_change_of_another() {
    let bench = Arc::new(Bench::new());
    let other = bench.key_of_other_app(KeyRole::AppAdmin);
    let plugin = "/apps/other/plugins/filter";
    for text in ["filtering; one", "filtering; two"] {
        let path = format!("{plugin}/versions");
        let got = bench.ask("POST", &path, text, &other).await;
        got.is(201, "UploadedVersion");
    }
    for version in [1, 2] {
        let body = json!({ "version": version }).to_string();
        let path = format!("{plugin}/activate");
        let got = bench.ask("POST", &path, &body, &other).await;
        got.is(200, "Activation");
    }
    bench.upload("quick", "filtering").await;

    // An upload, and then the activation of it, wait for the compiler.
    for step in ["upload", "activate"] {
        let mut slow = JoinSet::new();
        slow.spawn({
            let bench = bench.clone();
            async move {
                match step {
                    "upload" => bench.upload("filter", "filtering; slow").await,
                    _ => bench.activate("filter", 1).await,
                }
            }
        });
        bench.host.compiling.notified().await;
        // Nothing of the other app waits with them: rolled back to 1 while the upload waits, then 2 again.
        let (path, body) = match step {
            "upload" => (format!("{plugin}/rollback"), "{}".to_owned()),
            _ => (
                format!("{plugin}/activate"),
                json!({ "version": 2 }).to_string(),
            ),
        };
        let got = bench.ask("POST", &path, &body, &other).await;
        got.is(200, "Activation");
        assert!(slow.try_join_next().is_none(), "the {step} waits");
        bench.host.compiler.add_permits(1);
        let answered = slow.join_next().await.unwrap().unwrap();
        assert!(answered.status < 300);
    }
}

#[tokio::test]
async fn changes_of_one_app_take_place_in_the_order_in_which_they_came() {
    let bench = Arc::new(Bench::new());
    for text in ["filtering; one slow", "filtering; two"] {
        bench
            .host
            .compiler
            .add_permits(usize::from(text.contains("slow")));
        bench
            .upload("filter", text)
            .await
            .is(201, "UploadedVersion");
    }
    bench.bind("filter", "filtering").await;
    // Consumes what the upload told.
    bench.host.compiling.notified().await;
    let activate = |version| {
        let bench = bench.clone();
        async move { bench.activate("filter", version).await }
    };
    let mut tasks = [JoinSet::new(), JoinSet::new()];
    tasks[0].spawn(activate(1));
    bench.host.compiling.notified().await;
    tasks[1].spawn(activate(2));
    tokio::task::yield_now().await;
    bench.host.compiler.add_permits(1);
    let first = tasks[0].join_next().await.unwrap().unwrap();
    first.is(200, "Activation");
    let got = tasks[1].join_next().await.unwrap().unwrap();
    assert_eq!(got.is(200, "Activation")["previous_version"], 1);
    assert_eq!(bench.running(), ["filter@2"]);
}

#[tokio::test]
async fn m7_the_audit_log_says_what_the_version_that_goes_had_done() {
    let bench = Bench::new();
    for text in ["filtering routing; one", "filtering routing; two"] {
        bench.upload("worn", text).await;
    }
    bench.activate("worn", 1).await;
    let body = json!({ "plugin": "worn", "hook": "filtering" });
    let got = bench.post("/apps/default/bindings", body).await;
    let id = got.is(201, "BoundBinding")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    bench.activate("worn", 2).await;
    bench
        .post("/apps/default/plugins/worn/rollback", "")
        .await
        .is(200, "Activation");
    bench.activate("worn", 2).await;
    let plugin = tidegate_control::PluginName::parse("worn").unwrap();
    let app = AppName::default_app();
    bench
        .admin
        .return_to_former(&app, &plugin, 2, "it kept failing")
        .await
        .unwrap()
        .unwrap();
    bench
        .delete(&format!("/apps/default/bindings/{id}"))
        .await
        .is(200, "Binding");

    let first = "version 1 on this node: filtering 5 calls (pass 5)";
    let second =
        "version 2 on this node: filtering 11 calls (pass 8), 3 failed (timeout 2, trap 1)";
    let got = bench.get("/apps/default/audit").await;
    let entries = got.is(200, "AuditEntries")["items"].as_array().unwrap();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry["action"].as_str().unwrap(),
                entry["result"].as_str().unwrap(),
            )
        })
        .take(6)
        .collect();
    let expected = [
        ("binding.remove", format!("ok; {first}")),
        ("plugin.return", format!("it kept failing; {second}")),
        ("plugin.activate", format!("ok; {first}")),
        ("plugin.rollback", format!("ok; {second}")),
        ("plugin.activate", format!("ok; {first}")),
        ("binding.set", "ok".to_owned()),
    ];
    for (told, (action, result)) in told.iter().zip(&expected) {
        assert_eq!((told.0, told.1), (*action, result.as_str()));
    }
}
