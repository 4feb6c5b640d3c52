//! Plugins and apps that were deleted: what they wrote until then is nobody's any more, whoever still tells of it.
//!
//! Pure. A grave is kept for as long as the longest-lived key of its plugin, so that a node which was cut off brings
//! nothing back; a plugin of the same name that comes later writes after it. Invariant: graves are bounded, and so is
//! each of them in time.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

use super::MAX_TTL;

/// Graves kept; deleting is done by hand. Beyond it the oldest go.
const MAX_GRAVES: usize = 256;

/// A plugin, or all of an app, that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forgotten {
    pub(crate) app: AppId,
    /// `None` for the whole app.
    pub(crate) plugin: Option<Arc<str>>,
    /// By the common time.
    pub(crate) at: u64,
}

/// What was deleted, here or elsewhere.
#[derive(Debug, Default)]
pub(super) struct Graves {
    at: FxHashMap<(AppId, Option<Arc<str>>), u64>,
}

impl Graves {
    /// Notes a deletion; whether it was not known.
    pub(super) fn dig(&mut self, forgotten: &Forgotten, now: u64) -> bool {
        let Forgotten { app, plugin, at } = forgotten;
        let at = *at;
        if at.saturating_add(MAX_TTL) <= now || self.of(app, plugin.as_deref()) >= at {
            return false;
        }
        self.at
            .retain(|_, other| other.saturating_add(MAX_TTL) > now);
        self.at.insert((app.clone(), plugin.clone()), at);
        if self.at.len() > MAX_GRAVES {
            let oldest = self.at.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(of, _)| of.clone()) {
                self.at.remove(&oldest);
            }
        }
        true
    }

    /// Until when what is written by a plugin, or by all of an app, is forgotten; zero for never.
    pub(super) fn of(&self, app: &AppId, plugin: Option<&str>) -> u64 {
        if self.at.is_empty() {
            return 0;
        }
        let of_app = self.at.get(&(app.clone(), None));
        let of_plugin = plugin.and_then(|plugin| self.at.get(&(app.clone(), Some(plugin.into()))));
        of_app.max(of_plugin).copied().unwrap_or(0)
    }

    pub(super) fn all(&self) -> Vec<Forgotten> {
        let all = self.at.iter();
        all.map(|((app, plugin), at)| Forgotten {
            app: app.clone(),
            plugin: plugin.clone(),
            at: *at,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forgotten(plugin: Option<&str>, at: u64) -> Forgotten {
        Forgotten {
            app: AppId::default_app(),
            plugin: plugin.map(Arc::from),
            at,
        }
    }

    #[test]
    fn an_apps_grave_is_each_of_its_plugins_and_none_is_for_ever() {
        let (mut graves, app) = (Graves::default(), AppId::default_app());
        assert!(graves.dig(&forgotten(Some("one"), 10), 10));
        assert!(!graves.dig(&forgotten(Some("one"), 9), 10), "known");
        assert!(graves.dig(&forgotten(None, 5), 10));
        let of = |graves: &Graves, plugin| graves.of(&app, plugin);
        assert_eq!(of(&graves, Some("one")), 10);
        assert_eq!(of(&graves, Some("two")), 5);
        assert_eq!(of(&graves, None), 5);
        assert_eq!(graves.of(&AppId::parse("other").unwrap(), Some("one")), 0);
        assert!(
            !graves.dig(&forgotten(Some("two"), 20), 20 + MAX_TTL),
            "over"
        );
        assert!(graves.dig(&forgotten(Some("two"), 100), 7 + MAX_TTL));
        assert_eq!((of(&graves, None), of(&graves, Some("one"))), (0, 10));
        for nth in 0..2 * MAX_GRAVES as u64 {
            graves.dig(&forgotten(Some(&format!("p{nth}")), 200 + nth), 1_000);
        }
        assert_eq!(graves.all().len(), MAX_GRAVES);
        assert_eq!(of(&graves, Some("one")), 0, "the oldest go");
    }
}
