//! How often an app's own keys may call (threat model N3).
//!
//! Counted are the calls of keys that belong to a created app. An operator's calls are not: else the keys of an app
//! could keep the operator from what has to be done about it.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tidegate_control::AppName;
use tokio::time::Instant;

use super::{access::Caller, problem::Problem};

/// Calls per second of an app, and as many at once.
pub(super) const CALLS_PER_SECOND: u32 = 20;

/// What one call uses up.
const COST: Duration = Duration::from_millis(1_000 / CALLS_PER_SECOND as u64);

/// What may be used up ahead.
const BURST: Duration = Duration::from_secs(1);

/// When each app will have paid for its calls; as many entries as apps at most.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    paid_at: Mutex<HashMap<AppName, Instant>>,
}

impl Quotas {
    /// Counts a call, or refuses it.
    pub(super) fn take(&self, caller: &Caller, now: Instant) -> Result<(), Problem> {
        let Some(app) = caller
            .app
            .as_ref()
            .filter(|app| app.as_str() != AppName::DEFAULT)
        else {
            return Ok(());
        };
        let mut paid_at = self.paid_at.lock();
        let due = paid_at.get(app).map_or(now, |due| (*due).max(now)) + COST;
        if due > now + BURST {
            return Err(Problem::new(
                "too-many-calls",
                format!("keys of this app may call {CALLS_PER_SECOND} times a second"),
            )
            .help("wait a second, then go on more slowly")
            .retry_after(BURST));
        }
        paid_at.insert(app.clone(), due);
        Ok(())
    }

    /// Nobody calls for the app any more.
    pub(super) fn forget(&self, app: &AppName) {
        self.paid_at.lock().remove(app);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control::{Actor, KeyRole};

    use super::*;

    fn caller(app: Option<&str>) -> Caller {
        Caller {
            actor: Actor::node(),
            role: KeyRole::Deploy,
            app: app.map(|app| AppName::parse(app).unwrap()),
        }
    }

    #[test]
    fn n3_an_app_has_twenty_calls_a_second_and_no_other_app_pays_for_them() {
        let quotas = Quotas::default();
        let start = Instant::now();
        let shop = caller(Some("shop"));
        for _ in 0..CALLS_PER_SECOND {
            quotas.take(&shop, start).unwrap();
        }
        let refused = quotas.take(&shop, start).unwrap_err();
        assert_eq!(refused.code(), "too-many-calls");
        for other in [Some("game"), Some("default"), None] {
            quotas.take(&caller(other), start).unwrap();
        }
        // A refused call costs nothing: after the time of one call, one more may be made.
        quotas.take(&shop, start + COST).unwrap();
        assert!(quotas.take(&shop, start + COST).is_err());
    }

    #[test]
    fn n3_the_app_of_the_file_and_operators_are_not_counted() {
        let quotas = Quotas::default();
        let now = Instant::now();
        for _ in 0..10 * CALLS_PER_SECOND {
            quotas.take(&caller(None), now).unwrap();
            quotas.take(&caller(Some("default")), now).unwrap();
        }
    }
}
