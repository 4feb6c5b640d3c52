//! What a plugin does besides answering: the events that it wants to be told, the periods at which it wants to run.
//!
//! It says so itself when it is tried out, by functions that may call nothing, so that it says the same whenever the
//! same code is loaded.

use std::{sync::Arc, time::Duration};

use tidegate_realtime::{
    events::{EventKind, Kinds},
    hooks::Period,
};

use super::CompileError;
use crate::{
    Runtime,
    admit::AdmissionRefused,
    deadline::{Deadline, STRETCH},
    failure::{Failure, Phase},
    generated::exports::tidegate::plugin as wit,
    instance::{Export, Instance},
    limits, ticker,
};

/// Most periods of a plugin.
const MAX_PERIODS: usize = 16;
const PERIOD_NAME_BYTES: usize = 64;
/// The longest period, 31 days: what comes less often than once a month is no work for a plugin that may be replaced
/// meanwhile.
const LONGEST_PERIOD: Duration = Duration::from_secs(31 * 24 * 3_600);

/// What a version does besides answering.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PluginDuties {
    pub(crate) wanted: Kinds,
    pub(crate) periods: Arc<[Period]>,
}

impl PluginDuties {
    /// Asks the instance of one hook what it has to say.
    pub(super) fn ask(
        &mut self,
        runtime: &Runtime,
        instance: &mut Instance,
    ) -> Result<(), CompileError> {
        let Instance { store, export, .. } = instance;
        let ticks = ticker::ticks(limits::INSTANTIATION_DEADLINE);
        store.data_mut().call.deadline = Deadline::new(ticks, runtime.engine.ticker.now());
        store.set_epoch_deadline(STRETCH);
        runtime.engine.ticker.arm();
        match export {
            Export::Events(guest) => {
                let wanted = guest.call_wanted(&mut *store);
                let wanted = wanted.map_err(|error| failed(store, "wanted", &error))?;
                self.wanted = kinds(wanted);
                if self.wanted.is_empty() {
                    return Err(refused("events", "it wants to be told of nothing").into());
                }
            }
            Export::Schedule(guest) => {
                let periods = guest.call_periods(&mut *store);
                let periods = periods.map_err(|error| failed(store, "periods", &error))?;
                self.periods = check(&periods).map_err(|problem| refused("schedule", problem))?;
            }
            Export::Authentication(_)
            | Export::Authorization(_)
            | Export::Filtering(_)
            | Export::Routing(_)
            | Export::Rpc(_) => {}
        }
        Ok(())
    }
}

fn refused(rule: &'static str, detail: impl Into<String>) -> AdmissionRefused {
    AdmissionRefused::new(
        rule,
        detail,
        "name at least one kind of event, and 1 to 16 periods of 1 second to 31 days with different names of \
         a-z, 0-9 and `-`",
    )
}

fn failed(
    store: &wasmtime::Store<crate::guest::GuestState>,
    function: &str,
    error: &wasmtime::Error,
) -> AdmissionRefused {
    let was_denied = store.data().limiter.was_denied;
    let failure = Failure::classify(error, Phase::Call, was_denied);
    AdmissionRefused::new(
        "duties",
        format!("its function `{function}` failed: {}", failure.detail),
        "answer a constant there; it is asked before anything else and may call nothing",
    )
}

fn kinds(wanted: wit::events::Kinds) -> Kinds {
    use wit::events::Kinds as Flags;
    EventKind::ALL
        .into_iter()
        .filter(|kind| {
            wanted.contains(match kind {
                EventKind::Connected => Flags::CONNECTED,
                EventKind::Disconnected => Flags::DISCONNECTED,
                EventKind::Subscribed => Flags::SUBSCRIBED,
                EventKind::Unsubscribed => Flags::UNSUBSCRIBED,
                EventKind::Published => Flags::PUBLISHED,
                EventKind::Occupied => Flags::OCCUPIED,
                EventKind::Vacated => Flags::VACATED,
                EventKind::Online => Flags::ONLINE,
                EventKind::Offline => Flags::OFFLINE,
            })
        })
        .collect()
}

fn check(periods: &[wit::schedule::Period]) -> Result<Arc<[Period]>, String> {
    if !(1..=MAX_PERIODS).contains(&periods.len()) {
        return Err(format!("it has {} periods", periods.len()));
    }
    let mut checked: Vec<Period> = Vec::with_capacity(periods.len());
    for period in periods {
        let name = &period.name;
        let is_name = (1..=PERIOD_NAME_BYTES).contains(&name.len())
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !is_name {
            return Err("the name of a period is not one".to_owned());
        }
        if checked.iter().any(|known| *known.name == **name) {
            return Err(format!("two periods are called `{name}`"));
        }
        let every = Duration::from_secs(period.every_seconds.into());
        if every.is_zero() || every > LONGEST_PERIOD {
            return Err(format!(
                "the period `{name}` is {} seconds",
                period.every_seconds
            ));
        }
        checked.push(Period {
            name: name.as_str().into(),
            every,
        });
    }
    Ok(checked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn periods(of: &[(&str, u32)]) -> Vec<wit::schedule::Period> {
        let of = of
            .iter()
            .map(|(name, every_seconds)| wit::schedule::Period {
                name: (*name).to_owned(),
                every_seconds: *every_seconds,
            });
        of.collect()
    }

    #[test]
    fn w7_periods_out_of_range_are_no_periods() {
        let month = 31 * 24 * 3_600;
        assert_eq!(
            check(&periods(&[("a", 1), ("b-1", month)])).unwrap().len(),
            2
        );
        let names: Vec<String> = (0..17).map(|number| format!("p{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 60)).collect();
        assert!(check(&periods(&many[..16])).is_ok());
        let long = "x".repeat(65);
        for bad in [
            &[][..],
            &many,
            &[("", 60)],
            &[("A", 60)],
            &[("a b", 60)],
            &[(&long, 60)],
            &[("a", 60), ("a", 120)],
            &[("a", 0)],
            &[("a", month + 1)],
        ] {
            assert!(check(&periods(bad)).is_err(), "{bad:?}");
        }
    }
}
