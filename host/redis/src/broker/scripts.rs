//! The scripts about streams, and the arguments that they share.

use std::{
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use tidegate_realtime::broker::{HistoryOptions, IDEMPOTENCY_TTL};

use crate::{commands::Script, connect::Generation, envelope::EPOCH_LEN};

const POSITION: &str = include_str!("../scripts/position.lua");
const PUBLISH_USUAL: &str = include_str!("../scripts/publish_usual.lua");
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
        let publish = |rest: &str| Script::new([PUBLISH_USUAL, POSITION, rest].concat());
        Self {
            publish: publish(PUBLISH),
            publish_sharded: publish(&PUBLISH.replace("'PUBLISH'", "'SPUBLISH'")),
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

/// What `position.lua` calls the stamp.
#[derive(Debug)]
pub(super) struct Stamp(Vec<u8>);

impl Stamp {
    /// Of somebody who keeps nothing: reads, or renews an epoch.
    pub(super) fn new(generation: &Generation, epoch: &[u8; EPOCH_LEN]) -> Self {
        Self::with(generation, 0, 0, epoch)
    }

    /// Of a publication, with the lives that `publish_usual.lua` wants behind it.
    pub(super) fn of_publication(
        generation: &Generation,
        lives: &Lives,
        epoch: &[u8; EPOCH_LEN],
    ) -> Self {
        let Lives {
            size,
            stream_millis,
            meta_millis,
        } = *lives;
        let mut stamp = Self::with(generation, size, term(stream_millis), epoch);
        // Writing to a vector cannot fail.
        let _ = write!(stamp.0, ":{meta_millis}:{stream_millis}");
        stamp
    }

    fn with(generation: &Generation, size: usize, term: u64, epoch: &[u8; EPOCH_LEN]) -> Self {
        let mut stamp = Vec::with_capacity(STAMP_CAPACITY);
        // Each is as long as its place; the term outgrows its own in the year 2286.
        let _ = write!(stamp, "{}{size:08}{term:010}", generation.as_str());
        stamp.extend_from_slice(epoch);
        Self(stamp)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The stamp's 42 characters and two lives.
const STAMP_CAPACITY: usize = 80;

/// Which piece of time this is. A life is renewed by the first publication of a piece, so pieces are as long as what
/// [`lengthened`] adds to a life, and at least the second that it adds besides.
fn term(stream_millis: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs() / (stream_millis / 17_000).max(1)
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

/// The most entries that the stamp has digits for.
const MAX_SIZE: usize = 99_999_999;

/// How long a stream and its meta live, in the form of `publish.lua`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lives {
    /// 0 for no history; [`MAX_SIZE`] at most.
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
                size: size.clamp(1, MAX_SIZE),
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

/// A sixteenth longer and a second, so that a life need not be renewed more often than that; see [`term`].
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
    fn a_life_that_is_renewed_once_a_term_is_as_long_as_asked_for_at_its_end() {
        for seconds in [1, 10, 17, 18, 60, 300, 86_400] {
            let asked = Duration::from_secs(seconds);
            let life = lengthened(asked);
            let term_millis = (life / 17_000).max(1) * 1_000;
            assert!(life - term_millis >= millis(asked), "{seconds} s");
        }
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
