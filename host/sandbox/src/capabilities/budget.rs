//! `budget`: what is left of the call's deadline, in whole milliseconds (threat model W8).
//!
//! It counts by the ticks that the deadline itself is counted by, so the two cannot disagree.

use crate::{generated::tidegate::plugin::budget::Host, guest::GuestState};

impl Host for GuestState {
    fn remaining(&mut self) -> wasmtime::Result<u32> {
        self.call.enter_host()?;
        let now = self.ticker.now();
        let left = self.call.deadline.remaining_millis(now);
        Ok(u32::try_from(left).unwrap_or(u32::MAX))
    }
}
