//! How unsteady the machine itself is while something is measured.
//!
//! A p99 of milliseconds is as much the machine's as the server's where cores are shared with other machines. So a
//! thread that does nothing but sleep stands beside such a measurement: how late it wakes, no server can be blamed for.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::process::CoreTime;

/// As long as a tick of the sandbox's clock of deadlines.
const NAP: Duration = Duration::from_millis(1);

/// A thread that sleeps beside a measurement.
#[derive(Debug)]
pub struct Watch {
    is_over: Arc<AtomicBool>,
    cores_before: CoreTime,
    thread: JoinHandle<Histogram>,
}

/// What it noticed.
#[derive(Debug)]
pub struct Unsteady {
    /// How late it woke, each time.
    late: Histogram,
    /// Share of the cores' time that the hypervisor gave to others.
    stolen: f64,
}

impl Watch {
    pub fn begin() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut late = Histogram::default();
            while !until.load(Ordering::Relaxed) {
                let before = Instant::now();
                thread::sleep(NAP);
                let more = before.elapsed().saturating_sub(NAP);
                late.add(u64::try_from(more.as_nanos()).unwrap_or(u64::MAX));
            }
            late
        });
        Self {
            is_over,
            cores_before: CoreTime::now(),
            thread,
        }
    }

    pub fn end(self) -> Unsteady {
        self.is_over.store(true, Ordering::Relaxed);
        Unsteady {
            stolen: CoreTime::now().stolen_since(self.cores_before),
            // Nothing in it can fail.
            late: self.thread.join().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Unsteady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        write!(
            f,
            "a thread beside it that only slept, a millisecond each time, woke up to {:.2} ms late at p99 and {:.1} ms at \
             most, and the hypervisor gave {:.1} % of the cores' time to others",
            ms(self.late.quantile(0.99)),
            ms(self.late.max()),
            self.stolen * 100.0
        )
    }
}
