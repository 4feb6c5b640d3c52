//! Numbers for the operator's monitoring, exported by the node on `/metrics`.
//!
//! A counter `orders` becomes `tidegate_plugin_custom_counter_orders_total`, a gauge
//! `tidegate_plugin_custom_gauge_orders`, a histogram `tidegate_plugin_custom_histogram_orders`, each with the labels
//! `app` and `plugin` and those given here. Labels are for what has few values, such as a type or a tier; never for
//! users, channels or anything else that a client chooses: a plugin has at most 32 names and 128 series.
//!
//! What was recorded stays, whatever becomes of the call.
//!
//! ```
//! use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, metrics, testing::Host};
//!
//! struct Weighed;
//!
//! impl Filtering for Weighed {
//!     fn filter(message: Message) -> Result<Verdict, Refusal> {
//!         let kind = if message.user().is_empty() { "anonymous" } else { "known" };
//!         // A number that cannot be recorded is no reason to refuse a message; the node counts it.
//!         let _ = metrics::increment("messages", &[("sender", kind)], 1);
//!         let _ = metrics::observe("message_bytes", &[], message.data().len() as f64);
//!         Ok(Verdict::Pass)
//!     }
//! }
//!
//! let mut host = Host::new().user("ann");
//! host.filter::<Weighed>("room", "{}")?;
//! host.filter::<Weighed>("room", "[1]")?;
//! assert_eq!(host.metric("messages", &[("sender", "known")]), Some(2.0));
//! assert_eq!(host.observations("message_bytes", &[]), [2.0, 3.0]);
//! # Ok::<(), Refusal>(())
//! ```

use std::fmt;

use crate::host;

/// A number was not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsError {
    /// A name, a label or a number is not allowed, or is not what this name was before.
    Invalid(String),
    /// The plugin, or the node, has as many names or series as it may; series that are there go on.
    Limit(String),
}

impl fmt::Display for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) | Self::Limit(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for MetricsError {}

/// Adds to a counter.
///
/// # Errors
///
/// When the name or the labels are not allowed or not those of before, or there are too many.
pub fn increment(name: &str, labels: &[(&str, &str)], by: u64) -> Result<(), MetricsError> {
    host::metrics_increment(name, labels, by)
}

/// Sets a gauge. The last one to set it wins, on whatever worker it runs.
///
/// # Errors
///
/// As [`increment`]; and when the value is not finite.
pub fn set_gauge(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), MetricsError> {
    host::metrics_set_gauge(name, labels, value)
}

/// Adds a number to a histogram. Its buckets end at 1, 2 and 5 times each power of ten from 0.001 to 1000.
///
/// # Errors
///
/// As [`set_gauge`].
pub fn observe(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), MetricsError> {
    host::metrics_observe(name, labels, value)
}
