//! Who is where, through the API.

use std::sync::atomic::Ordering;

use tidegate_realtime::node::SessionPlace;

use super::fake::Bench;

const ALICE: &str = "0f8c2f6e-6f9f-4d39-a0a5-3d8b8f1f4c55";

fn place(client: &str, user: &str) -> SessionPlace {
    SessionPlace {
        client: client.to_owned(),
        user: user.to_owned(),
        node: "node".to_owned(),
        since_ms: 1_700_000_000_000,
        transport: "websocket".to_owned(),
        name: "js".to_owned(),
        version: "5".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        silent: false,
    }
}

#[tokio::test]
async fn sessions_are_listed_shown_and_ended() {
    let bench = Bench::new();
    *bench.apps.sessions.lock() = vec![
        place(ALICE, "alice"),
        place("1f8c2f6e-6f9f-4d39-a0a5-3d8b8f1f4c55", "bob"),
    ];
    let got = bench.get("/apps/default/sessions").await;
    assert_eq!(
        got.is(200, "Sessions")["items"].as_array().unwrap().len(),
        2
    );
    let got = bench.get("/apps/default/sessions?user=alice&limit=1").await;
    let found = got.is(200, "Sessions");
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(found["items"][0]["client"], ALICE);
    let one = format!("/apps/default/sessions/{ALICE}");
    assert_eq!(bench.get(&one).await.is(200, "Session")["user"], "alice");
    assert_eq!(bench.delete(&one).await.status, 204);
    let got = bench.get("/apps/default/audit").await;
    let entry = got.is(200, "AuditEntries")["items"][0].clone();
    assert_eq!(
        (&entry["action"], &entry["object"], &entry["result"]),
        (
            &"session.kick".into(),
            &ALICE.into(),
            &"ok: user alice".into()
        )
    );
    // What is not there is not ended.
    bench.get(&one).await.is_problem(404, "not-found");
    bench.delete(&one).await.is_problem(404, "not-found");
    bench
        .get("/apps/default/sessions/alice")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn a_page_has_its_bounds_and_a_cluster_that_cannot_be_asked_is_said_so() {
    let bench = Bench::new();
    for limit in ["0", "1001"] {
        let path = format!("/apps/default/sessions?limit={limit}");
        bench.get(&path).await.is_problem(422, "invalid-field");
    }
    bench.apps.is_cut_off.store(true, Ordering::Relaxed);
    bench
        .get("/apps/default/sessions")
        .await
        .is_problem(503, "nodes-unreachable");
}
