//! Subscriptions in a Redis Cluster: a line to every primary, and every name on the line of its slot.
//!
//! Owns opening and closing lines as primaries come and go, and finding a line for names that have none. Where a name
//! belongs is said by the map of slots, and more freshly by the server that no longer has it (`MOVED`).

use std::{sync::Arc, time::Duration};

use super::Shard;
use crate::config::Address;

/// How often the primaries are compared with the lines. A moved name needs no such look: the server says where to.
const INTERVAL: Duration = Duration::from_millis(250);

/// Pause after each look, so that names which no server takes for now are not offered in a circle.
const REST: Duration = Duration::from_millis(100);

/// Looks after which a server that is no primary of the map loses its line, ten seconds or so: the map may be behind
/// the server's own word.
const GRACE: u32 = 40;

/// Keeps the lines of a Cluster until the shard stops.
pub(super) async fn steer(shard: Arc<Shard>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = shard.stop.cancelled() => return,
            () = shard.has_homeless.notified() => {}
            _ = ticks.tick() => {}
        }
        // Outside a Cluster the answer would be a question to the sentinels; here it is read from memory.
        let Ok(primaries) = shard.pipe.primaries().await else {
            continue;
        };
        follow(&shard, &primaries);
        house(&shard);
        tokio::select! {
            () = shard.stop.cancelled() => return,
            () = tokio::time::sleep(REST) => {}
        }
    }
}

/// Opens lines to new primaries, closes those to servers that are none any more.
fn follow(shard: &Arc<Shard>, primaries: &[Address]) {
    for address in primaries {
        if shard.line_to(address).is_none() {
            shard.open_line(Some(address.clone()));
        }
    }
    if primaries.is_empty() {
        return;
    }
    let lines: Vec<_> = shard.lines.lock().values().cloned().collect();
    for line in lines {
        let is_primary = line
            .address
            .as_ref()
            .is_some_and(|address| primaries.contains(address));
        if line.miss(is_primary) > GRACE {
            shard.close_line(line.id);
        }
    }
}

fn house(shard: &Arc<Shard>) {
    let line_of = |name: &str| shard.line_of(name).map(|line| line.id);
    // Where names belong is found out before the registry is locked: lines are locked before it.
    let homeless = shard.registry.lock().homeless();
    let places: std::collections::HashMap<_, _> = homeless
        .into_iter()
        .filter_map(|name| line_of(&name).map(|line| (name, line)))
        .collect();
    let housed = shard
        .registry
        .lock()
        .house(|name| places.get(name).copied());
    for line in housed {
        if let Some(line) = shard.line(line) {
            line.wake.notify_one();
        }
    }
}
