//! `metrics`: numbers of the plugin's own for the operator's monitoring, bounded per plugin and per node.

mod export;
pub(super) mod series;

pub(crate) use self::export::CustomCollector;
use self::series::{Recorded, Refused};
use crate::{
    failure::GuestFault,
    generated::tidegate::plugin::metrics::{Host, MetricsError},
    guest::{Facts, GuestState},
};

impl GuestState {
    fn record(
        &mut self,
        name: &str,
        labels: &[(String, String)],
        recorded: Recorded,
    ) -> wasmtime::Result<Result<(), MetricsError>> {
        self.call.enter_host()?;
        if matches!(self.call.facts, Facts::Idle) {
            return Err(GuestFault::limit(
                "metrics were used outside a call: an initialiser runs once per instance, not once",
            )
            .into());
        }
        let done = self.unit.kept().metrics.record(name, labels, recorded);
        Ok(done.map_err(MetricsError::from))
    }
}

impl From<Refused> for MetricsError {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Names | Refused::Series | Refused::SeriesOfNode => Self::Limit(text),
            Refused::Name
            | Refused::LabelName
            | Refused::LabelValue
            | Refused::TooManyLabels
            | Refused::OtherLabels
            | Refused::OtherKind
            | Refused::NoNumber => Self::Invalid(text),
        }
    }
}

impl Host for GuestState {
    fn increment(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        by: u64,
    ) -> wasmtime::Result<Result<(), MetricsError>> {
        self.record(&name, &labels, Recorded::Increment(by))
    }

    fn set_gauge(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        value: f64,
    ) -> wasmtime::Result<Result<(), MetricsError>> {
        self.record(&name, &labels, Recorded::Gauge(value))
    }

    fn observe(
        &mut self,
        name: String,
        labels: Vec<(String, String)>,
        value: f64,
    ) -> wasmtime::Result<Result<(), MetricsError>> {
        self.record(&name, &labels, Recorded::Observation(value))
    }
}
