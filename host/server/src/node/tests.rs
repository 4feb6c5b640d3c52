//! Starts and ends of a node, without the binary around it.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;
use crate::config::Sources;

/// A node on free ports of this machine, unless said otherwise.
fn config(dir: &TempDir, more: &[(&str, String)]) -> Config {
    let mut environment: BTreeMap<String, String> = [
        ("TIDEGATE_HTTP_SERVER_ADDRESS", "127.0.0.1"),
        ("TIDEGATE_HTTP_SERVER_PORT", "0"),
        ("TIDEGATE_ADMIN_API_PORT", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    environment.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    let sources = Sources {
        file: None,
        environment: &environment,
        data_dir: Some(dir.path()),
    };
    crate::config::load(sources).unwrap().config
}

#[tokio::test(flavor = "multi_thread")]
async fn o2_a_service_that_panics_drains_the_node_and_fails_the_run() {
    let dir = TempDir::new().unwrap();
    let node = Node::build(config(&dir, &[])).await.unwrap();
    let readiness = node.readiness.clone();
    node.services
        .spawn("rotten", async { panic!("on purpose") });
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let ended = node.run(stop, hurry).await;
    assert!(
        matches!(ended, Err(RunError::Service("rotten"))),
        "{ended:?}"
    );
    assert!(!readiness.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_ends_well_and_its_database_is_one_file() {
    let dir = TempDir::new().unwrap();
    let node = Node::build(config(&dir, &[])).await.unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    node.run(stop, CancellationToken::new()).await.unwrap();
    let copy = TempDir::new().unwrap();
    let name = tidegate_control::DATABASE_FILE;
    std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    let mut restored = Node::build(config(&copy, &[])).await.unwrap();
    assert!(
        restored.announcement().first_keys.is_none(),
        "the copy has the keys of the first start"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_the_first_keys_to_the_one_that_does_not() {
    let dir = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let busy = config(&dir, &[("TIDEGATE_ADMIN_API_PORT", port)]);
    let failed = Node::build(busy).await;
    assert!(matches!(failed, Err(BuildError::Bind { .. })), "{failed:?}");
    let mut node = Node::build(config(&dir, &[])).await.unwrap();
    let keys = node.announcement().first_keys.unwrap();
    let file = std::fs::read_to_string(dir.path().join("admin.key")).unwrap();
    assert_eq!(file.trim(), keys.operator.secret.reveal());
}
