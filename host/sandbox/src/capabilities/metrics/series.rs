//! The series of every plugin: names, label values, and the numbers behind them.
//!
//! Recording into a series that is there takes a read lock and an atomic; only a new one takes the write lock.
//! Invariants: a name has one kind and one list of label names; a series is counted against its plugin and the node
//! before it is there, and given back when its plugin goes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tidegate_realtime::ids::AppId;

const NAME_BYTES: usize = 48;
const LABELS: usize = 4;
const LABEL_NAME_BYTES: usize = 32;
const LABEL_VALUE_BYTES: usize = 64;
const NAMES: usize = 32;
const SERIES: usize = 128;
const SERIES_OF_NODE: usize = 20_000;

/// Parts of a metric that the format makes names of.
const TAKEN_ENDINGS: [&str; 6] = ["_total", "_sum", "_count", "_bucket", "_created", "_info"];
/// Labels that the node sets.
const TAKEN_LABELS: [&str; 3] = ["app", "plugin", "le"];

/// Where the buckets of every histogram end; what is above goes into a last one.
pub(super) const BUCKETS: [f64; 19] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
    200.0, 500.0, 1_000.0,
];

/// Why nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "a name has 1 to {NAME_BYTES} lower-case letters, digits and `_`, begins with a letter and does not end like a part of a metric"
    )]
    Name,
    #[error(
        "a label's name has 1 to {LABEL_NAME_BYTES} lower-case letters, digits and `_`, begins with a letter, is there once and is not `app`, `plugin` or `le`"
    )]
    LabelName,
    #[error("a label's value has at most {LABEL_VALUE_BYTES} bytes")]
    LabelValue,
    #[error("a series has at most {LABELS} labels")]
    TooManyLabels,
    #[error("this name has other labels, or in another order")]
    OtherLabels,
    #[error("this name is of another kind: counter, gauge or histogram")]
    OtherKind,
    #[error("the value is not a finite number")]
    NoNumber,
    #[error("the plugin has {NAMES} names already")]
    Names,
    #[error("the plugin has {SERIES} series already; labels are for what has few values")]
    Series,
    #[error("the node has {SERIES_OF_NODE} series already")]
    SeriesOfNode,
}

/// What is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Recorded {
    Increment(u64),
    Gauge(f64),
    Observation(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Whose numbers: a plugin of an app.
pub(super) type Owner = (AppId, Arc<str>);

/// The numbers of all plugins.
#[derive(Debug, Default)]
pub(crate) struct CustomMetrics {
    num_series: Arc<AtomicUsize>,
    plugins: Mutex<FxHashMap<Owner, Arc<PluginMetrics>>>,
}

/// The numbers of one plugin in one app.
#[derive(Debug)]
pub(crate) struct PluginMetrics {
    num_series_of_node: Arc<AtomicUsize>,
    named: RwLock<FxHashMap<Box<str>, Named>>,
    pub(super) refused: AtomicU64,
}

#[derive(Debug)]
struct Named {
    kind: Kind,
    labels: Box<[Box<str>]>,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    values: Box<[Box<str>]>,
    number: Number,
}

#[derive(Debug)]
enum Number {
    Counter(AtomicU64),
    /// The bits of a float.
    Gauge(AtomicU64),
    Histogram(Box<Histogram>),
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    /// The bits of a float.
    sum: AtomicU64,
}

/// A series as it is exported.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) labels: Vec<(Box<str>, Box<str>)>,
    pub(super) reading: Reading,
}

#[derive(Debug, Clone)]
pub(super) enum Reading {
    Counter(u64),
    Gauge(f64),
    /// Observations by bucket, the last one above all ends.
    Histogram {
        buckets: [u64; BUCKETS.len() + 1],
        sum: f64,
    },
}

impl CustomMetrics {
    /// The numbers of a plugin; made when first asked for.
    pub(crate) fn of(&self, app: &AppId, plugin: &Arc<str>) -> Arc<PluginMetrics> {
        let mut plugins = self.plugins.lock();
        let metrics = plugins
            .entry((app.clone(), Arc::clone(plugin)))
            .or_insert_with(|| {
                Arc::new(PluginMetrics {
                    num_series_of_node: Arc::clone(&self.num_series),
                    named: RwLock::default(),
                    refused: AtomicU64::new(0),
                })
            });
        Arc::clone(metrics)
    }

    /// Lets go of the numbers of plugins that are not bound any more.
    pub(crate) fn retain(&self, is_bound: impl Fn(&AppId, &str) -> bool) {
        let mut gone = Vec::new();
        self.plugins.lock().retain(|(app, plugin), metrics| {
            let is_bound = is_bound(app, plugin);
            if !is_bound {
                gone.push(Arc::clone(metrics));
            }
            is_bound
        });
        // Dropped here, not under the lock.
        drop(gone);
    }

    pub(super) fn all(&self) -> Vec<(Owner, Arc<PluginMetrics>)> {
        let plugins = self.plugins.lock();
        let mut all: Vec<_> = plugins
            .iter()
            .map(|(key, metrics)| (key.clone(), Arc::clone(metrics)))
            .collect();
        drop(plugins);
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}

impl PluginMetrics {
    pub(super) fn record(
        &self,
        name: &str,
        labels: &[(String, String)],
        recorded: Recorded,
    ) -> Result<(), Refused> {
        let done = self.try_record(name, labels, recorded);
        if done.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    fn try_record(
        &self,
        name: &str,
        labels: &[(String, String)],
        recorded: Recorded,
    ) -> Result<(), Refused> {
        if let Recorded::Gauge(value) | Recorded::Observation(value) = recorded
            && !value.is_finite()
        {
            return Err(Refused::NoNumber);
        }
        let named = self.named.read();
        if let Some(named) = named.get(name) {
            named.check(labels, recorded)?;
            if let Some(series) = named.find(labels) {
                series.number.record(recorded);
                return Ok(());
            }
        }
        drop(named);
        self.begin(name, labels, recorded)
    }

    #[cold]
    fn begin(
        &self,
        name: &str,
        labels: &[(String, String)],
        recorded: Recorded,
    ) -> Result<(), Refused> {
        check_name(name)?;
        check_labels(labels)?;
        let mut all = self.named.write();
        let num_series: usize = all.values().map(|named| named.series.len()).sum();
        if !all.contains_key(name) && all.len() >= NAMES {
            return Err(Refused::Names);
        }
        if num_series >= SERIES {
            return Err(Refused::Series);
        }
        let of_node = &self.num_series_of_node;
        if of_node.fetch_add(1, Ordering::Relaxed) >= SERIES_OF_NODE {
            of_node.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::SeriesOfNode);
        }
        let named = all.entry(name.into()).or_insert_with(|| Named {
            kind: recorded.kind(),
            labels: labels
                .iter()
                .map(|(name, _)| name.as_str().into())
                .collect(),
            series: Vec::new(),
        });
        // Somebody else may have begun it, or the name, in between.
        let checked = named.check(labels, recorded);
        let known = named.find(labels);
        if checked.is_err() || known.is_some() {
            of_node.fetch_sub(1, Ordering::Relaxed);
        }
        checked?;
        if let Some(series) = known {
            series.number.record(recorded);
            return Ok(());
        }
        let number = Number::new(named.kind);
        number.record(recorded);
        named.series.push(Series {
            values: labels
                .iter()
                .map(|(_, value)| value.as_str().into())
                .collect(),
            number,
        });
        Ok(())
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        let named = self.named.read();
        let mut samples = Vec::new();
        for (name, named) in named.iter() {
            samples.extend(named.series.iter().map(|series| {
                Sample {
                    name: name.clone(),
                    kind: named.kind,
                    labels: std::iter::zip(&named.labels, &series.values)
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect(),
                    reading: series.number.read(),
                }
            }));
        }
        samples
    }
}

impl Drop for PluginMetrics {
    fn drop(&mut self) {
        let num_series = self
            .named
            .get_mut()
            .values()
            .map(|named| named.series.len());
        self.num_series_of_node
            .fetch_sub(num_series.sum(), Ordering::Relaxed);
    }
}

impl Named {
    fn check(&self, labels: &[(String, String)], recorded: Recorded) -> Result<(), Refused> {
        if self.kind != recorded.kind() {
            return Err(Refused::OtherKind);
        }
        let names = labels.iter().map(|(name, _)| name.as_str());
        if !names.eq(self.labels.iter().map(|name| &**name)) {
            return Err(Refused::OtherLabels);
        }
        Ok(())
    }

    fn find(&self, labels: &[(String, String)]) -> Option<&Series> {
        self.series.iter().find(|series| {
            let values = labels.iter().map(|(_, value)| value.as_str());
            values.eq(series.values.iter().map(|value| &**value))
        })
    }
}

impl Recorded {
    fn kind(self) -> Kind {
        match self {
            Self::Increment(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Observation(_) => Kind::Histogram,
        }
    }
}

impl Number {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(AtomicU64::new(0)),
            Kind::Gauge => Self::Gauge(AtomicU64::new(0)),
            Kind::Histogram => Self::Histogram(Box::default()),
        }
    }

    /// The kinds agree: it was checked.
    fn record(&self, recorded: Recorded) {
        match (self, recorded) {
            (Self::Counter(count), Recorded::Increment(by)) => {
                count.fetch_add(by, Ordering::Relaxed);
            }
            (Self::Gauge(gauge), Recorded::Gauge(value)) => {
                gauge.store(value.to_bits(), Ordering::Relaxed);
            }
            (Self::Histogram(histogram), Recorded::Observation(value)) => {
                let bucket = BUCKETS.partition_point(|end| *end < value);
                histogram.buckets[bucket].fetch_add(1, Ordering::Relaxed);
                let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
                let _ = histogram
                    .sum
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            }
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => {}
        }
    }

    fn read(&self) -> Reading {
        match self {
            Self::Counter(count) => Reading::Counter(count.load(Ordering::Relaxed)),
            Self::Gauge(gauge) => Reading::Gauge(f64::from_bits(gauge.load(Ordering::Relaxed))),
            Self::Histogram(histogram) => Reading::Histogram {
                buckets: histogram
                    .buckets
                    .each_ref()
                    .map(|bucket| bucket.load(Ordering::Relaxed)),
                sum: f64::from_bits(histogram.sum.load(Ordering::Relaxed)),
            },
        }
    }
}

fn is_word(text: &str, max_bytes: usize) -> bool {
    let mut bytes = text.bytes();
    text.len() <= max_bytes
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check_name(name: &str) -> Result<(), Refused> {
    let is_taken = TAKEN_ENDINGS.iter().any(|ending| name.ends_with(ending));
    if is_word(name, NAME_BYTES) && !is_taken {
        Ok(())
    } else {
        Err(Refused::Name)
    }
}

fn check_labels(labels: &[(String, String)]) -> Result<(), Refused> {
    if labels.len() > LABELS {
        return Err(Refused::TooManyLabels);
    }
    for (index, (name, value)) in labels.iter().enumerate() {
        let is_known = labels[..index].iter().any(|(known, _)| known == name);
        if !is_word(name, LABEL_NAME_BYTES) || is_known || TAKEN_LABELS.contains(&name.as_str()) {
            return Err(Refused::LabelName);
        }
        if value.len() > LABEL_VALUE_BYTES {
            return Err(Refused::LabelValue);
        }
    }
    Ok(())
}
