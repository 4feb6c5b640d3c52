//! The scripts about streams, and the arguments that they share.

use std::{
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use tidegate_realtime::broker::{HistoryOptions, IDEMPOTENCY_TTL};

use crate::{commands::Script, connect::Generation, envelope::EPOCH_LEN};

const POSITION: &str = include_str!("../scripts/position.lua");
const PUBLISH: &str = include_str!("../scripts/publish.lua");
const HISTORY: &str = include_str!("../scripts/history.lua");
const RENEW: &str = include_str!("../scripts/renew.lua");

/// The scripts, with their digests.
#[derive(Debug)]
pub(super) struct Scripts {
    publish: Script,
    /// The same for a Cluster, whose pub/sub is sharded.
    publish_sharded: Script,
    history: Script,
    renew: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |rest: &str| Script::new([POSITION, rest].concat());
        Self {
            publish: script(PUBLISH),
            publish_sharded: script(&PUBLISH.replace("'PUBLISH'", "'SPUBLISH'")),
            history: script(HISTORY),
            renew: script(RENEW),
        }
    }

    pub(super) fn publish(&self, is_cluster: bool) -> &Script {
        if is_cluster {
            &self.publish_sharded
        } else {
            &self.publish
        }
    }

    pub(super) fn history(&self) -> &Script {
        &self.history
    }

    pub(super) fn renew(&self) -> &Script {
        &self.renew
    }
}

/// What `position.lua` calls the stamp, of fixed width.
#[derive(Debug)]
pub(super) struct Stamp([u8; STAMP_LEN]);

const GENERATION_LEN: usize = 16;
const TIME_LEN: usize = 10;
const STAMP_LEN: usize = GENERATION_LEN + TIME_LEN + EPOCH_LEN;

impl Stamp {
    pub(super) fn new(generation: &Generation, epoch: &[u8; EPOCH_LEN]) -> Self {
        let mut stamp = [b'0'; STAMP_LEN];
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let mut rest = &mut stamp[..];
        // All three are as long as their places; the time outgrows its own in the year 2286.
        let _ = write!(rest, "{}{now:010}", generation.as_str());
        stamp[STAMP_LEN - EPOCH_LEN..].copy_from_slice(epoch);
        Self(stamp)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Eight letters, as the reference's.
pub(super) fn random_epoch() -> [u8; EPOCH_LEN] {
    let mut number: u64 = rand::rng().random();
    std::array::from_fn(|_| {
        let letter = u8::try_from(number % 26).unwrap_or_default();
        number /= 26;
        b'a' + letter
    })
}

/// How long a stream and its meta live, in the form of `publish.lua`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lives {
    /// 0 for no history.
    pub(super) size: usize,
    pub(super) stream_millis: u64,
    pub(super) meta_millis: u64,
}

impl Lives {
    pub(super) fn of(history: Option<HistoryOptions>) -> Self {
        match history {
            Some(HistoryOptions {
                size,
                ttl,
                meta_ttl,
            }) => Self {
                // None at all would read as no history.
                size: size.max(1),
                stream_millis: lengthened(ttl),
                meta_millis: lengthened(meta_ttl),
            },
            None => Self {
                size: 0,
                stream_millis: 0,
                meta_millis: millis(IDEMPOTENCY_TTL),
            },
        }
    }
}

/// A sixteenth longer and a second, so that a life need not be renewed more often than that; see `publish.lua`.
fn lengthened(life: Duration) -> u64 {
    millis(life + life / 16 + Duration::from_millis(1_100))
}

pub(super) fn millis(duration: Duration) -> u64 {
    // Redis refuses lives that overflow its clock: a thousand years are enough.
    const MAX: u64 = 1_000 * 365 * 24 * 3_600 * 1_000;
    u64::try_from(duration.as_millis()).map_or(MAX, |millis| millis.min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_eight_letters_and_differ() {
        let (one, two) = (random_epoch(), random_epoch());
        assert!(one.iter().all(u8::is_ascii_lowercase));
        assert_ne!(one, two);
    }

    #[test]
    fn the_sharded_script_differs_in_one_word() {
        let scripts = Scripts::new();
        assert_ne!(
            format!("{:?}", scripts.publish(true)),
            format!("{:?}", scripts.publish(false))
        );
        assert_eq!(PUBLISH.matches("'PUBLISH'").count(), 1);
    }
}
