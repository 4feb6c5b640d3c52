//! Tasks that keep connections, started again when they fall.
//!
//! Owns nothing but the pause between two lives. A task that panics would leave its connection dead for good while
//! nobody misses it; here whoever started it cleans up behind it and it starts anew. Invariant: a task that returns, or
//! whose node stops, is not started again.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

/// Pause before a fallen task starts again: what makes it fall may be there at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs what `start` makes until it returns. When it panics, `clean_up` puts in order what it left behind, before it is
/// made again.
pub(crate) async fn keep<F: Future<Output = ()>>(
    what: &'static str,
    stop: CancellationToken,
    mut start: impl FnMut() -> F,
    mut clean_up: impl FnMut(),
) {
    loop {
        // Unwind safe: nothing of the future is looked at again, and what it shared is behind locks that `clean_up`
        // and the next life take anew.
        let Err(_) = AssertUnwindSafe(start()).catch_unwind().await else {
            return;
        };
        // What it said is in the log already, by the panic hook.
        tracing::error!(
            task = what,
            "a task of the Redis engine fell and starts again; this is a bug, please report it"
        );
        clean_up();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_task_that_falls_is_cleaned_up_and_started_again_until_it_returns() {
        let (starts, falls) = (Cell::new(0), Cell::new(0));
        let start = || {
            starts.set(starts.get() + 1);
            let life = starts.get();
            async move { assert!(life == 2, "falls") }
        };
        let stop = CancellationToken::new();
        keep("test", stop, start, || falls.set(falls.get() + 1)).await;
        assert_eq!((starts.get(), falls.get()), (2, 1));
    }

    #[tokio::test]
    async fn a_task_that_falls_while_the_node_stops_stays_down() {
        let stop = CancellationToken::new();
        stop.cancel();
        let falls = Cell::new(0);
        let start = || async { panic!("falls") };
        keep("test", stop, start, || falls.set(falls.get() + 1)).await;
        assert_eq!(falls.get(), 1);
    }
}
