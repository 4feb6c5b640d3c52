//! What rows expect.

use tidegate_faults::checker::{AckedLoss, Expectation, Forgotten, Recovery, Unready};

use crate::records::at;

pub(crate) fn strict() -> Expectation {
    Expectation {
        least_acked: 5,
        acked_loss: AckedLoss::Never,
        truth_within: Some(at(1)),
        flow_within: Some(at(1)),
        unready: Some(Unready {
            nodes: vec![0],
            within: at(2),
        }),
        connections_stay: false,
        publishes_succeed: false,
        publish_within: None,
        recovery: Recovery::SomeAndAll,
        leaves: None,
    }
}

pub(crate) fn lenient() -> Expectation {
    Expectation {
        acked_loss: AckedLoss::WithTheEpoch(Forgotten {
            lag: at(2),
            window: at(4),
            percent: 60,
        }),
        recovery: Recovery::WherePossible,
        ..strict()
    }
}

/// As lenient, with other bounds of what may be forgotten.
pub(crate) fn bounded(lag: u64, window: u64, percent: u64) -> Expectation {
    Expectation {
        acked_loss: AckedLoss::WithTheEpoch(Forgotten {
            lag: at(lag),
            window: at(window),
            percent,
        }),
        ..lenient()
    }
}
