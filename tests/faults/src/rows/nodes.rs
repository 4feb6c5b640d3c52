//! Faults of our own processes: killed, stopped, drained, and cut off from their clients.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_test_redis::{RedisOptions, RedisServer};

use super::{Played, all_of_before, ends, finish, not_recovered, slower_than, without_ack};
use crate::{
    checker::{AckedLoss, Expectation, Recovery},
    load::LoadOptions,
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
