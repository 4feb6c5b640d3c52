//! Whether a plugin can use settings, asked before they are bound.
//!
//! Asked of an instance that is made for it and serves no call, by a function that may call nothing, so that the answer
//! is that of the code alone.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Compiled, TRIAL_PATIENCE};
use crate::{
    Runtime,
    binding::Hook,
    deadline::{Deadline, STRETCH},
    failure::{Failure, FailureKind, Phase, escape},
    instance,
    instances::{Patience, Stage},
    limits, ticker,
    unit::Unit,
};

/// Longest answer of a plugin that is shown.
const WORDS_BYTES: usize = 1_024;

/// Why settings are not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsProblem {
    /// The plugin says so; its words, escaped.
    #[error("{0}")]
    Refused(String),
    /// It could not say.
    #[error("the plugin failed when it was asked about them ({kind}): {detail}")]
    Failed { kind: FailureKind, detail: String },
    /// Nobody knows: no instance could be had. Later there may be one.
    #[error("all plugin instances that the node may have are in use")]
    NoRoom,
}

impl Compiled {
    /// Asks the plugin whether it can use these settings at the hook; one that has nothing to say can use any. Takes as
    /// long as a call: for a blocking thread.
    pub(crate) fn check_settings(
        &self,
        runtime: &Runtime,
        hook: Hook,
        settings: &str,
    ) -> Result<(), SettingsProblem> {
        let Ok(parts) = &self.0 else {
            return Ok(());
        };
        let Some(indices) = &parts.indices.settings else {
            return Ok(());
        };
        let unit = Arc::new(Unit::trial(self, hook, runtime));
        let until = Patience::Until(Instant::now() + TRIAL_PATIENCE);
        let slot = runtime
            .instances
            .slot(Stage::UnderWay, until, runtime.engine.ticker.now());
        let (_slot, _) = slot.ok_or(SettingsProblem::NoRoom)?;
        let failed = |failure: Failure| match failure.kind {
            FailureKind::NoSlot => SettingsProblem::NoRoom,
            kind => SettingsProblem::Failed {
                kind,
                detail: failure.detail.to_string(),
            },
        };
        let started = instance::start(runtime, &unit, |store| {
            let instance = parts.pre.instantiate(&mut *store)?;
            indices.load(store, &instance)
        });
        let (mut store, guest) = started.map_err(failed)?;
        let ticks = ticker::ticks(limits::INSTANTIATION_DEADLINE);
        store.data_mut().call.deadline = Deadline::new(ticks, runtime.engine.ticker.now());
        store.set_epoch_deadline(STRETCH);
        runtime.engine.ticker.arm();
        match guest.call_check(&mut store, hook.as_str(), settings) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(words)) => Err(SettingsProblem::Refused(escape(&words, WORDS_BYTES))),
            Err(error) => {
                let was_denied = store.data().limiter.was_denied;
                Err(failed(Failure::classify(&error, Phase::Call, was_denied)))
            }
        }
    }
}
