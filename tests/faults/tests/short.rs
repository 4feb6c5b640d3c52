//! The rows that every submission plays, at a quarter of their size. The full ones: `cargo xtask faults`.
//!
//! One after the other: each loads both cores. No bar of time but generous ones; everything that may not be lost,
//! doubled, reordered, forked or left unsaid is judged as in the full form.

use tidegate_faults::{rows::Row, stage::Size};
use tokio::sync::Mutex;

/// Held by the row that plays.
static STAGE: Mutex<()> = Mutex::const_new(());

#[expect(
    clippy::print_stdout,
    reason = "the line of the row belongs to the test's output"
)]
async fn passes(row: Row) {
    let _only_one = STAGE.lock().await;
    let report = row.run(Size::Quarter).await.expect("the row can be played");
    println!("{report}");
    let violations: Vec<String> = report
        .verdict
        .violations
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(violations.is_empty(), "{report}\n{}", violations.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_memory_engine_that_was_killed_says_that_its_streams_ended() {
    passes(Row::MemoryRestart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_recovers_everybody() {
    passes(Row::MemoryStorm).await;
}
