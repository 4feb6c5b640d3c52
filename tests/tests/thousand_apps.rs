//! A thousand apps with a plugin each on one node: all of them are served, though not all can have an instance at once.

use std::{path::Path, sync::Arc};

use serde_json::json;
use tidegate_control::{Actor, AppName, BindingRequest, NewVersion, PluginName, Scope, Store};
use tidegate_protocol::Codec;
use tidegate_sandbox::{Sandbox, SandboxConfig};
use tidegate_tests::{
    Client, Node,
    client::with_token,
    guests,
    token::{mint_with, unix_time},
    within,
};
use tokio::task::JoinSet;

/// With `default` as many as a node may have.
const APPS: usize = 999;
const MESSAGES: usize = 6_000;
const SPEAKERS: usize = 8;
/// Apps that have to be asked for the rest to mean anything.
const FEWEST_ASKED: usize = 500;

/// Makes the apps, each with the plugin bound, before the node starts: through the admin API it would be as right and
/// take a minute. Answers the secrets of their tokens.
fn populate(data_dir: &Path) -> Vec<String> {
    let wasm = std::fs::read(guests::wasm("guest-stamp")).expect("`cargo xtask test` builds it");
    let sandbox = Sandbox::new(SandboxConfig::default()).expect("the sandbox starts");
    let admitted = sandbox.admit(&wasm).expect("the guest is a plugin");
    let store = Store::open(data_dir).expect("the folder is writable");
    let (actor, plugin) = (Actor::node(), PluginName::parse("stamp").expect("a name"));
    let hook = "filtering".parse().expect("a hook");
    let secrets = (0..APPS).map(|nth| {
        let app = AppName::parse(&name(nth)).expect("a name");
        let made = store.create_app(&actor, &app).expect("there is room");
        let version = NewVersion {
            artifact: &admitted.component,
            hooks: &[hook],
            imports: &admitted.imports,
            note: "",
        };
        let request = BindingRequest {
            plugin: plugin.clone(),
            hook,
            scope: Scope::App,
            position: None,
            config: None,
            failure_policy: None,
            isolation: None,
        };
        store
            .add_version(&actor, &app, &plugin, version)
            .and_then(|_| store.activate(&actor, &app, &plugin, 1, ""))
            .and_then(|_| store.bind(&actor, &app, &request))
            .expect("it is taken");
        made.token_secret.reveal().to_owned()
    });
    secrets.collect()
}

fn name(nth: usize) -> String {
    format!("app-{nth}")
}

/// A client of an app.
async fn connect(address: &str, nth: usize, secret: &str) -> Client {
    let url = format!("ws://{address}/apps/{}/connection/websocket", name(nth));
    let mut client = Client::open_at(&url, Codec::Json).await;
    let claims = json!({ "sub": "ann", "exp": unix_time(600) });
    let token = mint_with(secret, &json!({ "alg": "HS256" }), &claims);
    let reply = client.connect_with(with_token(&token)).await;
    assert!(reply.connect.is_some(), "{}: {reply:?}", name(nth));
    client
}

/// Publishes in the apps of one speaker, the nth app in proportion to 1/n: a fixed sequence. Answers how many of them
/// were asked, and the trace ids of what failed.
async fn speak(mut clients: Vec<(usize, Client)>, seed: u64) -> (usize, Vec<String>) {
    let weight = |nth: usize| 1.0 / (nth + 1) as f64;
    let total: f64 = clients.iter().map(|(nth, _)| weight(*nth)).sum();
    let (mut asked, mut failed) = (vec![false; clients.len()], Vec::new());
    let mut state = 88_172_645_463_325_252 + seed;
    for message in 0..MESSAGES / SPEAKERS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut left = (state >> 11) as f64 / (1_u64 << 53) as f64 * total;
        // Half of the messages go round, so that each app has its turn.
        let chosen = if message % 2 == 0 {
            Some(message / 2 % clients.len())
        } else {
            clients.iter().position(|(nth, _)| {
                left -= weight(*nth);
                left <= 0.0
            })
        };
        let chosen = chosen.unwrap_or_default();
        let client = &mut clients[chosen].1;
        let reply = client.publish("open:room", &json!({ "s": message })).await;
        match reply.error {
            None => asked[chosen] = true,
            Some(error) => {
                let trace = error.message.split_once("trace ");
                let (_, trace) = trace.unwrap_or_else(|| panic!("{error:?}"));
                failed.push(trace.trim_end_matches(')').to_owned());
            }
        }
    }
    let asked = asked.into_iter().filter(|asked| *asked).count();
    (asked, failed)
}

#[tokio::test]
async fn a_thousand_apps_have_a_plugin_each_and_none_fails_for_want_of_a_slot() {
    let data = tempfile::tempdir().expect("a folder for the test");
    let secrets: Arc<[String]> = populate(data.path()).into();
    let node = Node::builder()
        .data_dir(data.path())
        .set("plugins.max_instances", json!(256))
        .namespace(json!({ "name": "open", "allow_publish_for_client": true }))
        .start();
    let mut speakers = JoinSet::new();
    for speaker in 0..SPEAKERS {
        let (address, secrets) = (node.client_addr().to_owned(), Arc::clone(&secrets));
        speakers.spawn(async move {
            let mut clients = Vec::new();
            for nth in (speaker..APPS).step_by(SPEAKERS) {
                clients.push((nth, connect(&address, nth, &secrets[nth]).await));
            }
            Box::pin(speak(clients, speaker as u64)).await
        });
    }
    let (mut n_asked, mut n_failed) = (0, 0);
    while let Some(spoken) = speakers.join_next().await {
        let (asked, failed) = spoken.expect("the speaker ended");
        n_asked += asked;
        n_failed += failed.len();
        for trace in failed {
            let told = node
                .admin()
                .get(&format!("/admin/v1/explain/{trace}"))
                .await;
            // A machine with more to do than it can may have let a deadline pass, nothing else.
            assert_eq!(told.status, 200, "{}", told.json());
            let told = told.json().to_string();
            assert!(!told.contains("all instances"), "{told}");
            assert!(!told.contains("no instance could be had"), "{told}");
        }
    }
    assert!(n_asked >= FEWEST_ASKED, "only {n_asked} apps were asked");
    assert!(n_failed < MESSAGES / 10, "{n_failed} messages failed");
    let metrics = within("the metrics", node.metrics()).await;
    let most = metrics.get("tidegate_plugin_instances_max");
    assert!(metrics.get("tidegate_plugin_instances") <= most);
    assert!(most <= 256, "there would be room for everybody");
    let evicted = metrics.get("tidegate_plugin_instances_evicted_total");
    assert!(evicted > 0, "nobody made room for anybody");
}
