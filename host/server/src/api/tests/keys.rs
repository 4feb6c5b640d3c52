//! Keys: which one opens what, and which app it is for.

use super::*;

#[tokio::test]
async fn a8_only_a_valid_api_key_opens_and_a_refusal_has_no_body() {
    let bench = Bench::new();
    let key = bench.key.clone();
    for (headers, query, status) in [
        (vec![], "", 401),
        (vec![("x-api-key", "wrong")], "", 401),
        (vec![("x-api-key", "")], "", 401),
        (vec![("x-api-key", key.as_str())], "", 200),
        (vec![("x-api-key", "from-the-file")], "", 200),
        // A wrong key in the first place is not made good by a right one in the second.
        (
            vec![
                ("x-api-key", "wrong"),
                ("authorization", "apikey from-the-file"),
            ],
            "",
            401,
        ),
        (vec![("authorization", "apikey from-the-file")], "", 200),
        (vec![("authorization", "ApiKey from-the-file")], "", 200),
        (vec![("authorization", "Bearer from-the-file")], "", 401),
        (vec![], "?api_key=from-the-file", 200),
        (vec![], "?x=1&api_key=from%2Dthe-file", 200),
        (vec![], "?api_key=", 401),
    ] {
        let got = bench
            .post_with(&format!("/api/publish{query}"), PUBLISH, &headers)
            .await;
        assert_eq!(got.status, status, "{headers:?} {query}");
        if status == 401 {
            assert_eq!(got.body, "");
        }
    }
}

#[tokio::test]
async fn a8_an_admin_key_does_not_open_the_server_api() {
    let bench = Bench::new();
    let admin = bench
        .store
        .create_key(&Actor::node(), KeyRole::Operator, None, &[], "")
        .unwrap();
    let headers = [("x-api-key", admin.secret.reveal())];
    bench
        .post_with("/api/publish", PUBLISH, &headers)
        .await
        .is(401, "");
}

#[tokio::test]
async fn n1_the_key_alone_decides_the_app() {
    let bench = Bench::new();
    let other = AppName::parse("other").unwrap();
    bench.store.create_app(&Actor::node(), &other).unwrap();
    let key = bench
        .store
        .create_key(&Actor::node(), KeyRole::Api, Some(&other), &[], "")
        .unwrap();
    let headers = [("x-api-key", key.secret.reveal())];
    bench.post_with("/api/publish", PUBLISH, &headers).await;
    bench.post("/api/publish", PUBLISH).await;
    let apps: Vec<_> = bench.published().into_iter().map(|(app, ..)| app).collect();
    assert_eq!(apps, ["other", "default"]);
    // No member of the request can name an app.
    let body = r#"{"channel":"c","data":1,"app":"other"}"#;
    assert_eq!(bench.post("/api/publish", body).await.status, 422);
}

#[tokio::test]
async fn a8_a_key_narrowed_to_methods_may_call_no_other() {
    let bench = Bench::new();
    let app = AppName::default_app();
    let key = bench
        .store
        .create_key(
            &Actor::node(),
            KeyRole::Api,
            Some(&app),
            &["history".to_owned()],
            "",
        )
        .unwrap();
    let headers = [("x-api-key", key.secret.reveal())];
    let history = r#"{"channel":"c","limit":1}"#;
    let got = bench.post_with("/api/history", history, &headers).await;
    assert_eq!(got.status, 200);
    let got = bench.post_with("/api/publish", PUBLISH, &headers).await;
    assert_eq!(got.status, 403);
    let batch = format!(r#"{{"commands":[{{"publish":{PUBLISH}}}]}}"#);
    let got = bench.post_with("/api/batch", &batch, &headers).await;
    got.is(
        200,
        r#"{"replies":[{"error":{"code":103,"message":"permission denied"}}]}"#,
    );
    assert!(bench.published().is_empty());
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let bench = Bench::new();
    let key = bench.store.keys(Some(&AppName::default_app())).unwrap();
    bench
        .store
        .revoke_key(&Actor::node(), None, &key[0].id)
        .unwrap();
    bench.post("/api/publish", PUBLISH).await.is(401, "");
}

#[tokio::test]
async fn insecure_mode_opens_app_default_alone() {
    let bench = Bench::with(ErrorMode::Envelope, true);
    let got = bench.post_with("/api/publish", PUBLISH, &[]).await;
    assert_eq!(got.status, 200);
    assert_eq!(bench.published()[0].0, "default");
}
