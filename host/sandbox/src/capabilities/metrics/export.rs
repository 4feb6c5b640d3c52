//! Plugins' own numbers for Prometheus.
//!
//! A family holds the series of all plugins that use its name. The kind is part of a family's name, so that one
//! plugin's counter and another's gauge of the same name do not meet.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::series::{BUCKETS, CustomMetrics, Kind, Owner, Reading, Sample};

/// Reads the plugins' numbers when metrics are asked for.
#[derive(Debug)]
pub(crate) struct CustomCollector(pub(crate) Arc<CustomMetrics>);

/// All series of one name, with their plugins.
type Family<'a> = Vec<(&'a Owner, Sample)>;

impl Collector for CustomCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.all();
        let mut families: BTreeMap<(Kind, Box<str>), Family<'_>> = BTreeMap::new();
        for (owner, metrics) in &all {
            for sample in metrics.samples() {
                let family = families.entry((sample.kind, sample.name.clone()));
                family.or_default().push((owner, sample));
            }
        }
        for ((kind, name), mut samples) in families {
            let (word, metric_type) = match kind {
                Kind::Counter => ("counter", MetricType::Counter),
                Kind::Gauge => ("gauge", MetricType::Gauge),
                Kind::Histogram => ("histogram", MetricType::Histogram),
            };
            samples.sort_by(|(one, a), (other, b)| (one, &a.labels).cmp(&(other, &b.labels)));
            let name = format!("tidegate_plugin_custom_{word}_{name}");
            let help = "Recorded by plugins";
            let mut family = encoder.encode_descriptor(&name, help, None, metric_type)?;
            for ((app, plugin), sample) in samples {
                let mut labels = vec![("app", app.as_str()), ("plugin", plugin)];
                let own = sample.labels.iter();
                labels.extend(own.map(|(name, value)| (&**name, &**value)));
                encode(&sample.reading, family.encode_family(&labels)?)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "tidegate_plugin_metrics_refused",
            "Numbers that plugins could not record: a bad name, or too many series",
            None,
            MetricType::Counter,
        )?;
        for ((app, plugin), metrics) in &all {
            let refused = metrics.refused.load(std::sync::atomic::Ordering::Relaxed);
            if refused > 0 {
                let labels = [("app", app.as_str()), ("plugin", plugin.as_ref())];
                ConstCounter::new(refused).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(reading: &Reading, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match reading {
        Reading::Counter(count) => ConstCounter::new(*count).encode(encoder),
        Reading::Gauge(value) => ConstGauge::new(*value).encode(encoder),
        Reading::Histogram { buckets, sum } => {
            let ends = BUCKETS.into_iter().chain([f64::INFINITY]);
            let ended: Vec<_> = ends.zip(*buckets).collect();
            encoder.encode_histogram::<NoLabelSet>(*sum, buckets.iter().sum(), &ended, None)
        }
    }
}
