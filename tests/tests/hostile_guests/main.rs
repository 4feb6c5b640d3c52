//! Hostile guests: each is uploaded to a node, bound in an app of its own and asked by a real client. Each comes to
//! its stated end, and a hundred bystanders in another app, the node's memory and the app's next plugin do not notice.
//!
//! Every guest is one file: `hostile-guests/NAME.wasm` in the folder for the tests' files below the target folder. Any
//! of them can be pushed to a server by hand.

mod bystanders;
mod rows;
mod stage;
mod wat;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use serde_json::{Value, json};
use tidegate_sandbox::Hook;
use tidegate_tests::{Node, within};
use tokio::{sync::Barrier, task::JoinSet};

use bystanders::Bystanders;
use rows::{Outcome, Row};
use stage::{Seen, Stage};
use wat::Guest;

/// Failures that a machine with more to do than it can makes of any call: it is asked again.
const OF_THE_MACHINE: [&str; 3] = ["timeout", "no-slot", "breaker-open"];
/// How often a failing guest is asked: the second time its instance is a fresh one.
const CALLS: usize = 2;
/// Memory that a node may keep for itself: the allocator's caches, and slots of the pool that stay warm.
const SLACK_BYTES: u64 = 64 << 20;

fn node() -> Node {
    Node::builder()
        // A row's own misdeed shall end it and not its deadline, except where that is the point.
        .set("plugins.deadline.filtering", json!("20ms"))
        .set("plugins.deadline.routing", json!("20ms"))
        .namespace(json!({
            "name": "open", "history_size": 100, "history_ttl": "60s",
            "allow_subscribe_for_client": true, "allow_publish_for_client": true,
        }))
        .start()
}

/// Writes every guest of the table to its file, and checks that the table is one.
fn write_files(rows: &[Row]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile-guests");
    fs::create_dir_all(&folder).expect("the folder of the tests is writable");
    let mut names = BTreeSet::new();
    for Row { name, wasm, .. } in rows {
        assert!(names.insert(name), "{name} is there twice");
        fs::write(folder.join(format!("{name}.wasm")), wasm).expect("the folder is writable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w1_every_file_that_is_no_plugin_is_refused_by_its_rule_and_hurts_nobody() {
    let node = node();
    let bystanders = Bystanders::gather(&node).await;
    let stage = Stage::open(&node, "uploads").await;
    let rows = rows::all();
    let mut failures = Vec::new();
    let mut n_refused = 0;
    for Row {
        name,
        wasm,
        outcome,
    } in rows
    {
        let (status, member, word) = match outcome {
            Outcome::Refused { rule } => (422, "rule", rule),
            Outcome::TooLarge => (413, "code", "too-large"),
            Outcome::Fails { .. } | Outcome::Answers { .. } => continue,
        };
        n_refused += 1;
        let answer = stage.upload(name, wasm).await;
        let problem = answer.json();
        let is_told = |member: &str| {
            problem[member]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        };
        if answer.status != status || problem[member] != word {
            failures.push(format!(
                "{name}: not refused by {word} but {} {problem}",
                answer.status
            ));
        } else if status == 422 && !(is_told("detail") && is_told("help")) {
            failures.push(format!("{name}: the refusal does not help: {problem}"));
        } else if stage.plugin(name).await.status != 404 {
            failures.push(format!("{name}: something of it stayed"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(n_refused >= 40, "only {n_refused} files were tried");
    bystanders.leave().await;
    Box::pin(stage.is_none_the_worse()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_every_hostile_guest_ends_as_stated_and_hurts_nobody() {
    let node = node();
    let bystanders = Bystanders::gather(&node).await;
    let rows = rows::all();
    let (mut failures, mut n_run) = (Vec::new(), 0);
    let (mut level, mut cursor) = (None, 0);
    for row in rows {
        if matches!(row.outcome, Outcome::Refused { .. } | Outcome::TooLarge) {
            continue;
        }
        n_run += 1;
        if let Err(failure) = Box::pin(run(&node, row, &mut cursor)).await {
            failures.push(failure);
        }
        // Caches and threads are there after a few; what comes on top from then on is kept for nothing.
        if n_run == 10 {
            level = Some(node.own_bytes());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(n_run >= 60, "only {n_run} guests were run");
    bystanders.leave().await;
    let level = level.expect("there are more than ten") + SLACK_BYTES;
    within("memory back at its level", async {
        while node.own_bytes() > level {
            node.metrics().await;
        }
    })
    .await;
    assert_eq!(node.admin().get("/admin/v1/status").await.status, 200);
}

/// Has one guest do its worst in an app of its own, then a good plugin in the same app. Answers what was not as stated.
async fn run(node: &Node, row: Row, cursor: &mut usize) -> Result<(), String> {
    let Row {
        name,
        wasm,
        outcome,
    } = row;
    let stage = Stage::open(node, name).await;
    let (Outcome::Fails { hook, .. } | Outcome::Answers { hook, .. }) = outcome else {
        return Err(format!("{name} is not one to run"));
    };
    let answer = stage.upload("guest", wasm).await;
    if answer.status != 201 {
        return Err(format!("{name} was not taken: {}", answer.json()));
    }
    let binding = stage.bind("guest", hook).await;
    let ended = match outcome {
        Outcome::Refused { .. } | Outcome::TooLarge => Ok(()),
        Outcome::Fails { kinds, says, .. } => {
            let mut ended = Ok(());
            for _ in 0..CALLS {
                ended = ended.and(Box::pin(fails(&stage, hook, kinds, says)).await);
            }
            // One warning a second leads from the log to the story.
            let is_told = |line: &Value| {
                line["fields"]["message"] == "plugin call failed" && line["fields"]["app"] == name
            };
            let told = node.log().next(cursor, is_told).await;
            if stage
                .explain(told["fields"]["trace_id"].as_str().unwrap_or_default())
                .await["story"]
                .is_null()
            {
                ended = ended.and(Err(format!("the log leads nowhere: {told}")));
            }
            ended
        }
        Outcome::Answers { calls, counted, .. } => {
            Box::pin(answers(&stage, hook, calls, counted)).await
        }
    };
    stage.unbind(&binding).await;
    Box::pin(stage.is_none_the_worse()).await;
    stage.close().await;
    ended.map_err(|problem| format!("{name}: {problem}"))
}

/// Asks once and checks the failure in every place where it shows.
async fn fails(
    stage: &Stage<'_>,
    hook: Hook,
    kinds: &[tidegate_sandbox::FailureKind],
    says: &str,
) -> Result<(), String> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let failed = Box::pin(async {
        loop {
            let trace = match Box::pin(stage.ask(hook)).await {
                Seen::Failed(trace) => trace,
                Seen::Fine => return Err("it was answered".to_owned()),
                Seen::Other(other) => return Err(format!("the client saw {other}, not error 100")),
            };
            let story = stage.explain(&trace).await;
            let step = &story["story"]["plugins"][0];
            let (Some(kind), Some(detail)) = (step["failure"].as_str(), step["detail"].as_str())
            else {
                return Err(format!("there is no story of {trace}: {story}"));
            };
            if !kinds.contains(&kind) {
                if OF_THE_MACHINE.contains(&kind) {
                    continue;
                }
                return Err(format!("it failed by {kind} ({detail}), not {kinds:?}"));
            }
            if !detail.to_lowercase().contains(&says.to_lowercase()) {
                return Err(format!("the story says {detail:?} and nothing of {says:?}"));
            }
            let counted = stage.failures(hook, kind).await;
            if counted == 0 {
                return Err(format!("no {kind} was counted"));
            }
            return Ok(());
        }
    });
    within("a failure that is the guest's own", failed).await
}

/// Asks so often, and gets an answer every time.
async fn answers(
    stage: &Stage<'_>,
    hook: Hook,
    calls: usize,
    counted: Option<&str>,
) -> Result<(), String> {
    let families: Vec<&str> = counted.into_iter().collect();
    let count = async || stage.node.metrics().await.of(&families);
    let before = count().await;
    for _ in 0..calls {
        let answered = Box::pin(async {
            loop {
                match Box::pin(stage.ask(hook)).await {
                    Seen::Fine => return Ok(()),
                    Seen::Failed(trace) => {
                        let story = stage.explain(&trace).await;
                        let kind = story["story"]["plugins"][0]["failure"].as_str();
                        if !kind.is_some_and(|kind| OF_THE_MACHINE.contains(&kind)) {
                            return Err(format!("it failed: {story}"));
                        }
                    }
                    Seen::Other(other) => return Err(format!("the client saw {other}")),
                }
            }
        });
        within("an answer", answered).await?;
    }
    if let Some(name) = counted
        && count().await == before
    {
        return Err(format!("{name} does not tell of it"));
    }
    Ok(())
}

/// A plugin that works: every message becomes this one.
fn good() -> Vec<u8> {
    let replaced = wat::hands_out((wat::TEXT, 6));
    Guest::new(Hook::Filtering, replaced)
        .text("\\22good\\22")
        .wasm()
}

/// Calls that are made at once.
const AT_ONCE: usize = 50;
/// What they may take together: two instances' memory and much room, where one of each would take six times as much.
const AT_ONCE_BYTES: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_bombs_and_fifty_loops_at_once_end_all_and_take_the_memory_of_few() {
    let node = node();
    let mut stages = Vec::new();
    let mut clients = Vec::new();
    let before = node.peak_bytes();
    for guest in ["memory-bomb-that-writes", "loop-in-rpc"] {
        let rows = rows::all();
        let row = rows.into_iter().find(|row| row.name == guest);
        let stage = Stage::open(&node, guest).await;
        let answer = stage.upload("guest", row.expect("a row of the table").wasm);
        assert_eq!(answer.await.status, 201);
        stage.bind("guest", Hook::Rpc).await;
        for nth in 0..AT_ONCE {
            clients.push(stage.connect(&format!("user-{nth}")).await);
        }
        stages.push((guest, stage));
    }
    // All are connected before the first of them asks.
    let begin = Arc::new(Barrier::new(clients.len()));
    let mut calls = JoinSet::new();
    for mut client in clients {
        let begin = Arc::clone(&begin);
        calls.spawn(async move {
            begin.wait().await;
            client.rpc("method", &json!({})).await
        });
    }
    while let Some(reply) = calls.join_next().await {
        let reply = reply.expect("every call is answered");
        assert_eq!(reply.error.map(|error| error.code), Some(100));
    }
    let taken = node.peak_bytes() - before;
    assert!(taken < AT_ONCE_BYTES, "{taken} bytes");
    let metrics = node.metrics().await;
    for (guest, stage) in stages {
        // A breaker answered most of them, but only because as many as it takes had really run.
        let ran: u64 = ["memory", "timeout"]
            .iter()
            .map(|end| {
                metrics.get(&format!(
                    "tidegate_plugin_calls_total{{app=\"{guest}\",plugin=\"guest\",hook=\"rpc\",end=\"{end}\"}}"
                ))
            })
            .sum();
        assert!(ran >= 3, "{guest}: {ran}");
        Box::pin(stage.is_none_the_worse()).await;
    }
}

#[tokio::test]
async fn what_a_plugin_does_wrong_is_not_laid_to_its_clients() {
    // A client is cut off for good (3509) after a hundred errors in a minute, if they are its own.
    const CALLS: usize = 150;
    let node = node();
    let stage = Stage::open(&node, "shop").await;
    let wasm = Guest::new(Hook::Rpc, "(unreachable)").wasm();
    assert_eq!(stage.upload("guest", wasm).await.status, 201);
    stage.bind("guest", Hook::Rpc).await;
    let mut client = stage.connect("ann").await;
    for _ in 0..CALLS {
        let reply = client.rpc("method", &json!({})).await;
        assert_eq!(reply.error.map(|error| error.code), Some(100));
    }
    Box::pin(stage.is_none_the_worse()).await;
    assert!(client.subscribe("open:room").await.subscribe.is_some());
}

#[tokio::test]
async fn what_a_deleted_app_kept_in_state_is_given_back() {
    let node = node();
    let stage = Stage::open(&node, "shop").await;
    let bomb = rows::memory::state_bomb().wasm();
    assert_eq!(stage.upload("guest", bomb).await.status, 201);
    let binding = stage.bind("guest", Hook::Rpc).await;
    let used = async || {
        node.metrics()
            .await
            .get("tidegate_plugin_state_bytes{app=\"shop\"}")
    };
    within("bytes of the guest", async {
        while used().await == 0 {
            Box::pin(stage.ask(Hook::Rpc)).await;
        }
    })
    .await;
    stage.unbind(&binding).await;
    assert!(used().await > 0, "it may be bound again, and lost nothing");
    stage.close().await;
    assert_eq!(used().await, 0);
}

#[test]
fn the_table_has_a_file_for_every_guest() {
    let rows = rows::all();
    write_files(&rows);
    assert!(rows.len() >= 40, "{}", rows.len());
}
