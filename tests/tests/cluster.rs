//! Two nodes and one Redis are one service: what is ordered at one node takes place at the other.

use serde_json::{Value, json};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, cluster::LOOK_AGAIN, token, within};

struct Cluster {
    nodes: Vec<Node>,
    redis: RedisServer,
}

impl Cluster {
    /// Nodes that know each other.
    async fn start(number: usize) -> Self {
        let redis = RedisServer::start(&RedisOptions::default());
        let node = |_| {
            Node::builder()
                .on_redis(&redis)
                .set("client.token.hmac_secret_key", json!(token::SECRET))
                .set("node.info_metrics_aggregate_interval", json!("1s"))
                .set("channel.without_namespace.history_size", json!(10))
                .set("channel.without_namespace.history_ttl", json!("60s"))
                .set("channel.without_namespace.force_recovery", json!(true))
                .set("channel.without_namespace.presence", json!(true))
                .namespace(json!({
                    "name": "room",
                    "presence": true,
                    "join_leave": true,
                    "force_push_join_leave": true,
                    "allow_subscribe_for_client": true,
                    "allow_publish_for_subscriber": true,
                }))
                .start()
        };
        let cluster = Self {
            nodes: (0..number).map(node).collect(),
            redis,
        };
        for index in 0..number {
            cluster.until_nodes(index, number).await;
        }
        cluster
    }

    /// Waits until a node knows so many, itself included.
    async fn until_nodes(&self, index: usize, number: usize) {
        self.nodes[index].until_nodes(number).await;
    }

    /// Waits until a node says that exactly these users are in the channel, and counts them.
    async fn until_present(&self, index: usize, users: &[&str]) {
        let news = json!({"channel": "news"});
        let present = async {
            loop {
                let result = self.call(index, "presence", news.clone()).await;
                let members = result["presence"].as_object().expect("members by client");
                let mut found: Vec<_> = members
                    .values()
                    .filter_map(|one| one["user"].as_str())
                    .collect();
                found.sort_unstable();
                if found == users {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("presence is what it should be", present).await;
        let stats = self.call(index, "presence_stats", news).await;
        let number = users.len();
        assert_eq!(stats, json!({"num_clients": number, "num_users": number}));
    }

    /// Waits until a node lists so many sessions of a user: the directory is written behind the sessions.
    async fn until_sessions(&self, index: usize, user: &str, number: usize) -> Vec<Value> {
        let arguments = ["sessions", "list", "--user", user, "--json"];
        let listed = async {
            loop {
                let listed = self.nodes[index].cli(&arguments).await;
                let sessions = listed.json()["items"].take();
                let sessions = sessions.as_array().expect("a list").clone();
                if sessions.len() == number {
                    return sessions;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        within("the sessions are listed", listed).await
    }

    async fn connect(&self, index: usize, user: &str) -> Client {
        Client::connect_as(&self.nodes[index], user).await
    }

    async fn call(&self, index: usize, method: &str, request: Value) -> Value {
        self.nodes[index].api().call(method, &request).await
    }
}

#[tokio::test]
async fn a_node_says_what_every_process_uses_and_what_was_counted() {
    let cluster = Cluster::start(2).await;
    let told = async {
        loop {
            let info = cluster.call(0, "info", json!({})).await;
            let nodes = info["nodes"].as_array().expect("rows").clone();
            let is_there = |node: &Value| {
                node["process"]["rss"].as_i64() > Some(0) && node["metrics"].is_object()
            };
            if nodes.iter().all(is_there) {
                return nodes;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    for node in within("both nodes say it", told).await {
        assert!(node["process"]["cpu"].is_f64(), "{node}");
        assert!(node["metrics"]["interval"].as_f64() >= Some(1.0), "{node}");
        let items = node["metrics"]["items"]
            .as_object()
            .expect("metrics by name");
        assert!(
            items.contains_key("tidegate_hub_broadcasts_total"),
            "{node}"
        );
        assert!(items.contains_key("tidegate_hub_channels"), "{node}");
    }
}

#[tokio::test]
async fn calls_at_one_node_reach_the_sessions_of_the_other() {
    let cluster = Cluster::start(2).await;
    let mut ann = cluster.connect(1, "ann").await;
    let mut bob = cluster.connect(1, "bob").await;

    let request = json!({"user": "ann", "channel": "news", "data": {"hello": 1}});
    cluster.call(0, "subscribe", request).await;
    let push = ann.push().await;
    assert_eq!(push.channel, "news");
    let told = push.subscribe.expect("a subscribe push");
    assert!(told.recoverable && told.positioned);
    assert_eq!(told.data.as_bytes().as_ref(), br#"{"hello":1}"#);
    cluster
        .call(0, "publish", json!({"channel": "news", "data": 7}))
        .await;
    assert_eq!(ann.publication().await, (json!(7), 1));
    let channels = cluster.call(0, "channels", json!({})).await;
    assert_eq!(channels["channels"], json!({"news": {"num_clients": 1}}));

    cluster
        .call(0, "unsubscribe", json!({"user": "ann", "channel": "news"}))
        .await;
    let push = ann.push().await;
    assert_eq!(push.unsubscribe.expect("an unsubscribe push").code, 2000);

    let in_an_hour = token::unix_time(3600);
    cluster
        .call(
            0,
            "refresh",
            json!({"user": "ann", "expire_at": in_an_hour}),
        )
        .await;
    assert!(ann.push().await.refresh.expect("a refresh push").expires);

    cluster.call(0, "disconnect", json!({"user": "ann"})).await;
    assert_eq!(ann.closed().await.code, 3503);
    cluster
        .call(0, "refresh", json!({"user": "bob", "expired": true}))
        .await;
    assert_eq!(bob.closed().await.code, 3005);
}

#[tokio::test]
async fn any_node_says_who_is_where_and_ends_sessions_of_the_others() {
    let cluster = Cluster::start(2).await;
    let _near = cluster.connect(0, "ann").await;
    let mut far = cluster.connect(1, "ann").await;
    let _bob = cluster.connect(1, "bob").await;
    let there = cluster.until_sessions(0, "bob", 1).await[0]["node"].take();
    let sessions = cluster.until_sessions(0, "ann", 2).await;
    let mut on_the_other = sessions.iter().filter(|one| one["node"] == there);
    let client = on_the_other.next().expect("one of the two")["client"].as_str();
    let client = client.expect("an id");
    assert!(on_the_other.next().is_none());
    let shown = cluster.nodes[0]
        .cli(&["sessions", "inspect", client, "--json"])
        .await;
    assert_eq!(shown.json()["transport"], "websocket");
    let kicked = cluster.nodes[0].cli(&["sessions", "kick", client]).await;
    assert_eq!(kicked.code, Some(0), "{}", kicked.stderr);
    assert_eq!(far.closed().await.code, 3503);
}

#[tokio::test]
async fn a_node_that_is_killed_is_forgotten_and_one_that_stops_says_so() {
    let mut cluster = Cluster::start(3).await;
    let _session = cluster.connect(1, "ann").await;
    let mut stopping = cluster.nodes.remove(2);
    stopping.terminate();
    stopping.ended().await;
    cluster.until_nodes(0, 2).await;
    assert!(cluster.nodes[0].log().holds(b"a node has left"));
    cluster.nodes[1].kill();
    // Nobody waits for it any longer than for an answer.
    cluster.call(0, "disconnect", json!({"user": "ann"})).await;
    cluster.until_nodes(0, 1).await;
}

#[tokio::test]
async fn presence_counts_the_members_of_all_nodes_and_forgets_who_left() {
    let cluster = Cluster::start(2).await;
    let mut members = [
        cluster.connect(0, "ann").await,
        cluster.connect(1, "bob").await,
    ];
    for (user, member) in ["ann", "bob"].iter().zip(&mut members) {
        let request = json!({"user": user, "channel": "news"});
        cluster.call(0, "subscribe", request).await;
        assert!(member.push().await.subscribe.is_some());
    }
    for index in 0..2 {
        cluster.until_present(index, &["ann", "bob"]).await;
    }
    let [ann, _bob] = members;
    drop(ann);
    for index in 0..2 {
        cluster.until_present(index, &["bob"]).await;
    }
}

#[tokio::test]
async fn nodes_with_control_stores_of_their_own_say_that_they_decide_alone() {
    let cluster = Cluster::start(2).await;
    let told = cluster.nodes[0].cli(&["nodes"]).await;
    let says = "1 more on the same Redis, each with a control store of its own";
    assert!(told.stderr.contains(says), "{told:?}");
    let told = cluster.nodes[0].cli(&["nodes", "--json"]).await.json();
    assert_eq!(told["items"].as_array().map(Vec::len), Some(1), "{told}");
}

#[tokio::test]
async fn a_node_without_redis_does_not_say_that_nobody_is_elsewhere() {
    let mut cluster = Cluster::start(2).await;
    let _bob = cluster.connect(1, "bob").await;
    cluster.until_sessions(0, "bob", 1).await;
    cluster.redis.kill();
    let one = &cluster.nodes[0];
    let forgotten = async {
        while one.metrics().await.get("tidegate_cluster_nodes") != 1 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("the other node is forgotten", forgotten).await;
    for arguments in [
        &["sessions", "list"][..],
        &["sessions", "list", "--user", "bob"],
    ] {
        let told = one.cli(arguments).await;
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.stderr.contains("nodes"), "{told:?}");
    }
}

#[tokio::test]
async fn who_was_on_a_node_that_is_killed_leaves_once_and_is_gone() {
    const USERS: [&str; 3] = ["ann", "bob", "cleo"];
    let mut cluster = Cluster::start(3).await;
    let mut witness = cluster.connect(1, "eve").await;
    witness.subscribe("room:one").await;
    let mut dead = Vec::new();
    for user in USERS {
        let mut client = cluster.connect(0, user).await;
        client.subscribe("room:one").await;
        dead.push(client);
    }
    // Bob is somewhere else, too.
    let _bob = cluster.connect(2, "bob").await;
    // Everybody is in the directory before the node dies.
    cluster.until_sessions(2, "cleo", 1).await;
    cluster.until_sessions(1, "bob", 2).await;
    cluster.nodes[0].kill();
    let mut left = Vec::new();
    while left.len() < USERS.len() {
        if let Some(leave) = witness.push().await.leave {
            left.push(leave.info.expect("of somebody").user);
        }
    }
    cluster.until_sessions(2, "cleo", 0).await;
    cluster.until_sessions(1, "bob", 1).await;
    let has_survived = |node: &Node| {
        let line = b"the sessions of a node that died were ended for it";
        node.log().holds(line)
    };
    let closed = async {
        while !cluster.nodes[1..].iter().any(has_survived) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    within("a survivor has closed the book", closed).await;
    assert!(
        cluster.nodes[1..]
            .iter()
            .filter(|node| has_survived(node))
            .count()
            == 1
    );
    // Nothing more is told than was.
    witness.publish("room:one", &json!("mark")).await;
    left.append(&mut witness.who_left_before_a_publication().await);
    left.sort_unstable();
    assert_eq!(left, USERS);
    let result = cluster
        .call(2, "presence", json!({"channel": "room:one"}))
        .await;
    let members = result["presence"].as_object().expect("members by client");
    let users: Vec<_> = members.values().map(|one| &one["user"]).collect();
    assert_eq!(users, ["eve"]);
}
