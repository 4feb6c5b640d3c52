//! Lines that strangers cause and operators want: the first of a kind each minute, with the number of those left
//! out. Whoever floods the node writes one line a minute per kind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long one line stands for all of its kind.
const SPAN: Duration = Duration::from_secs(60);

/// What was told lately. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<BTreeMap<&'static str, Told>>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    suppressed: u64,
}

impl Notices {
    /// Whether a line of this kind is due, and if so how many were left out since the last one. Kinds are a closed
    /// set.
    pub fn due(&self, kind: &'static str) -> Option<u64> {
        self.due_at(kind, Instant::now())
    }

    fn due_at(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock();
        match kinds.get_mut(kind) {
            Some(told) if now.duration_since(told.at) < SPAN => {
                told.suppressed += 1;
                None
            }
            Some(told) => {
                told.at = now;
                Some(std::mem::take(&mut told.suppressed))
            }
            None => {
                let at = now;
                kinds.insert(kind, Told { at, suppressed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_in_a_minute_is_told_and_the_others_are_counted() {
        let notices = Notices::default();
        let start = Instant::now();
        assert_eq!(notices.due_at("origin", start), Some(0));
        assert_eq!(notices.due_at("origin", start), None);
        assert_eq!(notices.clone().due_at("origin", start), None);
        assert_eq!(notices.due_at("token", start), Some(0), "another kind");
        assert_eq!(notices.due_at("origin", start + SPAN), Some(2));
        assert_eq!(notices.due_at("origin", start + SPAN), None);
    }
}
