//! Bindings: what they take, what they keep, and what nobody is shown.

use serde_json::json;
use tidegate_control::{AppName, KeyRole};

use super::fake::Bench;

#[tokio::test]
async fn a_binding_takes_scope_place_config_and_policy_and_can_be_changed() {
    let bench = Bench::new();
    for plugin in ["one", "two"] {
        bench.upload(plugin, &format!("filtering; {plugin}")).await;
        bench.activate(plugin, 1).await;
        let body = json!({ "plugin": plugin, "hook": "filtering", "scope": "namespace:chat",
            "config": { "words": ["x"] } });
        bench
            .post("/apps/default/bindings", body)
            .await
            .is(201, "BoundBinding");
    }
    let body = json!({ "plugin": "two", "hook": "filtering", "scope": "namespace:chat", "position": 0,
        "failure_policy": "open", "isolation": "per-call" });
    let got = bench.post("/apps/default/bindings", body).await;
    let binding = got.is(200, "BoundBinding");
    assert_eq!(binding["position"], 0);
    assert_eq!(binding["failure_policy"], "open");
    assert_eq!(binding["isolation"], "per-call");
    // What the request does not name stays as it was.
    assert_eq!(binding["config"], json!({ "words": ["x"] }));
    assert_eq!(binding["kept"], json!(["config"]));
    let got = bench.get("/apps/default/bindings").await;
    let items = &got.is(200, "Bindings")["items"];
    assert_eq!(
        (&items[0]["plugin"], &items[1]["plugin"]),
        (&json!("two"), &json!("one"))
    );
    assert_eq!(items[1]["config"], json!({ "words": ["x"] }));
    assert_eq!(bench.running(), ["two@1", "one@1"]);

    let body =
        json!({ "plugin": "two", "hook": "filtering", "scope": "namespace:chat", "config": {} });
    let got = bench.post("/apps/default/bindings", body).await;
    let binding = got.is(200, "BoundBinding");
    assert_eq!(binding["config"], json!({}));
    assert_eq!(binding["failure_policy"], "open");
    assert_eq!(binding["isolation"], "per-call");
    assert_eq!(
        binding["kept"],
        json!(["failure_policy", "isolation", "position"])
    );
}

#[tokio::test]
async fn m8_secrets_in_settings_are_shown_to_an_operator_who_asks_and_to_nobody_else() {
    let bench = Bench::new();
    let app = AppName::default_app();
    let (deploy, admin) = (
        bench.key_in(&app, KeyRole::Deploy),
        bench.key_in(&app, KeyRole::AppAdmin),
    );
    bench.upload("gate", "authentication; one").await;
    bench.activate("gate", 1).await;
    let settings = json!({ "secrets": [{ "id": "k1", "secret": "hunter2" }], "ttl": 5 });
    let body =
        json!({ "plugin": "gate", "hook": "authentication", "config": settings }).to_string();
    let redacted = json!({ "secrets": [{ "id": "[redacted]", "secret": "[redacted]" }], "ttl": 5 });
    let lists = ["/apps/default/bindings", "/apps/default/plugins/gate"];

    let mut answers = vec![
        bench
            .ask("POST", "/apps/default/bindings", &body, &admin)
            .await,
    ];
    let id = answers[0].is(201, "BoundBinding")["id"].as_str().unwrap();
    let binding = format!("/apps/default/bindings/{id}");
    for path in lists.iter().chain(&["/apps/default/audit", "/audit"]) {
        for key in [&deploy, &admin, &bench.key] {
            answers.push(bench.ask("GET", path, "", key).await);
        }
    }
    let shown = &answers[1].is(200, "Bindings")["items"][0]["config"];
    assert_eq!(*shown, redacted);
    for path in lists {
        let path = format!("{path}?reveal=true");
        for key in [&deploy, &admin] {
            let got = bench.ask("GET", &path, "", key).await;
            got.is_problem(403, "forbidden");
            answers.push(got);
        }
        let revealed = bench.get(&path).await;
        assert!(revealed.text.contains("hunter2"), "{}", revealed.text);
    }
    answers.push(bench.delete(&binding).await);
    for answer in answers {
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
    }
    let got = bench.get("/apps/default/bindings?reveal=yes").await;
    got.is_problem(422, "invalid-field");
}

#[tokio::test]
async fn binding_to_a_namespace_that_is_not_configured_warns() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    for (scope, warns) in [
        ("namespace:chat", false),
        ("namespace:caht", true),
        ("app", false),
    ] {
        let body = json!({ "plugin": "filter", "hook": "filtering", "scope": scope });
        let got = bench.post("/apps/default/bindings", body).await;
        let warnings = got.is(201, "BoundBinding")["warnings"].as_array();
        assert_eq!(warnings.is_some(), warns, "{scope}");
        assert!(
            warnings.is_none_or(|warnings| warnings[0].as_str().unwrap().contains("it has chat"))
        );
    }
}

#[tokio::test]
async fn settings_that_the_plugin_cannot_use_are_not_bound_and_who_binds_reads_why() {
    let bench = Bench::new();
    bench
        .upload("picky", "filtering routing; needs: salt")
        .await;
    bench.activate("picky", 1).await;
    let bind = async |hook: &str, more: serde_json::Value| {
        let mut body = json!({ "plugin": "picky", "hook": hook });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        bench.post("/apps/default/bindings", body).await
    };
    for more in [json!({}), json!({ "config": { "password": "hunter2" } })] {
        let got = bind("filtering", more).await;
        let problem = got.is_problem(422, "plugin-refused");
        assert_eq!(
            (&problem["rule"], &problem["field"]),
            (&json!("settings"), &json!("config"))
        );
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .starts_with("no salt in {")
        );
    }
    assert!(bench.running().is_empty());
    let audit = bench.get("/apps/default/audit").await.body.to_string();
    assert!(audit.contains("cannot use these settings"), "{audit}");
    assert!(!audit.contains("hunter2"), "{audit}");

    bind("filtering", json!({ "config": "salt" }))
        .await
        .is(201, "BoundBinding");
    // What is bound already is not tried again when something else changes, and a change of it is.
    bind("filtering", json!({ "failure_policy": "open" }))
        .await
        .is(200, "BoundBinding");
    let got = bind("filtering", json!({ "config": "sugar" })).await;
    got.is_problem(422, "plugin-refused");
    bind("routing", json!({}))
        .await
        .is_problem(422, "plugin-refused");
    // A hook that it does not have is said to be so, whatever the settings.
    let got = bind("rpc", json!({})).await;
    assert!(!got.body.to_string().contains("salt"), "{}", got.body);
    assert_eq!(bench.running(), ["picky@1"]);
}

#[tokio::test]
async fn a_version_that_cannot_use_the_settings_that_are_bound_runs_and_says_so() {
    let bench = Bench::new();
    bench.upload("picky", "filtering; needs: salt").await;
    bench.upload("picky", "filtering; needs: pepper").await;
    bench.activate("picky", 1).await;
    let body = json!({ "plugin": "picky", "hook": "filtering", "config": "salt" });
    bench
        .post("/apps/default/bindings", body)
        .await
        .is(201, "BoundBinding");
    let got = bench.activate("picky", 2).await;
    let warnings = &got.is(200, "Activation")["warnings"];
    let warning = warnings[0].as_str().unwrap();
    assert!(
        warning.starts_with("at filtering@app version 2 cannot use"),
        "{warning}"
    );
    assert!(
        !warning.contains("salt"),
        "settings are not for all who may activate"
    );
    let body = json!({ "plugin": "picky", "hook": "filtering", "config": "pepper" });
    bench
        .post("/apps/default/bindings", body)
        .await
        .is(200, "BoundBinding");
    let got = bench.activate("picky", 2).await;
    assert!(got.is(200, "Activation")["warnings"].is_null());
}
