//! What holds for every route, walked over the table and over the document made from it.

use std::{collections::BTreeSet, net::SocketAddr};

use axum::{body::Body, extract::ConnectInfo, http::Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_control::{AppName, KeyRole};

use super::fake::Bench;
use crate::admin::{
    access::MAX_FAILURES,
    problem::{CODES, Problem},
    routes::{PREFIX, ROUTES, RequestBody, Route, Verb},
    schemas,
};

/// The route's path with every parameter filled in, below the prefix.
fn path(route: &Route, app: &str) -> String {
    route
        .path
        .replace("{app}", app)
        .replace("{plugin}", "filter")
        .replace("{version}", "1")
        .replace("{binding}", "bnd_0")
        .replace("{key}", "key_0")
        .replace("{trace}", "x")
        .replace("{client}", "0f8c2f6e-6f9f-4d39-a0a5-3d8b8f1f4c55")
}

fn method(route: &Route) -> String {
    route.method.as_str().to_uppercase()
}

/// A body that the route takes.
fn fitting_body(route: &Route) -> &'static str {
    match route.request {
        RequestBody::None => "",
        RequestBody::Wasm => "filtering; x",
        RequestBody::Json("ActivateRequest") => r#"{"version":1}"#,
        RequestBody::Json("BindRequest") => r#"{"plugin":"filter","hook":"filtering"}"#,
        RequestBody::Json("AppRequest") => r#"{"name":"shop"}"#,
        RequestBody::Json("AppKeyRequest") => r#"{"role":"api"}"#,
        RequestBody::Json(_) => "{}",
    }
}

#[tokio::test]
async fn m4_the_document_declares_every_route_with_its_role_and_its_shapes() {
    let bench = Bench::new();
    let got = bench.get("/openapi.json").await;
    assert_eq!(got.body["openapi"], "3.1.0");
    let paths = got.body["paths"].as_object().unwrap();
    let declared: usize = paths
        .values()
        .map(|path| path.as_object().unwrap().len())
        .sum();
    assert_eq!(declared, ROUTES.len());
    let mut operations = BTreeSet::new();
    for route in ROUTES {
        let operation = &paths[&format!("{PREFIX}{}", route.path)][route.method.as_str()];
        assert_eq!(operation["x-role"], route.role.as_str(), "{}", route.path);
        assert!(operations.insert(operation["operationId"].as_str().unwrap()));
        assert!(!operation["summary"].as_str().unwrap().is_empty());
    }
    check_references(&got.body, &got.body);
}

/// Every reference of the document leads somewhere.
fn check_references(value: &Value, document: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            members
                .values()
                .for_each(|member| check_references(member, document));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| check_references(item, document)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn m4_no_route_answers_without_a_valid_key_and_all_refusals_are_alike() {
    let bench = Bench::new();
    let api_key = bench.key_in(&AppName::default_app(), KeyRole::Api);
    let mut refusals = BTreeSet::new();
    for route in ROUTES {
        for key in ["", "wrong", api_key.as_str()] {
            let got = bench
                .ask(
                    &method(route),
                    &path(route, "default"),
                    fitting_body(route),
                    key,
                )
                .await;
            got.is_problem(401, "unauthorized");
            assert_eq!(got.headers["www-authenticate"], "Bearer");
            refusals.insert(got.text);
        }
        let request = Request::builder()
            .method(method(route).as_str())
            .uri(format!("{PREFIX}{}", path(route, "default")))
            .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
        let got = bench.send(request.body(Body::empty()).unwrap()).await;
        got.is_problem(401, "unauthorized");
        refusals.insert(got.text);
    }
    assert_eq!(refusals.len(), 1);
}

#[tokio::test]
async fn m4_a_role_below_the_routes_is_403_and_the_routes_own_role_is_not() {
    let bench = Bench::new();
    let app = AppName::default_app();
    for route in ROUTES {
        for role in [KeyRole::Deploy, KeyRole::AppAdmin] {
            let key = bench.key_in(&app, role);
            let got = bench
                .ask(
                    &method(route),
                    &path(route, "default"),
                    fitting_body(route),
                    &key,
                )
                .await;
            assert_eq!(
                got.status == 403,
                role < route.role,
                "{} {role:?}",
                route.path
            );
        }
    }
}

#[tokio::test]
async fn n2_another_apps_objects_and_missing_ones_get_the_same_answer_on_every_route() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    let key = bench.key_of_other_app(KeyRole::AppAdmin);
    for route in ROUTES.iter().filter(|route| route.path.contains("{app}")) {
        let body = fitting_body(route);
        // There are more routes than calls in a second.
        let other = AppName::parse("other").unwrap();
        bench.admin.quotas.forget(&other);
        let foreign = bench
            .ask(&method(route), &path(route, "default"), body, &key)
            .await;
        let missing = bench
            .ask(&method(route), &path(route, "missing"), body, &key)
            .await;
        if route.role <= KeyRole::AppAdmin {
            foreign.is_problem(404, "not-found");
        } else {
            // Said before the app is looked at.
            foreign.is_problem(403, "forbidden");
        }
        assert_eq!(foreign.text, missing.text, "{}", route.path);
    }
    let got = bench.ask("GET", "/apps", "", &key).await;
    let apps = got.is(200, "Apps")["items"].as_array().unwrap().clone();
    assert_eq!((apps.len(), &apps[0]["name"]), (1, &json!("other")));
}

#[tokio::test]
async fn m8_unknown_members_and_parameters_are_refused_on_every_route() {
    let bench = Bench::new();
    for route in ROUTES {
        let got = bench
            .ask(
                &method(route),
                &format!("{}?nonsense=1", path(route, "default")),
                fitting_body(route),
                &bench.key,
            )
            .await;
        got.is_problem(422, "unknown-field");
        assert!(!got.text.contains("nonsense"), "echoes input");
        let RequestBody::Json(schema) = route.request else {
            continue;
        };
        let mut body: Value = serde_json::from_str(fitting_body(route)).unwrap();
        body["nonsense"] = json!("role");
        let got = bench
            .ask(
                &method(route),
                &path(route, "default"),
                &body.to_string(),
                &bench.key,
            )
            .await;
        let problem = got.is_problem(422, "unknown-field");
        for member in schemas::members(schema) {
            assert!(
                problem["detail"].as_str().unwrap().contains(member),
                "{schema} {member}"
            );
        }
        assert!(!got.text.contains("nonsense"), "echoes input");
        for broken in ["[]", "{", "7"] {
            let got = bench
                .ask(&method(route), &path(route, "default"), broken, &bench.key)
                .await;
            got.is_problem(400, "invalid-json");
        }
    }
}

#[tokio::test]
async fn m2_a_body_of_another_type_is_415_so_that_forms_of_browsers_cannot_post() {
    let bench = Bench::new();
    for route in ROUTES
        .iter()
        .filter(|route| route.request != RequestBody::None)
    {
        for content in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
        ] {
            let request = Request::post(format!("{PREFIX}{}", path(route, "default")))
                .header("authorization", format!("Bearer {}", bench.key))
                .header("content-type", content)
                .body(Body::from(fitting_body(route)));
            let got = bench.send(request.unwrap()).await;
            got.is_problem(415, "unsupported-media-type");
        }
    }
}

#[tokio::test]
async fn every_answer_forbids_caching_and_sniffing() {
    let bench = Bench::new();
    for got in [
        bench.get("/status").await,
        bench.get("/nowhere").await,
        bench.delete("/status").await,
        bench.ask("GET", "/status", "", "wrong").await,
    ] {
        assert_eq!(got.headers["cache-control"], "no-store");
        assert_eq!(got.headers["x-content-type-options"], "nosniff");
    }
    bench.get("/nowhere").await.is_problem(404, "not-found");
    bench
        .delete("/status")
        .await
        .is_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn the_simple_lists_have_their_declared_shapes() {
    let bench = Bench::new();
    bench.upload("filter", "filtering; one").await;
    for (path, schema) in [
        ("/status", "Status"),
        ("/statistics", "Statistics"),
        ("/apps/default/statistics", "HookStatisticsList"),
        ("/apps/default/pipelines?hook=routing", "Pipelines"),
        (
            "/apps/default/plugins/filter/statistics",
            "HookStatisticsList",
        ),
        ("/apps/default/schedule", "Schedule"),
        ("/apps", "Apps"),
        ("/audit", "AuditEntries"),
        ("/apps/default/plugins", "Plugins"),
        ("/apps/default/plugins/filter/versions/1", "Version"),
        ("/keys", "Keys"),
    ] {
        bench.get(path).await.is(200, schema);
    }
    let got = bench.ask("GET", "/status", "", "from-the-file").await;
    assert_eq!(got.is(200, "Status")["role"], "operator");
}

#[tokio::test]
async fn statistics_come_in_the_order_that_was_asked_for() {
    let bench = Bench::new();
    for (sort, first) in [("calls", "quick"), ("p99", "slow")] {
        let path = format!("/apps/default/statistics?sort={sort}");
        let got = bench.get(&path).await;
        assert_eq!(
            got.is(200, "HookStatisticsList")["items"][0]["plugin"],
            first
        );
    }
    bench
        .get("/apps/default/statistics?sort=size")
        .await
        .is_problem(422, "invalid-field");
    bench
        .get("/apps/default/plugins/nobody/statistics")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn a_pipeline_is_asked_for_by_hook_and_channel() {
    let bench = Bench::new();
    let got = bench
        .get("/apps/default/pipelines?hook=routing&channel=chat:1")
        .await;
    let pipeline = &got.is(200, "Pipelines")["items"][0];
    assert_eq!(pipeline["hook"], "routing");
    assert_eq!(pipeline["scope"], "chat:1");
    assert!(got.is(200, "Pipelines")["warnings"].is_null());
    let got = bench.get("/apps/default/pipelines?channel=caht:1").await;
    let warning = &got.is(200, "Pipelines")["warnings"][0];
    let said = "the configuration has no namespace for this channel; it has chat";
    assert_eq!(warning, said);
    let got = bench.get("/apps/default/pipelines?channel=").await;
    let warning = &got.is(200, "Pipelines")["warnings"][0];
    let said = "no channel can have this name: the channel name is empty";
    assert_eq!(warning, said);
    bench
        .get("/apps/default/pipelines?hook=sleeping")
        .await
        .is_problem(422, "invalid-field");
}

#[tokio::test]
async fn m3_an_address_that_guesses_is_shut_out_with_the_right_key_too() {
    let bench = Bench::new();
    let ask = |ip: [u8; 4], key: &str| {
        Request::get("/admin/v1/status")
            .header("authorization", format!("Bearer {key}"))
            .extension(ConnectInfo(SocketAddr::from((ip, 9))))
            .body(Body::empty())
            .unwrap()
    };
    for _ in 0..MAX_FAILURES {
        let got = bench.send(ask([192, 0, 2, 1], "wrong")).await;
        got.is_problem(401, "unauthorized");
    }
    let got = bench.send(ask([192, 0, 2, 1], &bench.key)).await;
    got.is_problem(429, "too-many-attempts");
    assert_eq!(got.headers["retry-after"], "60");
    assert_eq!(
        bench.send(ask([192, 0, 2, 2], &bench.key)).await.status,
        200
    );
}

#[test]
fn every_code_makes_a_problem() {
    let mut seen = BTreeSet::new();
    for (code, ..) in CODES {
        assert_eq!(Problem::new(code, "").code(), *code);
        assert!(seen.insert(code));
    }
}

#[test]
fn routes_that_change_something_are_not_gets() {
    for route in ROUTES {
        assert_eq!(
            route.method == Verb::Get,
            ["get", "list", "explain"]
                .iter()
                .any(|verb| route.operation.starts_with(verb)),
            "{}",
            route.operation
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever JSON comes to whatever route, the answer blames the caller or obeys: never a 5xx.
    #[test]
    fn m8_no_body_makes_the_admin_api_fail(
        route in 0..ROUTES.len(),
        member in prop::sample::select(vec!["version", "plugin", "hook", "scope", "config", "position", "failure_policy", "role", "label", "methods"]),
        value in prop_oneof![
            Just(json!(null)), Just(json!(-1)), Just(json!(u64::MAX)), Just(json!(1.5)), Just(json!([])), Just(json!({})),
            Just(json!("\u{202e}\u{0}<script>")), Just(json!("a".repeat(70_000))), Just(json!([[[[["x"]]]]])),
        ],
    ) {
        let route = &ROUTES[route];
        let mut body: Value = serde_json::from_str(fitting_body(route)).unwrap_or_else(|_| json!({}));
        body[member] = value;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let got = runtime.block_on(async {
            BENCH.ask(&method(route), &path(route, "default"), &body.to_string(), &BENCH.key).await
        });
        prop_assert!(got.status < 500, "{} {}", got.status, got.text);
        prop_assert!(!got.text.contains("<script>"), "echoes input: {}", got.text);
    }
}

/// One for all cases: opening a store takes longer than a case.
static BENCH: std::sync::LazyLock<Bench> = std::sync::LazyLock::new(Bench::new);

#[test]
fn the_guide_shows_every_route_and_every_code() {
    const GUIDE: &str = include_str!("../../../../../docs/admin-api.md");
    for route in ROUTES {
        let row = format!(
            "| `{} {}` | {} | {} |",
            method(route),
            route.path,
            route.role.as_str(),
            route.summary
        );
        assert!(GUIDE.contains(&row), "docs/admin-api.md lacks: {row}");
    }
    for (code, status, title) in CODES {
        let row = format!("| `{code}` | {} | {title} |", status.as_u16());
        assert!(GUIDE.contains(&row), "docs/admin-api.md lacks: {row}");
    }
}
