//! What nodes say to each other of their plugins' keys, as JSON.
//!
//! Invariant: what [`Message::parse`] answers keeps every bound that the store relies on: lengths, times to live,
//! times that are not in the future, shares that were not begun before their counter.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_realtime::ids::AppId;

use super::super::{
    merge::{Counter, Known, Origin, Share, Stamp},
    store::{Forgotten, KEY_BYTES, MAX_SHARES, MAX_TTL, Told, VALUE_BYTES},
};

/// Longest name of a plugin.
const MAX_PLUGIN_BYTES: usize = 64;

/// How far beyond the time of its message something may have been written: many writes to a key within a millisecond
/// run ahead of the clock.
const MAX_AHEAD: u64 = 10_000;

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Message {
    /// The sender's common time.
    pub(super) now: u64,
    pub(super) said: Said,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// What was deleted and then what changed, to everyone; batches are numbered from 1 without a gap.
    Changes {
        batch: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        forgotten: Vec<Deleted>,
        plugins: Vec<PluginKeys>,
    },
    /// The number of the last batch.
    Last { batch: u64 },
    /// The asker wants to be told again what was in batches after that one; `is_whole`: and all that the node knows of
    /// others.
    Pull { since: u64, is_whole: bool },
    /// A part of the answer. The first one holds all that is known to have been deleted, the last one says which
    /// batch it comes up to.
    Repeat {
        since: u64,
        part: u32,
        upto: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        forgotten: Vec<Deleted>,
        plugins: Vec<PluginKeys>,
    },
}

/// A plugin, or an app where none is named, that was deleted, and when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Deleted {
    app: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plugin: Option<String>,
    at: u64,
}

impl Deleted {
    pub(super) fn new(forgotten: Forgotten) -> Self {
        let Forgotten { app, plugin, at } = forgotten;
        Self {
            app: app.as_str().to_owned(),
            plugin: plugin.as_deref().map(str::to_owned),
            at,
        }
    }

    /// As it may be carried out; `None` if it breaks a bound.
    pub(super) fn read(self, now: u64) -> Option<Forgotten> {
        let Self { app, plugin, at } = self;
        let is_name = |name: &str| (1..=MAX_PLUGIN_BYTES).contains(&name.len());
        if !plugin.as_deref().is_none_or(is_name) || at > now.saturating_add(MAX_AHEAD) {
            return None;
        }
        Some(Forgotten {
            app: AppId::parse(&app).ok()?,
            plugin: plugin.map(Arc::from),
            at,
        })
    }
}

/// Keys of one plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PluginKeys {
    pub(super) app: String,
    pub(super) plugin: String,
    keys: Vec<Key>,
}

/// A key: one of a value, a deletion and a counter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Key {
    k: String,
    /// At, by, end, value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<(u64, Origin, u64, String)>,
    /// At, by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    g: Option<(u64, Origin)>,
    /// How long the deletion matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    u: Option<u64>,
    /// Since, and of each share: by, begun, version, net, end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<(u64, Vec<Part>)>,
}

type Part = (Origin, u64, u64, i64, u64);

impl Message {
    pub(super) fn encode(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("numbers and texts are JSON")
    }

    /// Reads a message; `None` for what is none, or is of a newer release.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl PluginKeys {
    pub(super) fn new(app: &AppId, plugin: &str) -> Self {
        Self {
            app: app.as_str().to_owned(),
            plugin: plugin.to_owned(),
            keys: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, told: Told) {
        let mut key = Key {
            k: told.key.as_ref().to_owned(),
            ..Key::default()
        };
        match told.known {
            Known::Value { stamp, value, end } => {
                key.v = Some((stamp.at, stamp.origin, end, STANDARD_NO_PAD.encode(&value)));
            }
            Known::Gone(stamp) => {
                key.g = Some((stamp.at, stamp.origin));
                key.u = (told.until > 0).then_some(told.until);
            }
            Known::Counter(counter) => {
                let parts = counter.others.into_iter().map(|(origin, share)| {
                    let Share {
                        begun,
                        seq,
                        net,
                        end,
                    } = share;
                    (origin, begun, seq, net, end)
                });
                key.c = Some((counter.since, parts.collect()));
            }
        }
        self.keys.push(key);
    }

    /// The keys as they may be merged; `None` if any of them breaks a bound.
    pub(super) fn read(self, now: u64) -> Option<(AppId, Arc<str>, Vec<Told>)> {
        let Self { app, plugin, keys } = self;
        let app = AppId::parse(&app).ok()?;
        if plugin.is_empty() || plugin.len() > MAX_PLUGIN_BYTES {
            return None;
        }
        let told = keys.into_iter().map(|key| key.read(now));
        Some((app, plugin.into(), told.collect::<Option<_>>()?))
    }
}

impl Key {
    fn read(self, now: u64) -> Option<Told> {
        let Self { k, v, g, u, c } = self;
        if k.is_empty() || k.len() > KEY_BYTES {
            return None;
        }
        let is_past = |at: u64| at <= now.saturating_add(MAX_AHEAD);
        let is_life = |at: u64, end: u64| {
            // Where beginnings meet, the end is that of another one, which may be a little older or younger.
            is_past(at) && end <= at.saturating_add(MAX_TTL).saturating_add(MAX_AHEAD)
        };
        let known = match (v, g, c) {
            (Some((at, origin, end, value)), None, None) => {
                let value = STANDARD_NO_PAD.decode(value).ok()?;
                if value.len() > VALUE_BYTES || !is_life(at, end) {
                    return None;
                }
                Known::Value {
                    stamp: Stamp { at, origin },
                    value: value.into(),
                    end,
                }
            }
            (None, Some((at, origin)), None) => {
                is_past(at).then_some(Known::Gone(Stamp { at, origin }))?
            }
            (None, None, Some((since, parts))) => {
                let is_sound =
                    |&(_, begun, _, _, end): &Part| begun >= since && is_life(begun, end);
                if parts.is_empty() || parts.len() > MAX_SHARES || !parts.iter().all(is_sound) {
                    return None;
                }
                let others = parts.into_iter().map(|(origin, begun, seq, net, end)| {
                    let share = Share {
                        begun,
                        seq,
                        net,
                        end,
                    };
                    (origin, share)
                });
                Known::Counter(Counter {
                    since,
                    own: Share::default(),
                    others: others.collect(),
                })
            }
            _ => return None,
        };
        // Of a key that was deleted; the clocks of two nodes may have been apart.
        let latest = now.saturating_add(MAX_TTL).saturating_add(MAX_AHEAD);
        let until = u.unwrap_or(0);
        if until > latest {
            return None;
        }
        let key = k.into();
        Some(Told { key, known, until })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn keys(known: Known) -> PluginKeys {
        let mut keys = PluginKeys::new(&AppId::default_app(), "guard");
        keys.push(Told {
            key: "k".into(),
            known,
            until: 0,
        });
        keys
    }

    fn value(at: u64, end: u64, len: usize) -> Known {
        Known::Value {
            stamp: Stamp {
                at,
                origin: Origin(u64::MAX),
            },
            value: Bytes::from(vec![0xff; len]),
            end,
        }
    }

    fn counter(since: u64, begun: u64, end: u64) -> Known {
        let share = Share {
            begun,
            seq: 3,
            net: i64::MIN,
            end,
        };
        Known::Counter(Counter {
            since,
            own: Share::default(),
            others: vec![(Origin(7), share)],
        })
    }

    fn heard(keys: PluginKeys) -> Option<Vec<Told>> {
        let message = Message {
            now: 100,
            said: Said::Changes {
                batch: 1,
                forgotten: Vec::new(),
                plugins: vec![keys],
            },
        };
        let message = Message::parse(message.encode().get().as_bytes())?;
        let Said::Changes { mut plugins, .. } = message.said else {
            panic!("changes");
        };
        plugins.remove(0).read(message.now).map(|(_, _, told)| told)
    }

    #[test]
    fn what_was_said_is_what_is_heard() {
        let gone = Known::Gone(Stamp::default());
        for known in [value(90, 200, 5), gone, counter(80, 90, 200)] {
            let told = heard(keys(known.clone())).unwrap();
            assert_eq!(told[0].known, known);
        }
    }

    #[test]
    fn a_deletion_says_how_long_it_matters_within_bounds() {
        let told = |until| {
            let mut keys = PluginKeys::new(&AppId::default_app(), "guard");
            keys.push(Told {
                key: "k".into(),
                known: Known::Gone(Stamp::default()),
                until,
            });
            heard(keys).map(|told| told[0].until)
        };
        assert_eq!(told(0), Some(0));
        assert_eq!(told(7_000), Some(7_000));
        assert_eq!(told(101 + MAX_TTL + MAX_AHEAD), None);
        let deleted = |app: &str, plugin: Option<&str>, at| Deleted {
            app: app.to_owned(),
            plugin: plugin.map(str::to_owned),
            at,
        };
        assert!(deleted("default", Some("guard"), 100).read(100).is_some());
        assert!(
            deleted("default", None, 100 + MAX_AHEAD)
                .read(100)
                .is_some()
        );
        let long = "x".repeat(MAX_PLUGIN_BYTES + 1);
        for unsound in [
            deleted("", None, 100),
            deleted("default", Some(""), 100),
            deleted("default", Some(&long), 100),
            deleted("default", None, 101 + MAX_AHEAD),
        ] {
            assert!(unsound.clone().read(100).is_none(), "{unsound:?}");
        }
    }

    #[test]
    fn what_breaks_a_bound_is_not_heard() {
        let far = 100 + MAX_AHEAD + 1;
        let rows = [
            value(90, 200, VALUE_BYTES + 1),
            value(far, far + 1, 1),
            value(90, 91 + MAX_TTL + MAX_AHEAD, 1),
            Known::Gone(Stamp {
                at: far,
                ..Stamp::default()
            }),
            counter(91, 90, 200),
            counter(0, far, far),
            counter(0, 90, u64::MAX),
            Known::Counter(Counter::default()),
        ];
        for known in rows {
            assert!(heard(keys(known.clone())).is_none(), "{known:?}");
        }
        let named = |app: &str, plugin: &str, key: &str| PluginKeys {
            app: app.to_owned(),
            plugin: plugin.to_owned(),
            keys: vec![Key {
                k: key.to_owned(),
                g: Some((1, Origin(1))),
                ..Key::default()
            }],
        };
        assert!(heard(named("default", "guard", "k")).is_some());
        let long = "x".repeat(KEY_BYTES + 1);
        for (app, plugin, key) in [
            ("", "guard", "k"),
            ("default", "", "k"),
            ("default", "guard", ""),
            ("default", "guard", &long),
            ("default", &long, "k"),
        ] {
            assert!(
                heard(named(app, plugin, key)).is_none(),
                "{app} {plugin} {key}"
            );
        }
        let mut both = named("default", "guard", "k");
        both.keys[0].c = Some((0, vec![(Origin(1), 1, 1, 1, 9)]));
        assert!(heard(both).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_damage_make_it_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            prop_assert!(Message::parse(&noise).is_none());
            let message = Message {
                now: 100,
                said: Said::Repeat {
                    since: 1,
                    part: 0,
                    upto: Some(3),
                    forgotten: Vec::new(),
                    plugins: vec![keys(counter(0, 90, 200))],
                },
            };
            let mut damaged = message.encode().get().as_bytes().to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            if let Some(Message { now, said: Said::Repeat { plugins, .. } }) = Message::parse(&damaged) {
                for keys in plugins {
                    let _ = keys.read(now);
                }
            }
        }
    }
}
