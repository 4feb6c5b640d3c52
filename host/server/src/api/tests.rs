//! What back ends rely on, claim by claim, against a node that remembers what it was asked.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Method as HttpMethod, Request},
};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_control::{Actor, AppName, KeyRole, Store};
use tidegate_protocol::Raw;
use tidegate_protocol::server_api::{HistoryPublication, NodeInfo};
use tower::ServiceExt;

use super::*;

mod bounds;
mod keys;

/// Channels that begin with `!` answer error 102; those with `~` answer later.
#[derive(Default)]
struct FakeNode {
    published: Mutex<Vec<(String, String, String)>>,
    disconnected: Mutex<Vec<String>>,
}

impl Realtime for FakeNode {
    fn publish(&self, app: &AppId, request: PublishRequest) -> Answer<PublishResult> {
        if request.channel.starts_with('!') {
            return Progress::Ready(Err(ApiErrorCode::UnknownChannel.into()));
        }
        let data = String::from_utf8(request.data.as_bytes().to_vec()).unwrap();
        let is_late = request.channel.starts_with('~');
        self.published
            .lock()
            .push((app.to_string(), request.channel, data));
        let result = Ok(PublishResult {
            offset: 7,
            epoch: "e".to_owned(),
        });
        if is_late {
            return Progress::Pending(Box::pin(async {
                tokio::task::yield_now().await;
                result
            }));
        }
        Progress::Ready(result)
    }

    fn history(&self, _: &AppId, request: HistoryRequest) -> Answer<HistoryResult> {
        if request.channel == "binary" {
            return Progress::Ready(Ok(HistoryResult {
                publications: vec![HistoryPublication {
                    data: Raw::from(Bytes::from_static(b"\xff\x00")),
                    ..HistoryPublication::default()
                }],
                ..HistoryResult::default()
            }));
        }
        if request.channel == "large" {
            let data = format!("\"{}\"", "x".repeat(1 << 20));
            let page = HistoryResult {
                publications: vec![HistoryPublication {
                    data: Raw::from(Bytes::from(data)),
                    ..HistoryPublication::default()
                }],
                ..HistoryResult::default()
            };
            return Progress::Pending(Box::pin(async {
                tokio::task::yield_now().await;
                Ok(page)
            }));
        }
        if request.limit == 0 {
            return Progress::Ready(Err(ApiErrorCode::UnrecoverablePosition.into()));
        }
        Progress::Ready(Ok(HistoryResult {
            publications: vec![HistoryPublication {
                data: Raw::from(Bytes::from_static(br#"{"a": 1}"#)),
                offset: 1,
                ..HistoryPublication::default()
            }],
            epoch: "e".to_owned(),
            offset: 1,
        }))
    }

    fn history_remove(&self, _: &AppId, _: HistoryRemoveRequest) -> Answer<EmptyResult> {
        Progress::Ready(Ok(EmptyResult {}))
    }

    fn disconnect(&self, _: &AppId, request: DisconnectRequest) -> Answer<EmptyResult> {
        self.disconnected.lock().push(request.user);
        Progress::Ready(Ok(EmptyResult {}))
    }

    fn info(&self, app: &AppId) -> Answer<InfoResult> {
        Progress::Ready(Ok(InfoResult {
            nodes: vec![NodeInfo {
                uid: "u".to_owned(),
                name: app.to_string(),
                version: "0".to_owned(),
                ..NodeInfo::default()
            }],
        }))
    }
}

struct Bench {
    router: Router,
    node: Arc<FakeNode>,
    key: String,
    store: Arc<Store>,
    _dir: TempDir,
}

struct Got {
    status: u16,
    body: String,
}

impl Bench {
    fn new() -> Self {
        Self::with(ErrorMode::Envelope, false)
    }

    fn with(error_mode: ErrorMode, is_insecure: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let first = store.ensure_first_keys(&Actor::node()).unwrap().unwrap();
        let node = Arc::new(FakeNode::default());
        let config = ApiConfig {
            prefix: "/api".to_owned(),
            error_mode,
            is_insecure,
            keys: vec![ConfiguredKey::new(AppId::default_app(), "from-the-file")],
        };
        Self {
            router: router(config, store.clone(), node.clone()),
            node,
            key: first.api.secret.reveal().to_owned(),
            store,
            _dir: dir,
        }
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Got {
            status,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn post(&self, path: &str, body: &str) -> Got {
        self.post_with(path, body, &[("x-api-key", &self.key)])
            .await
    }

    async fn post_with(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Got {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    #[track_caller]
    fn published(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.node.published.lock())
    }
}

impl Got {
    #[track_caller]
    fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body));
    }
}

const PUBLISH: &str = r#"{"channel":"news","data":{"b":1, "a":[ ]}}"#;

#[tokio::test]
async fn a_publish_carries_its_data_as_written_and_answers_the_position() {
    let bench = Bench::new();
    let got = bench.post("/api/publish", PUBLISH).await;
    got.is(200, r#"{"result":{"offset":7,"epoch":"e"}}"#);
    let expected = ("default", "news", r#"{"b":1, "a":[ ]}"#);
    let published = bench.published();
    let (app, channel, data) = &published[0];
    assert_eq!((app.as_str(), channel.as_str(), data.as_str()), expected);

    let late = bench
        .post("/api/publish", r#"{"channel":"~later","data":1}"#)
        .await;
    late.is(200, r#"{"result":{"offset":7,"epoch":"e"}}"#);
}

#[tokio::test]
async fn base64_data_wins_over_embedded_json() {
    let bench = Bench::new();
    bench
        .post(
            "/api/publish",
            r#"{"channel":"c","data":1,"b64data":"eyJ4IjoyfQ=="}"#,
        )
        .await;
    assert_eq!(bench.published()[0].2, r#"{"x":2}"#);
    let got = bench
        .post("/api/publish", r#"{"channel":"c","b64data":"***"}"#)
        .await;
    got.is(200, r#"{"error":{"code":107,"message":"bad request"}}"#);
}

#[tokio::test]
async fn broken_requests_get_their_stated_statuses() {
    let bench = Bench::new();
    for (path, body, status) in [
        ("/api/publish", "", 400),
        ("/api/publish", "{", 400),
        ("/api/publish", "[]", 400),
        ("/api/publish", r#"{"channel":1,"data":1}"#, 400),
        (
            "/api/publish",
            r#"{"channel":"a","channel":"b","data":1}"#,
            400,
        ),
        ("/api/publish", r#"{"channel":"a","data":1}{"#, 400),
        (
            "/api/publish",
            r#"{"channel":"a","data":1,"nonsense":2}"#,
            422,
        ),
        ("/api/publish", "\u{feff}{}", 400),
        ("/api/nonsense", "{}", 404),
        ("/api/batch", r#"{"commands":7}"#, 400),
        ("/api/batch", r#"{"nonsense":7}"#, 422),
        ("/api", "", 400),
        ("/api", r#"{"method":"publish""#, 400),
    ] {
        let got = bench.post(path, body).await;
        assert_eq!(got.status, status, "{path} {body}");
        assert!(!got.body.contains("nonsense"), "echoes input: {}", got.body);
    }
    assert!(bench.published().is_empty());
}

#[tokio::test]
async fn empty_channels_and_missing_data_are_error_107() {
    let bench = Bench::new();
    for (path, body) in [
        ("/api/publish", r#"{"channel":"","data":1}"#),
        ("/api/publish", r#"{"channel":"c"}"#),
        ("/api/broadcast", r#"{"channels":[],"data":1}"#),
        ("/api/history", r#"{"channel":""}"#),
        ("/api/history_remove", "{}"),
        (
            "/api/disconnect",
            r#"{"user":"u","disconnect":{"code":2000,"reason":"x"}}"#,
        ),
    ] {
        bench
            .post(path, body)
            .await
            .is(200, r#"{"error":{"code":107,"message":"bad request"}}"#);
    }
}

#[tokio::test]
async fn methods_other_than_post_are_405() {
    let bench = Bench::new();
    for method in [HttpMethod::GET, HttpMethod::PUT, HttpMethod::DELETE] {
        for path in ["/api/publish", "/api"] {
            let request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header("x-api-key", &bench.key);
            let got = bench.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(got.status, 405, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_body_above_4_mib_is_413_whether_or_not_it_says_so() {
    let bench = Bench::new();
    let request = || Request::post("/api/publish").header("x-api-key", &bench.key);
    let declared = request()
        .header("content-length", MAX_BODY_BYTES + 1)
        .body(Body::empty())
        .unwrap();
    assert_eq!(bench.send(declared).await.status, 413);
    let chunk = Bytes::from(vec![b' '; 64 * 1024]);
    let endless =
        futures_util::stream::repeat_with(move || Ok::<_, std::convert::Infallible>(chunk.clone()));
    let endless = request().body(Body::from_stream(endless)).unwrap();
    assert_eq!(bench.send(endless).await.status, 413);
}

#[tokio::test]
async fn transport_error_mode_says_it_with_the_status() {
    let bench = Bench::with(ErrorMode::Transport, false);
    let unknown = r#"{"channel":"!c","data":1}"#;
    bench
        .post("/api/publish", unknown)
        .await
        .is(404, r#"{"code":102,"message":"unknown channel"}"#);
    bench
        .post("/api/history", r#"{"channel":"c"}"#)
        .await
        .is(416, r#"{"code":112,"message":"unrecoverable position"}"#);

    let bench = Bench::new();
    let headers = [
        ("x-api-key", bench.key.as_str()),
        ("x-centrifugo-error-mode", "transport"),
    ];
    let got = bench.post_with("/api/publish", unknown, &headers).await;
    got.is(404, r#"{"code":102,"message":"unknown channel"}"#);
    let got = bench.post("/api/publish", unknown).await;
    got.is(200, r#"{"error":{"code":102,"message":"unknown channel"}}"#);
}

#[tokio::test]
async fn a_broadcast_answers_for_each_channel_in_order() {
    let bench = Bench::new();
    let got = bench
        .post(
            "/api/broadcast",
            r#"{"channels":["~a","!b","","c"],"data":[1]}"#,
        )
        .await;
    got.is(
        200,
        concat!(
            r#"{"result":{"responses":[{"result":{"offset":7,"epoch":"e"}},"#,
            r#"{"error":{"code":102,"message":"unknown channel"}},"#,
            r#"{"error":{"code":107,"message":"bad request"}},"#,
            r#"{"result":{"offset":7,"epoch":"e"}}]}}"#
        ),
    );
    assert_eq!(bench.published().len(), 2);
}

#[tokio::test]
async fn a_batch_answers_bare_results_in_order() {
    let bench = Bench::new();
    for parallel in [false, true] {
        let body = format!(
            r#"{{"commands":[{{"publish":{{"channel":"~a","data":1}}}},{{"history_remove":{{"channel":"c"}}}},
            {{"publish":{{"channel":"!b","data":1}}}},{{"nonsense":{{}}}},{{}},{{"publish":{{"x":1}}}}],"parallel":{parallel}}}"#
        );
        let got = bench.post("/api/batch", &body).await;
        got.is(
            200,
            concat!(
                r#"{"replies":[{"publish":{"offset":7,"epoch":"e"}},{"history_remove":{}},"#,
                r#"{"error":{"code":102,"message":"unknown channel"}},"#,
                r#"{"error":{"code":104,"message":"not found"}},"#,
                r#"{"error":{"code":107,"message":"bad request"}},"#,
                r#"{"error":{"code":107,"message":"bad request: the request has a member that this method does not know"}}]}"#
            ),
        );
    }
    bench
        .post("/api/batch", "{}")
        .await
        .is(200, r#"{"replies":[]}"#);
}

#[tokio::test]
async fn the_legacy_form_takes_names_and_numbers_and_echoes_ids() {
    let bench = Bench::new();
    let body = concat!(
        r#"{"id":1,"method":"PUBLISH","params":{"channel":"c","data":1}}"#,
        "\n",
        r#"{"method":0,"params":{"channel":"!c","data":1}}{"id":3,"method":"nonsense"}"#
    );
    let got = bench.post("/api", body).await;
    got.is(
        200,
        concat!(
            r#"{"id":1,"result":{"offset":7,"epoch":"e"}}"#,
            "\n",
            r#"{"error":{"code":102,"message":"unknown channel"}}"#,
            "\n",
            r#"{"id":3,"error":{"code":104,"message":"not found"}}"#
        ),
    );
}

#[tokio::test]
async fn disconnect_info_and_history_reach_the_node() {
    let bench = Bench::new();
    let body = r#"{"user":"u","disconnect":{"code":4501,"reason":"bye"},"whitelist":["x"]}"#;
    bench
        .post("/api/disconnect", body)
        .await
        .is(200, r#"{"result":{}}"#);
    assert_eq!(*bench.node.disconnected.lock(), ["u"]);
    let got = bench
        .post("/api/history", r#"{"channel":"c","limit":-1}"#)
        .await;
    got.is(
        200,
        r#"{"result":{"publications":[{"data":{"a": 1},"offset":1}],"epoch":"e","offset":1}}"#,
    );
    let got = bench.post("/api/info", "{}").await;
    assert!(
        got.body
            .starts_with(r#"{"result":{"nodes":[{"uid":"u","name":"default""#)
    );
}

#[tokio::test]
async fn methods_of_later_releases_are_error_108_by_name_and_rpc_is_unknown() {
    let bench = Bench::new();
    for method in Method::ALL {
        let got = bench.post(&format!("/api/{}", method.name()), "{}").await;
        assert_eq!(got.status, 200, "{method:?}");
        match method {
            Method::Publish
            | Method::Broadcast
            | Method::History
            | Method::HistoryRemove
            | Method::Presence
            | Method::PresenceStats
            | Method::Subscribe => {
                assert!(got.body.contains("107"), "{method:?} {}", got.body);
            }
            Method::Disconnect | Method::Info => assert!(got.body.contains("result")),
            Method::Rpc => assert!(got.body.contains("104")),
            Method::Unsubscribe
            | Method::Channels
            | Method::Refresh
            | Method::MapPublish
            | Method::MapRemove
            | Method::MapReadState
            | Method::MapReadStream
            | Method::MapStats
            | Method::MapClear
            | Method::SharedPollPublish => {
                assert!(got.body.contains("108"), "{method:?} {}", got.body);
                assert!(got.body.contains(method.name()), "{}", got.body);
            }
        }
    }
}

#[tokio::test]
async fn a_subscribe_request_has_its_form_checked() {
    let bench = Bench::new();
    for (request, says) in [
        (r#"{"user":"1"}"#, "107"),
        (r#"{"channel":"a","b64data":"!"}"#, "107"),
        (r#"{"channel":"a","b64info":"/w=="}"#, "107"),
        (
            r#"{"channel":"a","info":{"a":1},"data":1,"expire_at":9,"client":"c","session":"s","recover_since":{"offset":1,"epoch":"e"},"override":{"force_recovery":{"value":true}}}"#,
            "108",
        ),
    ] {
        let got = bench.post("/api/subscribe", request).await;
        assert!(got.body.contains(says), "{request}: {}", got.body);
    }
}

#[tokio::test]
async fn history_that_is_not_json_is_an_error_and_not_an_empty_page() {
    let bench = Bench::new();
    let got = bench
        .post("/api/history", r#"{"channel":"binary","limit":1}"#)
        .await;
    assert!(got.body.contains(r#""code":100"#), "{}", got.body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a back end sends, the answer blames it or obeys it.
    #[test]
    fn no_body_makes_the_server_fail(
        body in prop_oneof![
            r#"[ \[\]{}",:0-9a-z\\]{0,40}"#,
            r#"\{"(channel|channels|data|b64data|commands|method|params|id|tags)":["\[\]{}a-z0-9,: ]{0,20}\}"#,
        ],
        path in prop::sample::select(vec!["/api/publish", "/api/broadcast", "/api/history", "/api/disconnect", "/api/batch", "/api"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let got = runtime.block_on(BENCH.post(path, &body));
        prop_assert!([200, 400, 422].contains(&got.status), "{} {}", got.status, got.body);
        if got.status == 200 {
            for line in got.body.lines() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{}", got.body);
            }
        }
    }
}

/// One for all cases: opening a store takes longer than a case.
static BENCH: std::sync::LazyLock<Bench> = std::sync::LazyLock::new(Bench::new);
