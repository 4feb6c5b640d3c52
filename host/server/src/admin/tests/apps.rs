//! Apps through the API.

use serde_json::json;
use tidegate_control::{AppName, KeyRole};

use super::fake::Bench;
use crate::admin::quota::CALLS_PER_SECOND;

async fn create(bench: &Bench, name: &str) -> String {
    let got = bench.post("/apps", json!({ "name": name })).await;
    let app = got.is(201, "NewApp");
    assert_eq!(app["name"], name);
    app["token_secret"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_app_is_created_opened_audited_and_deleted_for_good() {
    let bench = Bench::new();
    let secret = create(&bench, "shop").await;
    assert_eq!(bench.apps.open.lock()["shop"], secret);
    let got = bench.get("/apps").await;
    assert_eq!(got.is(200, "Apps")["items"][1]["name"], "shop");
    assert!(!got.text.contains(&secret), "the secret is shown once");
    bench
        .post("/apps", json!({ "name": "shop" }))
        .await
        .is_problem(409, "conflict");

    assert_eq!(bench.delete("/apps/shop").await.status, 204);
    assert!(bench.apps.open.lock().is_empty());
    bench
        .delete("/apps/shop")
        .await
        .is_problem(404, "not-found");
    bench
        .post("/apps", json!({ "name": "shop" }))
        .await
        .is_problem(409, "conflict");
    let got = bench.get("/audit").await;
    let entries = got.is(200, "AuditEntries")["items"].as_array().unwrap();
    let actions: Vec<_> = entries[..2].iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["app.delete", "app.create"]);
    assert_eq!(entries[0]["app"], "shop");
    assert!(!got.text.contains(&secret));
}

#[tokio::test]
async fn an_app_whose_name_no_app_can_have_is_422_and_the_files_own_cannot_be_deleted() {
    let bench = Bench::new();
    for name in ["", "Shop", "1shop", "a b", &"a".repeat(65)] {
        let got = bench.post("/apps", json!({ "name": name })).await;
        assert_eq!(got.is_problem(422, "invalid-field")["field"], "name");
    }
    let got = bench.delete("/apps/default").await;
    let problem = got.is_problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("configuration")
    );
}

#[tokio::test]
async fn stored_apps_are_open_after_a_restart() {
    let bench = Bench::new();
    let secret = create(&bench, "shop").await;
    // What a node that starts knows: nothing.
    bench.apps.open.lock().clear();
    *bench.admin.followed.lock() = Default::default();
    bench.admin.start().await.unwrap();
    assert_eq!(bench.apps.open.lock()["shop"], secret);
}

#[tokio::test]
async fn n3_the_keys_of_an_app_that_calls_too_often_get_429_and_the_operator_does_not() {
    let bench = Bench::new();
    create(&bench, "shop").await;
    let app = AppName::parse("shop").unwrap();
    let key = bench.key_in(&app, KeyRole::AppAdmin);
    let mut refused = None;
    // More than is refilled while they are sent.
    for _ in 0..40 * CALLS_PER_SECOND {
        let got = bench.ask("GET", "/status", "", &key).await;
        if got.status == 429 {
            refused = Some(got);
            break;
        }
    }
    let refused = refused.expect("the app calls faster than it may");
    refused.is_problem(429, "too-many-calls");
    assert_eq!(refused.headers["retry-after"], "1");
    let another = bench.key_in(&app, KeyRole::Deploy);
    bench
        .ask("POST", "/apps/shop/plugins/x/rollback", "{}", &another)
        .await
        .is_problem(429, "too-many-calls");
    assert_eq!(bench.delete("/apps/shop").await.status, 204);
}
