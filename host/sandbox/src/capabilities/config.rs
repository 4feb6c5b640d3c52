//! `config`: the binding's settings. An instance belongs to one binding, so it sees one text for life.

use crate::{generated::tidegate::plugin::config::Host, guest::GuestState};

impl Host for GuestState {
    fn get(&mut self) -> wasmtime::Result<String> {
        self.call.enter_host()?;
        Ok(self.unit.config.as_ref().to_owned())
    }
}
