//! `random`: the operating system's, bounded per call.

use crate::{failure::GuestFault, generated::tidegate::plugin::random::Host, guest::GuestState};

/// Most bytes of one call.
const MAX_BYTES: u32 = 1_024;

impl Host for GuestState {
    fn bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        self.call.enter_host()?;
        if len > MAX_BYTES {
            return Err(GuestFault::limit(format!(
                "random.bytes was asked for {len} bytes, more than {MAX_BYTES}"
            ))
            .into());
        }
        let mut bytes = vec![0; len as usize];
        fill(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        self.call.enter_host()?;
        let mut bytes = [0; 8];
        fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

fn fill(bytes: &mut [u8]) -> wasmtime::Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| wasmtime::Error::msg(format!("no randomness to be had: {error}")))
}
