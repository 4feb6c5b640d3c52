//! What a session is told with every call: the time, the settings, and who it is to say that it is.

use tokio::time::Instant;

use crate::{config::RealtimeConfig, ids::SessionId};

/// The present time on both clocks: durations by the monotonic one, claims by the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    /// Unix milliseconds.
    pub unix_millis: u64,
}

impl Now {
    pub fn read() -> Self {
        let unix = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            instant: Instant::now(),
            unix_millis: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub fn unix(&self) -> u64 {
        self.unix_millis / 1000
    }

    /// When the wall clock will show `unix` seconds; now for the past.
    pub(super) fn instant_of(&self, unix: u64) -> Instant {
        /// The longest life a connection may have, so that no arithmetic overflows.
        const YEAR: u64 = 366 * 24 * 3600;
        let seconds = unix.saturating_sub(self.unix()).min(YEAR);
        self.instant + std::time::Duration::from_secs(seconds)
    }
}

/// What a session is told with every call.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub now: Now,
    pub settings: &'a RealtimeConfig,
    /// Shown to clients as the server's version.
    pub version: &'a str,
    /// Where an emulated session is to be found; `None` for sessions with a socket of their own.
    pub address: Option<&'a SessionAddress<'a>>,
}

/// What a client says with every request of its own, so that the request finds its session.
#[derive(Debug, Clone, Copy)]
pub struct SessionAddress<'a> {
    pub session: SessionId,
    pub node: &'a str,
}
