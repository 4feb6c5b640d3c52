//! `clock`: the time of the call, to the millisecond, standing still while the call runs (threat model W8).

use std::time::SystemTime;

use crate::{generated::tidegate::plugin::clock::Host, guest::GuestState};

impl Host for GuestState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.call.enter_host()?;
        Ok(*self.call.now_millis.get_or_insert_with(unix_millis))
    }
}

/// Milliseconds since 1970; a clock before that counts as 1970.
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
