//! Apps on one node never meet: same channels, same users, keys, plugins, tokens.

use serde_json::{Value, json};
use tidegate_protocol::Codec;
use tidegate_tests::{
    Client, Node,
    api::Http,
    client::with_token,
    guests,
    token::{SECRET, mint, mint_with, unix_time},
};

const CODECS: [Codec; 2] = [Codec::Json, Codec::Protobuf];
const ROOM: &str = "chat:lobby";

/// A created app, with an API key and an app-admin key of its own.
struct App {
    name: &'static str,
    token_secret: String,
    api_key: String,
    admin_key: String,
}

impl App {
    async fn create(node: &Node, name: &'static str) -> Self {
        let made = node.cli(&["app", "create", name, "--json"]).await.json();
        assert_eq!(made["name"], name);
        let key = async |role: &str| {
            let made = node
                .cli(&["app", "keys", name, "--create", role, "--json"])
                .await
                .json();
            assert_eq!((&made["app"], &made["role"]), (&json!(name), &json!(role)));
            made["secret"].as_str().expect("a secret").to_owned()
        };
        Self {
            name,
            token_secret: made["token_secret"].as_str().expect("a secret").to_owned(),
            api_key: key("api").await,
            admin_key: key("app-admin").await,
        }
    }

    fn api(&self, node: &Node) -> Http {
        Http::new(node.client_addr()).header("X-API-Key", &self.api_key)
    }

    fn admin(&self, node: &Node) -> Http {
        Http::new(node.admin_addr()).header("Authorization", &format!("Bearer {}", self.admin_key))
    }

    fn token(&self, user: &str) -> String {
        let claims = json!({ "sub": user, "exp": unix_time(600) });
        mint_with(&self.token_secret, &json!({ "alg": "HS256" }), &claims)
    }

    async fn open(&self, node: &Node, codec: Codec) -> Client {
        let address = node.client_addr();
        Client::open_at(
            &format!("ws://{address}/apps/{}/connection/websocket", self.name),
            codec,
        )
        .await
    }

    /// A client of this app as `user`, in the room.
    async fn join(&self, node: &Node, codec: Codec, user: &str) -> Client {
        let mut client = self.open(node, codec).await;
        let reply = client.connect_with(with_token(&self.token(user))).await;
        assert!(reply.connect.is_some(), "{reply:?}");
        assert!(client.subscribe(ROOM).await.subscribe.is_some());
        client
    }
}

fn node() -> Node {
    Node::builder()
        .set("client.token.hmac_secret_key", json!(SECRET))
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "chat", "history_size": 10, "history_ttl": "60s",
            "allow_subscribe_for_client": true, "allow_publish_for_client": true, "allow_history_for_client": true,
        }))
        .start()
}

async fn publish(api: &Http, data: &Value) {
    api.call("publish", &json!({ "channel": ROOM, "data": data }))
        .await;
}

#[tokio::test]
async fn n1_the_same_channel_and_user_in_two_apps_never_meet() {
    let node = node();
    let (shop, game) = (
        App::create(&node, "shop").await,
        App::create(&node, "game").await,
    );
    for (round, codec) in (1..).zip(CODECS) {
        let mut in_shop = shop.join(&node, codec, "ann").await;
        let mut in_game = game.join(&node, codec, "ann").await;
        let default_token = mint(&json!({ "sub": "ann", "exp": unix_time(600) }));
        let mut in_default = Client::connect(&node, codec, with_token(&default_token)).await;
        assert!(in_default.subscribe(ROOM).await.subscribe.is_some());

        // Each message is the next one of its own stream, for its own app.
        assert!(
            in_shop
                .publish(ROOM, &json!("shop"))
                .await
                .publish
                .is_some()
        );
        publish(&game.api(&node), &json!("game")).await;
        publish(&node.api(), &json!("default")).await;
        assert_eq!(in_shop.publication().await, (json!("shop"), round));
        assert_eq!(in_game.publication().await, (json!("game"), round));
        assert_eq!(in_default.publication().await, (json!("default"), round));
    }
    let kept = shop
        .api(&node)
        .call("history", &json!({ "channel": ROOM, "limit": 10 }))
        .await;
    let publications = kept["publications"].as_array().unwrap();
    assert_eq!(publications.len(), 2);
    assert!(
        publications
            .iter()
            .all(|publication| publication["data"] == "shop")
    );
}

#[tokio::test]
async fn n1_a_disconnect_of_a_user_ends_that_user_in_one_app_only() {
    let node = node();
    let (shop, game) = (
        App::create(&node, "shop").await,
        App::create(&node, "game").await,
    );
    let mut in_shop = shop.join(&node, Codec::Json, "ann").await;
    let mut in_game = game.join(&node, Codec::Json, "ann").await;
    shop.api(&node)
        .call("disconnect", &json!({ "user": "ann" }))
        .await;
    assert_eq!(in_shop.closed().await.code, 3503);
    publish(&game.api(&node), &json!("still here")).await;
    assert_eq!(in_game.publication().await.0, "still here");
}

#[tokio::test]
async fn n1_a_token_of_one_app_opens_no_other() {
    let node = node();
    let (shop, game) = (
        App::create(&node, "shop").await,
        App::create(&node, "game").await,
    );
    let default_token = mint(&json!({ "sub": "ann", "exp": unix_time(600) }));
    for codec in CODECS {
        for token in [game.token("ann"), default_token.clone()] {
            let mut client = shop.open(&node, codec).await;
            client.send_commands(vec![connect(&token)]).await;
            assert_eq!(client.closed().await.code, 3500);
        }
        let mut client = Client::open(&node, codec).await;
        client
            .send_commands(vec![connect(&shop.token("ann"))])
            .await;
        assert_eq!(client.closed().await.code, 3500);
        // What app `default` allows is not allowed in a created app: nobody comes in without a token, or with one
        // that does not end (threat model A4).
        let endless = mint_with(
            &shop.token_secret,
            &json!({ "alg": "HS256" }),
            &json!({ "sub": "ann" }),
        );
        for (token, code) in [("", 3501), (endless.as_str(), 3500)] {
            let mut client = shop.open(&node, codec).await;
            client.send_commands(vec![connect(token)]).await;
            assert_eq!(client.closed().await.code, code, "{token:?}");
        }
    }
}

fn connect(token: &str) -> tidegate_protocol::Command {
    tidegate_protocol::Command {
        connect: Some(Box::new(with_token(token))),
        ..tidegate_protocol::Command::default()
    }
}

#[tokio::test]
async fn n2_the_keys_of_one_app_cannot_act_on_the_other_or_learn_of_it() {
    let node = node();
    let (shop, game) = (
        App::create(&node, "shop").await,
        App::create(&node, "game").await,
    );
    let wasm = std::fs::read(guests::wasm("guest-stamp")).unwrap();
    let admin = game.admin(&node);
    for app in ["shop", "default", "no-such-app"] {
        let uploaded = admin
            .send(
                "POST".parse().unwrap(),
                &format!("/admin/v1/apps/{app}/plugins/stamp/versions"),
                "application/wasm",
                wasm.clone(),
            )
            .await;
        let listed = admin.get(&format!("/admin/v1/apps/{app}/keys")).await;
        for answer in [uploaded, listed] {
            assert_eq!(answer.status, 404);
            assert_eq!(answer.json()["detail"], "the app does not exist");
        }
    }
    let listed = admin.get("/admin/v1/apps").await.json();
    assert_eq!(
        listed["items"].as_array().map(Vec::len),
        Some(1),
        "{listed}"
    );
    for (path, status) in [("/admin/v1/audit", 403), ("/admin/v1/keys", 403)] {
        assert_eq!(admin.get(path).await.status, status);
    }
    assert_eq!(
        admin
            .post("/admin/v1/apps", &json!({ "name": "mine" }))
            .await
            .status,
        403
    );
    // Server API and admin API do not take each other's keys.
    let crossed =
        Http::new(node.admin_addr()).header("Authorization", &format!("Bearer {}", shop.api_key));
    assert_eq!(crossed.get("/admin/v1/apps").await.status, 401);
    let crossed = Http::new(node.client_addr()).header("X-API-Key", &shop.admin_key);
    assert_eq!(crossed.post("/api/info", &json!({})).await.status, 401);
}

#[tokio::test]
async fn n1_a_plugin_bound_in_one_app_judges_nothing_of_the_other() {
    let node = node();
    let (shop, game) = (
        App::create(&node, "shop").await,
        App::create(&node, "game").await,
    );
    let options = ["--activate", "--bind", "filtering", "--app", "shop"];
    let stamp = guests::wasm("guest-stamp");
    node.push(&stamp, "stamp", &options).await.json();
    let mut in_shop = shop.join(&node, Codec::Json, "ann").await;
    let mut in_game = game.join(&node, Codec::Json, "ann").await;
    publish(&shop.api(&node), &json!({ "s": 1 })).await;
    publish(&game.api(&node), &json!({ "s": 1 })).await;
    assert_eq!(in_shop.publication().await.0, json!({ "s": 1, "v": 1 }));
    assert_eq!(in_game.publication().await.0, json!({ "s": 1 }));
}

#[tokio::test]
async fn an_app_outlives_a_restart_and_a_deleted_one_ends_for_its_clients_and_keys() {
    let data = tempfile::tempdir().unwrap();
    let start = || {
        Node::builder()
            .namespace(json!({ "name": "chat", "allow_subscribe_for_client": true }))
            .data_dir(data.path())
            .start()
    };
    let mut first = start();
    let shop = App::create(&first, "shop").await;
    first.kill();
    let node = start();
    let mut ann = shop.join(&node, Codec::Json, "ann").await;
    publish(&shop.api(&node), &json!(1)).await;
    assert_eq!(ann.publication().await.0, 1);

    let deleted = node.cli(&["app", "delete", "shop", "--json"]).await.json();
    assert_eq!(deleted, json!({ "deleted": "shop" }));
    assert_eq!(ann.closed().await.code, 3503);
    assert_eq!(
        shop.api(&node).post("/api/info", &json!({})).await.status,
        401
    );
    assert_eq!(shop.admin(&node).get("/admin/v1/apps").await.status, 401);
    let listed = node.cli(&["app", "list", "--json"]).await.json();
    assert_eq!(listed["apps"].as_array().map(Vec::len), Some(1));
    let again = node.cli(&["app", "create", "shop"]).await;
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.contains("choose another name"),
        "{}",
        again.stderr
    );
    let path = format!("ws://{}/apps/shop/connection/websocket", node.client_addr());
    assert_eq!(Client::try_open_at(&path).await, Err(404));
}
