//! Waiting for other processes: they send no event, so they are asked again and again.

use std::time::Duration;

/// Longest wait for anything a Redis does. Generous, since CI shares two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`], naming what was awaited.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "another process tells nobody when its state changes, and it lives by the real clock"
)]
pub fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = answer() {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{what} did not happen within {PATIENCE:?}"
        );
        std::thread::sleep(PAUSE);
    }
}
