//! `presence`: who is subscribed. This node keeps none, and says so rather than make something up.

use crate::{
    generated::tidegate::plugin::presence::{Host, Member, PresenceError, Stats},
    guest::GuestState,
};

impl GuestState {
    fn no_presence<T>(&mut self) -> wasmtime::Result<Result<T, PresenceError>> {
        self.call.enter_host()?;
        let text = "this node keeps no presence; decide without it".to_owned();
        Ok(Err(PresenceError::Unavailable(text)))
    }
}

impl Host for GuestState {
    fn count(&mut self, _channel: String) -> wasmtime::Result<Result<Stats, PresenceError>> {
        self.no_presence()
    }

    fn members(
        &mut self,
        _channel: String,
        _limit: u32,
    ) -> wasmtime::Result<Result<Vec<Member>, PresenceError>> {
        self.no_presence()
    }

    fn is_present(
        &mut self,
        _channel: String,
        _user: String,
    ) -> wasmtime::Result<Result<bool, PresenceError>> {
        self.no_presence()
    }
}
