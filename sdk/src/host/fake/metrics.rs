//! `metrics` without a node: every number that was recorded.

use std::collections::BTreeMap;

use super::with;
use crate::metrics::MetricsError;

/// Limits of `wit/capabilities.wit`.
const MAX_NAME_BYTES: usize = 48;
const MAX_LABELS: usize = 4;
const MAX_LABEL_NAME_BYTES: usize = 32;
const MAX_LABEL_VALUE_BYTES: usize = 64;
const MAX_NAMES: usize = 32;
const MAX_SERIES: usize = 128;
const TAKEN_ENDINGS: [&str; 6] = ["_total", "_sum", "_count", "_bucket", "_created", "_info"];
const TAKEN_LABELS: [&str; 3] = ["app", "plugin", "le"];

/// A series: what was recorded, in order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    Counter(u64),
    Gauge(f64),
    Histogram(Vec<f64>),
}

impl Number {
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    fn add(&mut self, more: Self) {
        match (self, more) {
            (Self::Counter(count), Self::Counter(by)) => *count += by,
            (Self::Gauge(gauge), Self::Gauge(value)) => *gauge = value,
            (Self::Histogram(all), Self::Histogram(more)) => all.extend(more),
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => {}
        }
    }
}

pub(crate) type Labels = Vec<(String, String)>;

/// The numbers; they outlive the call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers(BTreeMap<(String, Labels), Number>);

pub(crate) fn owned(labels: &[(&str, &str)]) -> Labels {
    let owned = labels.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

impl Numbers {
    pub(crate) fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Number> {
        self.0.get(&(name.to_owned(), owned(labels)))
    }

    fn record(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        number: Number,
    ) -> Result<(), MetricsError> {
        let invalid = |text: &str| Err(MetricsError::Invalid(text.to_owned()));
        check(name, labels)?;
        let mut of_name = self.0.iter().filter(|((known, _), _)| known == name);
        if let Some(((_, known_labels), known)) = of_name.next() {
            let names = known_labels.iter().map(|(name, _)| name.as_str());
            if !names.eq(labels.iter().map(|(name, _)| *name)) {
                return invalid("this name has other labels, or in another order");
            }
            if !known.is_like(&number) {
                return invalid("this name is of another kind: counter, gauge or histogram");
            }
        } else {
            let mut names: Vec<&str> = self.0.keys().map(|(name, _)| name.as_str()).collect();
            names.dedup();
            if names.len() >= MAX_NAMES {
                return Err(MetricsError::Limit(format!(
                    "the plugin has {MAX_NAMES} names already"
                )));
            }
        }
        let key = (name.to_owned(), owned(labels));
        if let Some(known) = self.0.get_mut(&key) {
            known.add(number);
            return Ok(());
        }
        if self.0.len() >= MAX_SERIES {
            return Err(MetricsError::Limit(format!(
                "the plugin has {MAX_SERIES} series already; labels are for what has few values"
            )));
        }
        self.0.insert(key, number);
        Ok(())
    }
}

fn is_word(text: &str, max_bytes: usize) -> bool {
    text.len() <= max_bytes
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check(name: &str, labels: &[(&str, &str)]) -> Result<(), MetricsError> {
    let invalid = |text: String| Err(MetricsError::Invalid(text));
    let is_taken = TAKEN_ENDINGS.iter().any(|ending| name.ends_with(ending));
    if !is_word(name, MAX_NAME_BYTES) || is_taken {
        return invalid(format!("`{name}` cannot be a name"));
    }
    if labels.len() > MAX_LABELS {
        return invalid(format!("a series has at most {MAX_LABELS} labels"));
    }
    for (index, (label, value)) in labels.iter().enumerate() {
        let is_known = labels[..index].iter().any(|(known, _)| known == label);
        if !is_word(label, MAX_LABEL_NAME_BYTES) || is_known || TAKEN_LABELS.contains(label) {
            return invalid(format!("`{label}` cannot be a label here"));
        }
        if value.len() > MAX_LABEL_VALUE_BYTES {
            return invalid(format!(
                "a label's value has at most {MAX_LABEL_VALUE_BYTES} bytes"
            ));
        }
    }
    Ok(())
}

fn finite(value: f64) -> Result<f64, MetricsError> {
    if value.is_finite() {
        return Ok(value);
    }
    let text = "the value is not a finite number".to_owned();
    Err(MetricsError::Invalid(text))
}

pub(crate) fn metrics_increment(
    name: &str,
    labels: &[(&str, &str)],
    by: u64,
) -> Result<(), MetricsError> {
    with(|state| state.numbers.record(name, labels, Number::Counter(by)))
}

pub(crate) fn metrics_set_gauge(
    name: &str,
    labels: &[(&str, &str)],
    value: f64,
) -> Result<(), MetricsError> {
    let gauge = Number::Gauge(finite(value)?);
    with(|state| state.numbers.record(name, labels, gauge))
}

pub(crate) fn metrics_observe(
    name: &str,
    labels: &[(&str, &str)],
    value: f64,
) -> Result<(), MetricsError> {
    let observed = Number::Histogram(vec![finite(value)?]);
    with(|state| state.numbers.record(name, labels, observed))
}
