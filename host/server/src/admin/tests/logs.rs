//! Logs of plugins: what is asked for, who may follow, and what ends it.

use std::net::SocketAddr;

use axum::{
    body::{Body, BodyDataStream},
    extract::ConnectInfo,
    http::Request,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tidegate_control::{AppName, KeyRole};
use tower::ServiceExt as _;

use super::fake::Bench;
use crate::admin::logs::{FOLLOWERS_OF_APP, FOLLOWERS_OF_OPERATORS};

const LOGS: &str = "/apps/default/plugins/chatty/logs";

async fn bench() -> Bench {
    let bench = Bench::new();
    bench
        .upload("chatty", "filtering; one")
        .await
        .is(201, "UploadedVersion");
    bench
}

/// A follower's answer, its body unread.
async fn follow(bench: &Bench, key: &str) -> (u16, BodyDataStream) {
    let request = Request::builder()
        .uri(format!("/admin/v1{LOGS}/follow"))
        .header("authorization", format!("Bearer {key}"))
        .extension(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
    let request = request.body(Body::empty()).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    (
        response.status().as_u16(),
        response.into_body().into_data_stream(),
    )
}

/// The JSON values of the next chunk; `None` at the end.
async fn chunk(body: &mut BodyDataStream) -> Option<Vec<Value>> {
    let bytes = body.next().await?.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    let lines = text.lines().filter(|line| !line.is_empty());
    Some(
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

#[tokio::test]
async fn the_query_says_which_lines() {
    let bench = bench().await;
    let got = bench.get(LOGS).await;
    got.is(200, "LogItems");
    assert!(got.text.contains("100 of chatty"), "{}", got.text);
    let asked = format!("{LOGS}?limit=7&user=al%20ice&trace=abc&level=warn&version=3");
    let got = bench.get(&asked).await;
    for part in ["7 of chatty", "al ice", "abc", "Warn", "version: Some(3)"] {
        assert!(got.text.contains(part), "{part}: {}", got.text);
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("level=loud", "level"),
        ("version=-1", "version"),
        ("version=5000000000", "version"),
    ] {
        let got = bench.get(&format!("{LOGS}?{query}")).await;
        let problem = got.is_problem(422, "invalid-field");
        assert_eq!(problem["field"], field);
    }
    let got = bench.get("/apps/default/plugins/nobody/logs").await;
    got.is_problem(404, "not-found");
}

#[tokio::test]
async fn n2_the_log_of_another_app_is_not_there() {
    let bench = bench().await;
    let other = bench.key_of_other_app(KeyRole::AppAdmin);
    for path in [LOGS.to_owned(), format!("{LOGS}/follow")] {
        let got = bench.ask("GET", &path, "", &other).await;
        got.is_problem(404, "not-found");
    }
    // And it has not taken a place.
    let got = bench
        .ask("GET", &LOGS.replace("chatty", "nobody"), "", &bench.key)
        .await;
    got.is_problem(404, "not-found");
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_lines_then_signs_of_life_and_an_end_when_the_node_drains() {
    let bench = bench().await;
    let (status, mut body) = follow(&bench, &bench.key).await;
    assert_eq!(status, 200);
    let lines = chunk(&mut body).await.unwrap();
    assert_eq!(
        (&lines[0]["message"], &lines[1]["message"]),
        (&json!("one"), &json!("two"))
    );
    assert_eq!(chunk(&mut body).await, Some(Vec::new()));
    bench.admin.drain();
    let end = json!({ "event": "end", "reason": "the node shuts down" });
    assert_eq!(chunk(&mut body).await, Some(vec![end.clone()]));
    assert_eq!(chunk(&mut body).await, None);
    let (_, mut late) = follow(&bench, &bench.key).await;
    assert_eq!(chunk(&mut late).await, Some(vec![end]));
}

#[tokio::test]
async fn a8_followers_end_with_their_key_and_with_their_app() {
    let bench = bench().await;
    let app = AppName::default_app();
    let made = bench
        .post("/apps/default/keys", json!({ "role": "deploy" }))
        .await;
    let secret = made.body["secret"].as_str().unwrap().to_owned();
    let id = made.body["id"].as_str().unwrap().to_owned();
    let (_, mut meant) = follow(&bench, &secret).await;
    let (_, mut other) = follow(&bench, &bench.key_in(&app, KeyRole::Deploy)).await;
    assert_eq!(chunk(&mut meant).await.unwrap().len(), 2);
    assert_eq!(chunk(&mut other).await.unwrap().len(), 2);
    bench.delete(&format!("/apps/default/keys/{id}")).await;
    assert_eq!(chunk(&mut meant).await.unwrap()[0]["event"], "end");
    assert_eq!(chunk(&mut meant).await, None);
    assert_eq!(follow(&bench, &secret).await.0, 401);

    bench.admin.followers.end_app(&app);
    assert_eq!(chunk(&mut other).await.unwrap()[0]["event"], "end");
}

#[tokio::test]
async fn n3_an_apps_followers_are_bounded_and_leave_operators_their_places() {
    let bench = bench().await;
    let key = bench.key_in(&AppName::default_app(), KeyRole::Deploy);
    let mut bodies = Vec::new();
    for _ in 0..FOLLOWERS_OF_APP {
        let (status, body) = follow(&bench, &key).await;
        assert_eq!(status, 200);
        bodies.push(body);
    }
    let refused = bench.ask("GET", &format!("{LOGS}/follow"), "", &key).await;
    refused.is_problem(429, "too-many-followers");
    assert!(refused.headers.contains_key("retry-after"));
    let mut operators = Vec::new();
    for _ in 0..FOLLOWERS_OF_OPERATORS {
        let (status, body) = follow(&bench, &bench.key).await;
        assert_eq!(status, 200);
        operators.push(body);
    }
    assert_eq!(follow(&bench, &bench.key).await.0, 429);
    // One that leaves makes room.
    bodies.pop();
    assert_eq!(follow(&bench, &key).await.0, 200);
}
