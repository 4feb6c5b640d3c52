//! Faults of our own processes: killed, stopped, drained, and cut off from their clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_test_redis::{RedisOptions, RedisServer};
use tokio::time::Instant;

use super::{Played, all_of_before, ends, finish, not_recovered, slower_than, without_ack};
use crate::{
    checker::{AckedLoss, Expectation, LeavesBar, Recovery},
    load::LoadOptions,
    members::{self, Members, Witness},
    record::Leaves,
    stage::{Size, Stage, memory, redis},
};

pub(super) async fn memory_restart(size: Size) -> Played {
    let mut stage = Stage::open(&memory(), 1, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    stage.restart(0)?;
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, not_recovered).await?;
    let expected = Expectation {
        acked_loss: AckedLoss::WithTheEpoch(all_of_before(size, &record)),
        truth_within: Some(size.bar(5)),
        flow_within: Some(size.bar(25)),
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn memory_storm(size: Size) -> Played {
    let stage = Stage::open(&memory(), 1, storm_load(size)).await?;
    cut_all(stage, size).await
}

pub(super) async fn storm(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let stage = Stage::open(&redis(&server.addr()), 2, storm_load(size)).await?;
    cut_all(stage, size).await
}

/// Many clients, a quarter of them in the short form, and few publishes.
fn storm_load(size: Size) -> LoadOptions {
    let (subscribers, rate) = match size {
        Size::Quarter => (2_500, 50),
        Size::Full => (10_000, 100),
    };
    LoadOptions {
        subscribers,
        rate,
        ..size.load()
    }
}

async fn cut_all(mut stage: Stage, size: Size) -> Played {
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    stage.load.cut_all();
    stage.load.healed();
    stage.load.run_for(size.after() + size.hold()).await;
    let record = finish(stage, ends).await?;
    let expected = Expectation {
        // It is the clients that are many here.
        least_acked: match size {
            Size::Quarter => 200,
            Size::Full => 2_000,
        },
        flow_within: Some(size.bar(30)),
        recovery: Recovery::SomeAndAll,
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn kill(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    stage.nodes[1].kill();
    stage.load.healed();
    stage.load.run_for(size.hold() + size.after()).await;
    let record = finish(stage, ends).await?;
    let expected = Expectation {
        truth_within: Some(size.bar(1)),
        flow_within: Some(size.bar(25)),
        recovery: Recovery::SomeAndAll,
        ..size.expectation()
    };
    Ok((record, expected))
}

/// Longer than the lease of a dead node's book.
const SECOND_SURVIVOR: Duration = Duration::from_secs(17);

/// Sessions on the node that is not killed.
const LIVING: usize = 40;

/// What a survivor tells in a second by the pace of `docs/cluster.md`, with room for a witness who hears in bursts.
const LEAVES_PER_SECOND: usize = 3_000;

/// Of those on the killed node others hear that they left, from the survivor: once of each, and of nobody else.
pub(super) async fn kill_seen(size: Size) -> Played {
    let number = match size {
        Size::Quarter => 400,
        Size::Full => 4_000,
    };
    let server = RedisServer::start(&RedisOptions::default());
    let settings = members::settings(redis(&server.addr()));
    let mut stage = Stage::open(&settings, 2, size.load()).await?;
    let [survivor, victim] = [0, 1].map(|index| stage.nodes[index].addr());
    let witness = Witness::listen(survivor).await?;
    let living = Members::join(survivor, "living", LIVING).await?;
    let lost = Members::join(victim, "lost", number).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    let fault_at = Instant::now();
    stage.nodes[1].kill();
    stage.load.healed();
    // The survivor is sure after 7 to 13 s.
    let bar = LeavesBar {
        within: size.bar(20),
        most_per_second: LEAVES_PER_SECOND,
    };
    witness.until(number, bar.within).await;
    // In which another survivor would tell it again.
    stage.load.run_for(SECOND_SURVIVOR).await;
    let leaves = Leaves {
        heard: witness.heard(fault_at),
        present: members::present(survivor).await?,
        living: living.clients.clone(),
        lost: lost.clients.clone(),
    };
    let num_heard = leaves.heard.len() as u64;
    let mut record = finish(stage, |_| num_heard).await?;
    record.leaves = Some(leaves);
    let expected = Expectation {
        truth_within: Some(size.bar(1)),
        flow_within: Some(size.bar(25)),
        recovery: Recovery::SomeAndAll,
        leaves: Some(bar),
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn pause(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    stage.nodes[1].pause();
    let hold = match size {
        Size::Quarter => size.hold(),
        Size::Full => Duration::from_secs(20),
    };
    stage.load.run_for(hold).await;
    stage.nodes[1].resume();
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let effect = |record: &_| slower_than(record, Duration::from_secs(1)) + without_ack(record);
    let record = finish(stage, effect).await?;
    let expected = Expectation {
        flow_within: Some(size.bar(25)),
        recovery: Recovery::WhoeverAsks,
        // Nothing bounds the answer of a node that stands still but the publisher's own patience.
        publish_within: None,
        ..size.expectation()
    };
    Ok((record, expected))
}

pub(super) async fn rolling_restart(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    for node in 0..2 {
        drain(&mut stage, node).await?;
        stage.restart(node)?;
        // As an orchestrator does: the next one only when this one serves.
        stage.load.run_for(size.hold() / 4).await;
    }
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, ends).await?;
    let expected = Expectation {
        flow_within: Some(size.bar(25)),
        recovery: Recovery::SomeAndAll,
        ..size.expectation()
    };
    Ok((record, expected))
}

/// Asks a node to drain; it ends in good order and in time.
async fn drain(stage: &mut Stage, node: usize) -> Result<()> {
    let start = tokio::time::Instant::now();
    let code = stage.nodes[node].drained().await?;
    let took = start.elapsed();
    ensure!(code == Some(0), "node {node} ended with {code:?}");
    ensure!(
        took <= Duration::from_secs(60),
        "node {node} drained for {took:?}"
    );
    Ok(())
}
