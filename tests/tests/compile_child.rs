//! Compiling hostile uploads: a process of its own ends, the node does not, and its traffic does not wait.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::Method;
use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_tests::{Client, Node, NodeBuilder, api::Answer, bombs, guests};
use tokio::task::JoinSet;

fn builder() -> NodeBuilder {
    Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .namespace(json!({
            "name": "chat", "history_size": 10, "history_ttl": "60s",
            "allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true,
            "allow_publish_for_client": true, "allow_publish_for_anonymous": true,
        }))
}

async fn upload(node: &Node, name: &str, wasm: Vec<u8>) -> Answer {
    let path = format!("/admin/v1/apps/default/plugins/{name}/versions");
    let admin = node.admin().patient();
    admin
        .send(Method::POST, &path, "application/wasm", wasm)
        .await
}

#[track_caller]
fn refused(answer: &Answer, rule: &str) -> Value {
    let problem = answer.json();
    assert_eq!(answer.status, 422, "{problem}");
    assert_eq!(problem["rule"], rule, "{problem}");
    assert!(!problem["help"].as_str().unwrap_or_default().is_empty());
    problem
}

/// Publishes and receives, one message after the other, until told to stop; answers how many there were.
async fn traffic(mut client: Client, is_over: Arc<AtomicBool>) -> u64 {
    let reply = client.subscribe("chat:room").await;
    assert!(reply.subscribe.is_some(), "{reply:?}");
    let mut sequence = 0;
    while !is_over.load(Ordering::Acquire) {
        sequence += 1;
        let reply = client.publish("chat:room", &json!({ "s": sequence })).await;
        assert!(reply.publish.is_some(), "{reply:?}");
        let (data, offset) = client.publication().await;
        assert_eq!((&data["s"], offset), (&json!(sequence), sequence));
    }
    sequence
}

/// Uploads a compile bomb to the node while messages are exchanged on it.
async fn bombed(node: &Node, rule: &str) {
    let client = Client::connect(node, Codec::Json, ConnectRequest::default()).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    tasks.spawn(traffic(client, Arc::clone(&is_over)));
    refused(&upload(node, "deep", bombs::deep()).await, rule);
    // What is no bomb is compiled afterwards as before.
    let good = fs::read(guests::wasm("guest-stamp")).expect("`cargo xtask test` builds it");
    let answer = upload(node, "stamp", good).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    is_over.store(true, Ordering::Release);
    let exchanged = tasks
        .join_next()
        .await
        .expect("one task")
        .expect("it does not panic");
    assert!(exchanged > 10, "only {exchanged} messages went through");
    // Nothing stays of the refused upload but a line in the audit log.
    assert!(children(node.pid()).is_empty());
    let admin = node.admin();
    let deep = admin.get("/admin/v1/apps/default/plugins/deep").await;
    assert_eq!(deep.status, 404);
    let audit = admin.get("/admin/v1/apps/default/audit").await.json();
    let audit = audit["items"].to_string();
    assert!(audit.contains(&format!("refused: {rule}")), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_compile_bomb_is_refused_for_its_time_while_traffic_flows() {
    let node = builder()
        .set("plugins.compile_timeout", json!("3s"))
        .set("plugins.compile_memory_limit", json!("16GiB"))
        .start();
    bombed(&node, "compile-time").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_compile_bomb_is_refused_for_its_memory_while_traffic_flows() {
    let node = builder()
        .set("plugins.compile_timeout", json!("10m"))
        .set("plugins.compile_memory_limit", json!("384MiB"))
        .start();
    bombed(&node, "compile-memory").await;
}

/// Processes that this one started.
fn children(parent: u32) -> Vec<u32> {
    let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    fs::read_dir("/proc")
        .expect("processes are listed")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // After the name, which may hold anything, come the state and the parent.
            let stat = stat(*pid).unwrap_or_default();
            let after = stat.rsplit_once(") ").map(|(_, rest)| rest);
            after.and_then(|rest| rest.split(' ').nth(1)) == Some(&parent.to_string())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn w2_a_compiler_killed_in_the_middle_is_told_and_the_next_upload_works() {
    let node = builder().start();
    let bomb = bombs::deep();
    let mut answer = Box::pin(upload(&node, "deep", bomb));
    let child = async {
        loop {
            if let [child] = children(node.pid())[..] {
                return child;
            }
            tokio::task::yield_now().await;
        }
    };
    let child = tokio::select! {
        child = child => child,
        early = &mut answer => panic!("there was no child: {}", early.json()),
    };
    let pid = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let answer = answer.await;
    let problem = refused(&answer, "compile-crash");
    assert!(
        problem["detail"].as_str().unwrap().contains("signal 9"),
        "{problem}"
    );
    let good = fs::read(guests::wasm("guest-stamp")).unwrap();
    let answer = upload(&node, "stamp", good).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
}
