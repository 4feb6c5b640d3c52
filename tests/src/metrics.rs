//! Metrics of a node, read from their text form.

use std::collections::BTreeMap;

/// Samples by name with labels, as in `tidegate_realtime_errors_total{code="107"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// Reads the text form; samples that are no counts are left out.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// A sample; 0 when it was never counted.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The samples of these families.
    #[must_use]
    pub fn of(&self, families: &[&str]) -> Self {
        let samples = self.0.iter().filter(|(name, _)| {
            let family = name
                .split_once('{')
                .map_or(name.as_str(), |(family, _)| family);
            families.contains(&family)
        });
        Self(
            samples
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
        )
    }

    /// Counts one more of a sample.
    pub fn add(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }
}
