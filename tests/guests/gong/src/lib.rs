//! Guest of the tests: publishes to the channel `gong` for which second it runs, and to `told` what it is told.
//!
//! Settings are a list of words: `panic` and `trouble` make runs end so.

use tidegate_sdk::{
    Events, Schedule, Trouble, config,
    events::{Event, Kind},
    plugin, publishing,
    schedule::{Period, Run},
};

struct Gong;

impl Schedule for Gong {
    const PERIODS: &'static [Period] = &[Period::new("second", 1)];

    fn run(run: Run) -> Result<(), Trouble> {
        publishing::publish("gong", run.due_ms().to_string().as_bytes())?;
        let settings = config::text();
        assert!(!settings.contains("panic"), "told to panic");
        if settings.contains("trouble") {
            return Err(Trouble::new("told to"));
        }
        Ok(())
    }
}

impl Events for Gong {
    const WANTED: &'static [Kind] = &[
        Kind::Connected,
        Kind::Disconnected,
        Kind::Subscribed,
        Kind::Unsubscribed,
        Kind::Published,
        Kind::Occupied,
        Kind::Vacated,
        Kind::Online,
        Kind::Offline,
    ];

    fn handle(batch: Vec<Event>) -> Result<(), Trouble> {
        for event in batch {
            // What it says itself is told, too.
            if event.channel() == "told" || event.channel() == "gong" {
                continue;
            }
            let line = format!(
                r#"{{"kind":"{}","user":"{}","channel":"{}","code":{},"id":"{}"}}"#,
                event.kind().name(),
                event.user(),
                event.channel(),
                event.code(),
                event.id(),
            );
            publishing::publish("told", line.as_bytes())?;
        }
        Ok(())
    }
}

plugin!(Gong: schedule, events);
