//! The files of `deploy/` and their guide tell the truth: what they name, the server has.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use tidegate_protocol::{Codec, ConnectRequest};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tidegate_tests::{Client, Node, api::Http, cli, node::binary, within};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
};

/// Variables of the command line: no configuration keys, and read all the same (docs/cli.md).
const OF_THE_COMMAND_LINE: &[&str] = &[
    "TIDEGATE_CONFIG",
    "TIDEGATE_URL",
    "TIDEGATE_API_KEY",
    "TIDEGATE_ADMIN_URL",
    "TIDEGATE_ADMIN_KEY",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// All files of `deploy/` and the guide, with their paths.
fn files() -> Vec<(String, String)> {
    let mut found = vec![("docs/deploy.md".to_owned(), read("docs/deploy.md"))];
    let mut folders = vec![root().join("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("deploy/ can be listed") {
            let path = entry.expect("deploy/ can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("the files are text");
                found.push((path.display().to_string(), text));
            }
        }
    }
    found
}

/// Words of letters, digits and underscores that start so, with the file in which each stands.
fn words(prefix: &str, files: &[(String, String)]) -> BTreeSet<(String, String)> {
    let words = files.iter().flat_map(|(path, text)| {
        let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        words.map(move |word| (word.to_owned(), path.clone()))
    });
    // `TIDEGATE_…` in a sentence is no variable.
    words
        .filter(|(word, _)| word.starts_with(prefix) && word.len() > prefix.len())
        .collect()
}

/// Names of samples, of the families that the text form describes.
fn samples(metrics: &str) -> BTreeSet<String> {
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .flat_map(|line| {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            endings.iter().map(move |ending| format!("{name}{ending}"))
        })
        .collect()
}

/// Keys of the configuration, as `config check` lists them.
async fn keys() -> Vec<(String, Value)> {
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let checked = cli::run_in(scratch.path(), &["config", "check", "--json"]).await;
    let values = checked.json()["values"].as_array().cloned();
    let values = values.expect("config check lists the values");
    let key = |value: &Value| value["key"].as_str().expect("a value has a key").to_owned();
    values
        .iter()
        .map(|value| (key(value), value["value"].clone()))
        .collect()
}

#[tokio::test]
async fn every_metric_that_alerts_dashboard_and_chart_name_is_printed_by_a_node() {
    let node = Node::builder()
        .set("client.allow_anonymous_connect_without_token", json!(true))
        .start();
    // Families with a label are printed from their first count on: an error, a bad frame with the disconnect that
    // follows, a refused handshake, a request that fails.
    let mut client = Client::connect(&node, Codec::Json, ConnectRequest::default()).await;
    let refused = client.subscribe("nobody:may").await;
    assert!(refused.error.is_some(), "{refused:?}");
    client.send_frame(b"no frame".to_vec()).await;
    client.closed().await;
    let http = Http::new(node.client_addr());
    assert_eq!(http.get("/connection/websocket").await.status, 400);
    assert_eq!(http.get("/nothing").await.status, 404);

    let redis = RedisServer::start(&RedisOptions::default());
    let on_redis = Node::builder().on_redis(&redis).start();

    let mut printed = BTreeSet::new();
    for node in [&node, &on_redis] {
        let answer = Http::new(node.admin_addr()).get("/metrics").await;
        printed.extend(samples(&String::from_utf8_lossy(&answer.body)));
    }
    let of_metrics: Vec<_> = files()
        .into_iter()
        .filter(|(path, _)| {
            ["prometheus", "grafana", "helm", "deploy.md"]
                .iter()
                .any(|part| path.contains(part))
        })
        .collect();
    let named = words("tidegate_", &of_metrics);
    assert!(named.len() > 30, "the files were read: {named:?}");
    let unknown: Vec<_> = named
        .iter()
        .filter(|(name, _)| !printed.contains(name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {printed:#?}");
}

#[tokio::test]
async fn every_variable_that_the_deploy_files_name_sets_a_key() {
    let keys = keys().await.into_iter();
    let known: BTreeSet<String> = keys
        .map(|(key, _)| format!("TIDEGATE_{}", key.to_uppercase().replace('.', "_")))
        .collect();
    let named = words("TIDEGATE_", &files());
    assert!(named.len() > 5, "the files were read: {named:?}");
    for (name, path) in named {
        assert!(
            known.contains(&name) || OF_THE_COMMAND_LINE.contains(&name.as_str()),
            "{path}: {name} is no variable of the server"
        );
    }
}

#[tokio::test]
async fn the_example_configurations_are_good() {
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let example = root().join("deploy/tidegate.toml");
    // The chart's default configuration is the block `config` of its values.
    let values = read("deploy/helm/tidegate/values.yaml");
    let block = values
        .lines()
        .skip_while(|line| *line != "config:")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("  "));
    let block: Vec<_> = block.collect();
    assert!(block.len() > 5, "the values have a block `config`");
    let chart = scratch.path().join("chart.yaml");
    std::fs::write(&chart, block.join("\n")).expect("the folder is writable");
    for path in [example, chart] {
        let path = path.display().to_string();
        let checked = cli::run_in(scratch.path(), &["config", "check", "--config", &path]).await;
        assert_eq!(checked.code, Some(0), "{path}: {}", checked.stderr);
    }
}

#[tokio::test]
async fn the_unit_waits_longer_than_a_drain_may_take() {
    let keys = keys().await;
    let timeout = keys.iter().find(|(key, _)| key == "shutdown.timeout");
    let timeout = timeout.and_then(|(_, value)| value.as_str()?.strip_suffix('s')?.parse().ok());
    let timeout: u64 = timeout.expect("shutdown.timeout is in seconds");
    let unit = read("deploy/systemd/tidegate.service");
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s'));
    let stop: u64 = stop
        .and_then(|text| text.parse().ok())
        .expect("the unit has a TimeoutStopSec in seconds");
    assert!(
        stop > timeout,
        "{stop} s, and a drain takes up to {timeout}"
    );
}

#[tokio::test]
async fn a_node_that_announces_nothing_keeps_its_first_keys_off_standard_output() {
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let config = scratch.path().join("tidegate.json");
    let free_ports = json!({
        "http_server": { "address": "127.0.0.1", "port": 0 },
        "admin_api": { "port": 0 },
    });
    std::fs::write(&config, free_ports.to_string()).expect("the folder is writable");
    let data_dir = scratch.path().join("data");
    let mut node = Command::new(binary())
        .args(["serve", "--announce", "none", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(&data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the server can be executed");
    let mut log = BufReader::new(node.stderr.take().expect("stderr is piped")).lines();
    let bound = async {
        loop {
            let line = log.next_line().await.expect("the log is text");
            let line = line.expect("the node logs that it is bound");
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(addr) = event["fields"]["client.addr"].as_str() {
                return addr.to_owned();
            }
        }
    };
    let addr = within("the node is bound", bound).await;
    // Whatever it announces, it does before it accepts; it may answer that it is starting.
    Http::new(&addr).get("/health").await;
    node.kill().await.expect("the process is ours");
    let mut said = String::new();
    let mut stdout = node.stdout.take().expect("stdout is piped");
    let reading = stdout.read_to_string(&mut said);
    within("standard output ends", reading)
        .await
        .expect("what is printed is text");
    assert_eq!(said, "");
    for name in ["admin.key", "api.key"] {
        let key = std::fs::read_to_string(data_dir.join(name)).expect("the key is in its file");
        assert!(key.starts_with("tg"), "{name}");
    }
}
