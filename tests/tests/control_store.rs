//! Nodes that share a control store are of one mind: what is decided at one runs and counts at the others, and what was
//! decided goes on while the store is away.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_test_postgres::PostgresServer;
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{
    Client, Node,
    api::Http,
    client::with_token,
    guests,
    token::{mint_with, unix_time},
    within,
};
use tokio::time::Instant;

/// Between two looks at what another process does.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Cluster {
    nodes: Vec<Node>,
    postgres: PostgresServer,
    redis: RedisServer,
    files: tempfile::TempDir,
}

impl Cluster {
    /// Two nodes with one Redis and one PostgreSQL.
    fn start() -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            postgres: PostgresServer::start(),
            redis: RedisServer::start(&RedisOptions::default()),
            files: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        for name in ["one", "two"] {
            let node = cluster.start_node(name);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Starts a node, or starts it again: its data directory goes by its name.
    fn start_node(&self, name: &str) -> Node {
        let mut node = Node::builder()
            .set("node.name", json!(name))
            .on_redis(&self.redis)
            .set("control.store", json!("postgres"))
            .set("control.postgres.url", json!(self.postgres.url()))
            .set("client.allow_anonymous_connect_without_token", json!(true))
            .namespace(json!({
                "name": "room", "allow_subscribe_for_client": true, "allow_publish_for_client": true,
                "allow_subscribe_for_anonymous": true, "allow_publish_for_anonymous": true,
            }))
            .data_dir(&self.files.path().join(name))
            .start();
        // The first node alone has made keys; all of them know these.
        if let Some(first) = self.nodes.first() {
            node.take_keys_of(first);
        }
        node
    }

    /// Pushes, activates and binds a build of the guest that writes its version into messages.
    async fn push(&self, index: usize, mark: &str) -> Value {
        let file = guests::variant("guest-stamp", mark, self.files.path());
        let options = ["--activate", "--bind", "filtering@namespace:room"];
        let pushed = self.nodes[index].push(&file, "stamp", &options).await;
        pushed.json()
    }

    /// Waits until a message that is published at a node is stamped with this version; how long that took.
    async fn until_stamped(&self, index: usize, version: u64) -> Duration {
        // Boxed: a client is large.
        Box::pin(self.stamped(index, version)).await
    }

    async fn stamped(&self, index: usize, version: u64) -> Duration {
        let start = Instant::now();
        let mut client =
            Client::connect(&self.nodes[index], Codec::Json, ConnectRequest::default()).await;
        // A channel of its own: what else is published is not its business.
        let channel = format!("room:{index}-{version}-{}", start.elapsed().as_nanos());
        assert!(client.subscribe(&channel).await.subscribe.is_some());
        let stamped = async {
            loop {
                let reply = client.publish(&channel, &json!({})).await;
                assert!(reply.publish.is_some(), "{reply:?}");
                let (data, _) = client.publication().await;
                if data["v"] == version {
                    return start.elapsed();
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        Box::pin(within("the version runs there", stamped)).await
    }

    async fn health(&self, index: usize) -> (u16, Value) {
        let address = self.nodes[index].client_addr();
        let answer = Http::new(address).get("/health").await;
        (answer.status, answer.json())
    }

    async fn until_degraded(&self, index: usize, is_degraded: bool) {
        let told = async {
            loop {
                let (status, body) = self.health(index).await;
                assert_eq!((status, &body["status"]), (200, &json!("ready")));
                if body["degraded"].is_array() == is_degraded {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("the health says so", told).await;
    }
}

/// Asks until the status is this one.
async fn until_status(what: &str, wanted: u16, ask: impl AsyncFn() -> u16) {
    let asked = async {
        while ask().await != wanted {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within(what, asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_bindings_of_one_node_run_at_the_other() {
    let cluster = Cluster::start();
    cluster.push(0, "one").await;
    // Here it is true at once, there soon.
    cluster.until_stamped(0, 1).await;
    let first = cluster.until_stamped(1, 1).await;
    cluster.push(0, "two").await;
    let second = cluster.until_stamped(1, 2).await;
    println!(
        "ran at the other node after {first:?} (first version) and {second:?} (second version)"
    );

    // The other way round, and said by all.
    let arguments = ["plugin", "rollback", "stamp", "--json"];
    cluster.nodes[1].cli(&arguments).await.json();
    let waited = cluster.nodes[0].cli(&["nodes", "--wait", "--json"]).await;
    let answer = waited.json();
    let nodes = answer["items"].as_array().unwrap();
    let names: Vec<_> = nodes
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["one", "two"]);
    for node in nodes {
        assert_eq!(node["revision"], answer["revision"]);
        let plugin = &node["plugins"][0];
        assert_eq!(
            (&plugin["plugin"], &plugin["version"]),
            (&json!("stamp"), &json!(1))
        );
    }
    cluster.until_stamped(0, 1).await;
    cluster.until_stamped(1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_and_keys_of_one_node_count_at_the_other() {
    let cluster = Cluster::start();
    let (here, there) = (&cluster.nodes[0], &cluster.nodes[1]);
    let made = here.cli(&["app", "create", "shop", "--json"]).await.json();
    let secret = made["token_secret"].as_str().unwrap();
    let arguments = ["app", "keys", "shop", "--create", "api", "--json"];
    let key = here.cli(&arguments).await.json();
    let api = Http::new(there.client_addr()).header("X-API-Key", key["secret"].as_str().unwrap());
    let info = async || api.post("/api/info", &json!({})).await.status;
    until_status("the key is known", 200, info).await;
    let claims = json!({ "sub": "ann", "exp": unix_time(600) });
    let token = mint_with(secret, &json!({ "alg": "HS256" }), &claims);
    let address = there.client_addr();
    let url = format!("ws://{address}/apps/shop/connection/websocket");
    let open = async || match Client::try_open_at(&url).await {
        Ok(()) => 101,
        Err(status) => status,
    };
    until_status("the app is open", 101, open).await;
    let mut ann = Client::open_at(&url, Codec::Json).await;
    let reply = ann.connect_with(with_token(&token)).await;
    assert!(reply.connect.is_some(), "{reply:?}");

    let id = key["id"].as_str().unwrap();
    let admin = here.admin();
    let revoke = format!("/admin/v1/apps/shop/keys/{id}");
    admin
        .send(hyper::Method::DELETE, &revoke, "application/json", "")
        .await;
    until_status("the key is revoked", 401, info).await;
    here.cli(&["app", "delete", "shop", "--json"]).await;
    ann.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_nodes_serve_what_they_have_and_refuse_changes() {
    let mut cluster = Cluster::start();
    cluster.push(0, "one").await;
    cluster.until_stamped(1, 1).await;
    let settled = cluster.nodes[1].cli(&["nodes", "--wait", "--json"]).await;
    assert_eq!(settled.json()["items"].as_array().map(Vec::len), Some(2));

    cluster.postgres.kill();
    for index in [0, 1] {
        cluster.until_degraded(index, true).await;
        cluster.until_stamped(index, 1).await;
    }
    let activate = async |node: &Node| {
        let path = "/admin/v1/apps/default/plugins/stamp/rollback";
        node.admin().post(path, &json!({})).await
    };
    let refused = activate(&cluster.nodes[0]).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["code"], "store-unavailable");
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(text.contains("what runs goes on"), "{text}");
    assert!(!text.contains(cluster.postgres.password()), "{text}");
    // Keys go on, and what there is to see of the node itself.
    let answer = cluster.nodes[1].admin().get("/admin/v1/nodes").await.json();
    let this = &answer["items"][0];
    assert_eq!(this["plugins"][0]["version"], 1);
    assert!(this["store_heard_seconds_ago"].is_u64(), "{this}");
    let (_, health) = cluster.health(1).await;
    assert!(
        health["control_store_heard_seconds_ago"].is_u64(),
        "{health}"
    );

    // A node that starts now has what it ran by last.
    cluster.nodes[1].kill();
    cluster.nodes[1] = cluster.start_node("two");
    cluster.until_stamped(1, 1).await;
    cluster.nodes[1].api().call("info", &json!({})).await;
    cluster.until_degraded(1, true).await;

    cluster.postgres.restart();
    for index in [0, 1] {
        cluster.until_degraded(index, false).await;
    }
    cluster.push(1, "two").await;
    cluster.until_stamped(0, 2).await;
    for node in &cluster.nodes {
        assert!(!node.log().holds(cluster.postgres.password().as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_restored_is_followed_though_as_much_was_changed_in_it() {
    let cluster = Cluster::start();
    let arguments = ["app", "keys", "default", "--create", "api", "--json"];
    let key = cluster.nodes[0].cli(&arguments).await.json();
    let text = |name: &str| key[name].as_str().expect("a text").to_owned();
    let (id, secret) = (text("id"), text("secret"));
    let is_known = async |index: usize| {
        let address = cluster.nodes[index].client_addr();
        let api = Http::new(address).header("X-API-Key", &secret);
        api.post("/api/info", &json!({})).await.status
    };
    until_status("the key is known", 200, || is_known(1)).await;
    // Another history of the same length, and nobody tells of it: there the key was revoked.
    let restored = format!(
        "SET search_path TO tidegate;
         CREATE TEMP TABLE newest AS SELECT max(id) AS id FROM audit;
         ALTER TABLE audit DISABLE TRIGGER USER;
         DELETE FROM audit WHERE id = (SELECT id FROM newest);
         ALTER TABLE audit ENABLE TRIGGER USER;
         UPDATE keys SET revoked_at = 1 WHERE id = '{id}';
         INSERT INTO audit (id, at, who, action, object, result)
             SELECT id, 0, 'somebody', 'key.revoke', 'key/{id}', 'ok' FROM newest;"
    );
    cluster.postgres.sql("postgres", &restored);
    for index in [0, 1] {
        until_status("the key is revoked", 401, || is_known(index)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_run_a_version_keeps_the_former_one_and_says_so() {
    let cluster = Cluster::start();
    cluster.push(0, "one").await;
    cluster.until_stamped(1, 1).await;
    // What a node of another release may have let in; and nobody tells of it.
    cluster.postgres.sql(
        "postgres",
        "SET search_path TO tidegate;
         INSERT INTO artifacts VALUES (sha256('no component'), 'no component');
         INSERT INTO versions SELECT id, 9, sha256('no component'), 12, '[\"filtering\"]', '[]', '', 0 FROM plugins;
         INSERT INTO activations (plugin, version, under, at) SELECT id, 9, activation, 0 FROM plugins;
         UPDATE plugins SET activation = (SELECT max(id) FROM activations);
         INSERT INTO audit (at, who, app, action, object, result)
             VALUES (0, 'somebody', 'default', 'plugin.activate', 'plugin/stamp/versions/9', 'ok');",
    );
    let told = async {
        loop {
            let answer = cluster.nodes[0].admin().get("/admin/v1/nodes").await.json();
            let nodes = answer["items"].as_array().unwrap();
            let plugins = nodes.iter().map(|node| &node["plugins"][0]);
            if plugins.clone().all(|plugin| plugin["wanted_version"] == 9) {
                assert_eq!(nodes.len(), 2);
                for plugin in plugins {
                    assert_eq!(plugin["version"], 1);
                    assert!(plugin["problem"].is_string(), "{plugin}");
                }
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("both nodes say that they cannot run it", told).await;
    for index in [0, 1] {
        cluster.until_stamped(index, 1).await;
    }
    let arguments = ["plugin", "rollback", "stamp", "--json"];
    cluster.nodes[1].cli(&arguments).await.json();
    let waited = cluster.nodes[0].cli(&["nodes", "--wait", "--json"]).await;
    assert_eq!(waited.code, Some(0), "{}", waited.stderr);
}
