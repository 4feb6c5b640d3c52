//! What the node's process uses, and what was counted over the last interval, for the server API's `info`.
//!
//! Measures and tells the realtime node, which shows it and tells the other nodes. The metrics are those of the
//! metrics endpoint, without what is an app's own: a row says what a node did, not who its tenants are.

use std::{collections::BTreeMap, fs, sync::Arc};

use prometheus_client::registry::Registry;
use rustix::time::ClockId;
use tidegate_protocol::server_api::{NodeMetrics, ProcessInfo};
use tidegate_realtime::{cluster::ANNOUNCE_INTERVAL, node::Node};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Shortest time over which use of the processor says something.
const LEAST_ELAPSED: Duration = Duration::from_millis(10);

/// Measures until `stop`: the process as often as nodes tell each other of themselves, the metrics every `interval`.
pub async fn run(
    node: Arc<Node>,
    registry: Arc<Registry>,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut meter = Meter::new();
    let mut ticks = tokio::time::interval(ANNOUNCE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<(Instant, Figures)> = None;
    // The first count is what the first interval is measured from.
    let mut count_at = Instant::now();
    loop {
        tokio::select! {
            biased; // Stop wins, so that shutdown is prompt.
            () = stop.cancelled() => return,
            _ = ticks.tick() => node.tell_process(meter.read()),
            () = tokio::time::sleep_until(count_at) => {
                count_at = Instant::now() + interval;
                let registry = Arc::clone(&registry);
                // With thousands of plugins this takes longer than a worker of sessions may be kept.
                let read = tokio::task::spawn_blocking(move || Figures::read(&registry));
                let Ok(Some(now)) = read.await else {
                    tracing::warn!("the metrics for `info` could not be read");
                    continue;
                };
                let at = Instant::now();
                if let Some((before_at, before)) = &last {
                    node.tell_metrics(now.since(before, at - *before_at));
                }
                last = Some((at, now));
            }
        }
    }
}

/// Reads what the process uses.
#[derive(Debug)]
struct Meter {
    at: Instant,
    used: Duration,
}

impl Meter {
    fn new() -> Self {
        Self {
            at: Instant::now(),
            used: processor_time(),
        }
    }

    /// Use of the processor since the last time, and of memory now.
    fn read(&mut self) -> ProcessInfo {
        let (elapsed, used) = (self.at.elapsed(), processor_time());
        let cpu = if elapsed < LEAST_ELAPSED {
            0.0
        } else {
            let share = used.saturating_sub(self.used).as_secs_f64() / elapsed.as_secs_f64();
            // Two digits: more would be noise.
            (share * 10_000.0).round() / 100.0
        };
        *self = Self {
            at: Instant::now(),
            used,
        };
        ProcessInfo {
            cpu,
            rss: resident_bytes().unwrap_or_default(),
        }
    }
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// `None` where the system does not say.
fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Counters and gauges of the whole node at one moment.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    /// Of a counter with labels the sum.
    counters: BTreeMap<String, f64>,
    gauges: BTreeMap<String, f64>,
}

impl Figures {
    /// `None` when the registry cannot be encoded.
    fn read(registry: &Registry) -> Option<Self> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).ok()?;
        Some(Self::parse(&text))
    }

    /// Reads the text of the metrics endpoint. What has an `app` is left out, and so are gauges with labels, whose sum
    /// need not mean anything, and distributions.
    fn parse(text: &str) -> Self {
        let mut figures = Self::default();
        let mut kind = Kind::Other;
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                kind = Kind::declared(declared);
            } else if !line.starts_with('#') {
                figures.take(kind, line);
            }
        }
        figures
    }

    fn take(&mut self, kind: Kind, sample: &str) {
        let Some((name, value)) = sample.rsplit_once(' ') else {
            return;
        };
        let (name, labels) = match name.split_once('{') {
            Some((name, labels)) => (name, labels),
            None => (name, ""),
        };
        let Ok(value) = value.parse::<f64>() else {
            return;
        };
        match kind {
            Kind::Counter if !labels.contains("app=\"") => {
                *self.counters.entry(name.to_owned()).or_default() += value;
            }
            Kind::Gauge if labels.is_empty() => {
                self.gauges.insert(name.to_owned(), value);
            }
            Kind::Counter | Kind::Gauge | Kind::Other => {}
        }
    }

    /// What was counted since, and where the gauges stand.
    fn since(&self, before: &Self, elapsed: Duration) -> NodeMetrics {
        let counted = self.counters.iter().map(|(name, now)| {
            let before = before.counters.get(name).copied().unwrap_or_default();
            (name.clone(), (now - before).max(0.0))
        });
        let gauges = self.gauges.iter();
        let gauges = gauges.map(|(name, now)| (name.clone(), *now));
        NodeMetrics {
            interval: elapsed.as_secs_f64().round(),
            items: counted.chain(gauges).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    /// Distributions, information and what is unknown.
    Other,
}

impl Kind {
    fn declared(name_and_kind: &str) -> Self {
        match name_and_kind.rsplit_once(' ') {
            Some((_, "counter")) => Self::Counter,
            Some((_, "gauge")) => Self::Gauge,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

    use super::*;

    const TEXT: &str = "\
# HELP a_b Things.
# TYPE a_b counter
a_b_total{reason=\"one\"} 2
a_b_total{reason=\"two {x} 3\"} 3
# HELP calls Calls.
# TYPE calls counter
calls_total{app=\"default\",plugin=\"p\"} 9
# HELP open Open.
# TYPE open gauge
open 4
# HELP up Up.
# TYPE up gauge
up{shard=\"0\"} 1
# HELP took Took.
# TYPE took histogram
took_sum 1.5
took_count 3
# EOF
";

    #[test]
    fn counters_are_summed_over_labels_and_what_is_of_an_app_or_has_no_sum_is_left_out() {
        let figures = Figures::parse(TEXT);
        assert_eq!(figures.counters, [("a_b_total".to_owned(), 5.0)].into());
        assert_eq!(figures.gauges, [("open".to_owned(), 4.0)].into());
    }

    #[test]
    fn counters_tell_of_the_interval_and_gauges_of_now() {
        let mut registry = Registry::default();
        let (counter, gauge) = (Counter::<u64>::default(), Gauge::<i64>::default());
        registry.register("told", "Told", counter.clone());
        registry.register("open", "Open", gauge.clone());
        counter.inc_by(5);
        let before = Figures::read(&registry).unwrap();
        counter.inc_by(2);
        gauge.set(7);
        let now = Figures::read(&registry).unwrap();
        let metrics = now.since(&before, Duration::from_millis(59_900));
        assert!((metrics.interval - 60.0).abs() < f64::EPSILON);
        let expected = [("open".to_owned(), 7.0), ("told_total".to_owned(), 2.0)];
        assert_eq!(metrics.items, expected.into());
    }

    #[tokio::test]
    async fn the_process_uses_memory_and_the_processor() {
        let mut meter = Meter::new();
        let began = Instant::now();
        let mut work = 0_u64;
        while processor_time() < meter.used + LEAST_ELAPSED * 2 || began.elapsed() < LEAST_ELAPSED {
            work = std::hint::black_box(work.wrapping_add(1));
        }
        let used = meter.read();
        assert!(used.cpu > 0.0, "{used:?}");
        assert!(used.rss > 1 << 20, "{used:?}");
    }
}
