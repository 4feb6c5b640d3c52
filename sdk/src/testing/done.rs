//! What calls did: what they wrote, queued, counted and left for the next.

use std::collections::BTreeMap;

use super::Host;
use crate::{
    host::{Held, Number, Stored},
    log::Level,
    sessions::Target,
};

/// A line that the plugin wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How grave it is.
    pub level: Level,
    /// What it says, cut to 1 KiB.
    pub text: String,
}

/// A publication that the plugin queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Where to.
    pub channel: String,
    /// What.
    pub data: Vec<u8>,
    /// Given up if the channel has one as new; 0 where it was published whatever was before. The test kit keeps no
    /// channels, so here nothing is given up.
    pub version: u64,
}

/// Connections that the plugin wants closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Whose.
    pub target: Target,
    /// 4000 to 4999.
    pub code: u32,
    /// What the client is told.
    pub reason: String,
}

/// Subscriptions that the plugin wants taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Whose.
    pub target: Target,
    /// To which channel.
    pub channel: String,
}

/// What the last call did.
impl Host {
    /// The lines that it wrote.
    pub fn log(&self) -> Vec<LogLine> {
        let lines = self.state.effects.log.iter();
        lines
            .map(|(level, text)| LogLine {
                level: *level,
                text: text.clone(),
            })
            .collect()
    }

    /// The publications that it queued.
    pub fn publications(&self) -> Vec<Publication> {
        self.state.effects.publications.clone()
    }

    /// The tags that the message goes on with.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.state.effects.tags
    }

    /// Whether the message is kept out of the history.
    pub fn is_history_skipped(&self) -> bool {
        self.state.effects.is_history_skipped
    }

    /// The key that the message was given.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.state.effects.idempotency_key.as_deref()
    }

    /// The connections that it wants closed.
    pub fn disconnects(&self) -> Vec<Disconnect> {
        let disconnects = self.state.effects.disconnects.iter();
        disconnects
            .map(|(target, code, reason)| Disconnect {
                target: target.clone(),
                code: *code,
                reason: reason.clone(),
            })
            .collect()
    }

    /// The subscriptions that it wants taken away.
    pub fn unsubscribes(&self) -> Vec<Unsubscribe> {
        let unsubscribes = self.state.effects.unsubscribes.iter();
        unsubscribes
            .map(|(target, channel)| Unsubscribe {
                target: target.clone(),
                channel: channel.clone(),
            })
            .collect()
    }

    /// A counter or a gauge as all calls so far left it; `None` if nothing was recorded.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.state.numbers.get(name, labels)? {
            Number::Counter(count) => Some(*count as f64),
            Number::Gauge(value) => Some(*value),
            Number::Histogram(_) => None,
        }
    }

    /// What all calls so far added to a histogram.
    pub fn observations(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        match self.state.numbers.get(name, labels) {
            Some(Number::Histogram(observed)) => observed.clone(),
            Some(Number::Counter(_) | Number::Gauge(_)) | None => Vec::new(),
        }
    }

    /// The value that a key of the plugin's [`store`](crate::store) holds, at the host's time.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        match self.state.stored.held(key, self.state.facts.now_ms)? {
            Stored::Value(value) => Some(value.clone()),
            Stored::Counter(_) => None,
        }
    }

    /// The count that a key of the plugin's [`store`](crate::store) holds, at the host's time; 0 where there is none.
    pub fn stored_count(&self, key: &str) -> i64 {
        match self.state.stored.held(key, self.state.facts.now_ms) {
            Some(Stored::Counter(count)) => *count,
            Some(Stored::Value(_)) | None => 0,
        }
    }

    /// The value that a key of the plugin's state holds, at the host's time.
    pub fn state(&self, key: &str) -> Option<Vec<u8>> {
        match self.state.keys.held(key, self.state.facts.now_ms)? {
            Held::Value(value) => Some(value.clone()),
            Held::Counter(_) => None,
        }
    }

    /// The count that a key of the plugin's state holds, at the host's time; 0 where there is none.
    pub fn count(&self, key: &str) -> i64 {
        match self.state.keys.held(key, self.state.facts.now_ms) {
            Some(Held::Counter(count)) => *count,
            Some(Held::Value(_)) | None => 0,
        }
    }

    /// Whether the message may be sent as a difference, if the plugin said anything about that.
    pub fn delta(&self) -> Option<bool> {
        self.state.effects.delta
    }
}
