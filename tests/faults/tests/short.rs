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

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_loses_nothing_and_its_clients_recover_on_the_other() {
    passes(Row::NodeKill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_on_a_killed_node_leaves_once_and_nobody_else() {
    passes(Row::NodeKillSeen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_with_its_file_has_lost_nothing() {
    passes(Row::RedisKillWithFile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_empty_is_another_stream_for_everybody() {
    passes(Row::RedisKillWithoutFile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_that_lagged_is_another_stream_for_everybody() {
    passes(Row::Fork).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_has_confirmed_survives_the_primary() {
    passes(Row::ForkReplicated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_subscriptions_of_a_node_cost_nobody_a_publication() {
    passes(Row::KillSubscribers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_is_another_stream_for_everybody() {
    passes(Row::FlushAll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_nodes_are_replaced_under_load_and_nothing_is_lost() {
    passes(Row::RollingRestart).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_redis_reaches_nobody_and_loses_nothing() {
    passes(Row::Poison).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_lost_their_metadata_are_other_streams_for_everybody() {
    passes(Row::DeleteMeta).await;
}
