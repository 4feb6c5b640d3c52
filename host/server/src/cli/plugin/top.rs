//! `plugin top`: what the plugins of an app do, as rates between two looks.
//!
//! The server counts and never forgets a rate of its own; the difference of two answers and of their `uptime_ms` is
//! all there is to it. A row that is new at the second look, or whose counters went back, starts from nothing.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

use super::{
    api::PluginApi,
    arguments::{Sort, Top},
};
use crate::cli::{
    Failure, Output, block_on,
    output::{string, table},
};

/// Between the two looks where nothing else is said.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(command: &Top, output: Output) -> Result<(), Failure> {
    let api = PluginApi::new(&command.server, output)?;
    block_on(async {
        let mut before = api.statistics().await?;
        if command.once {
            show(&ordered(before, command), output);
            return Ok(());
        }
        let interval = command.watch.map_or(DEFAULT_INTERVAL, |seconds| {
            Duration::from_secs(seconds.get().into())
        });
        loop {
            tokio::time::sleep(interval).await;
            let now = api.statistics().await?;
            show(&ordered(compare(&before, now.clone()), command), output);
            if command.watch.is_none() {
                return Ok(());
            }
            before = now;
        }
    })
}

/// The second look with what happened since the first, per second.
fn compare(before: &Value, mut now: Value) -> Value {
    let millis = number(&now, "/uptime_ms").saturating_sub(number(before, "/uptime_ms"));
    let former: HashMap<_, _> = rows(before).iter().map(|row| (name(row), row)).collect();
    let per_second: Vec<Value> = rows(&now)
        .iter()
        .map(|row| {
            let former = former.get(&name(row)).copied();
            let rate = |place: &str| {
                let total = number(row, place);
                let then = former.map_or(0, |former| number(former, place));
                let more = total.checked_sub(then).unwrap_or(total);
                (more * 1_000).checked_div(millis).unwrap_or(0)
            };
            json!({
                "calls": rate("/calls"),
                "failures": rate("/failures"),
                "breaker_refusals": rate("/breaker_refusals"),
                "cpu_ns": rate("/time/total_ns"),
            })
        })
        .collect();
    if let Some(items) = now["items"].as_array_mut() {
        for (row, per_second) in items.iter_mut().zip(per_second) {
            row["per_second"] = per_second;
        }
    }
    now
}

/// Sorted, and without the versions that are not asked any more, unless they are wanted.
fn ordered(mut look: Value, command: &Top) -> Value {
    let place = |row: &Value| match command.sort {
        Sort::Calls if row["per_second"].is_object() => "/per_second/calls",
        Sort::Calls => "/calls",
        Sort::Cpu if row["per_second"].is_object() => "/per_second/cpu_ns",
        Sort::Cpu => "/time/total_ns",
        Sort::P99 => "/time/p99_ns",
        Sort::Failures if row["per_second"].is_object() => "/per_second/failures",
        Sort::Failures => "/failures",
        Sort::Memory => "/memory/bytes",
    };
    if let Some(items) = look["items"].as_array_mut() {
        items.retain(|row| command.former || row["is_bound"] == true);
        items.sort_by_key(|row| std::cmp::Reverse(number(row, place(row))));
    }
    look
}

fn show(look: &Value, output: Output) {
    output.result(look, || text(look));
}

/// The table for people.
fn text(look: &Value) -> String {
    let items = rows(look);
    if items.is_empty() {
        return "no plugin of the app is bound; `tidegate plugin bind` binds one".to_owned();
    }
    let is_rate = items.iter().any(|row| row["per_second"].is_object());
    let (calls, failed, cpu) = if is_rate {
        ("CALLS/s", "FAILED/s", "CPU")
    } else {
        ("CALLS", "FAILED", "CPU TIME")
    };
    let heading = [
        "PLUGIN", "VERSION", "HOOK", "LANE", calls, failed, cpu, "P50", "P99", "P99.9", "MEMORY",
        "",
    ];
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|row| {
            let (calls, failed, cpu) = if is_rate {
                let nanos = number(row, "/per_second/cpu_ns");
                // A second has ten million times a hundred nanoseconds: hundredths of a percent.
                let percent = nanos / 100_000;
                (
                    number(row, "/per_second/calls").to_string(),
                    number(row, "/per_second/failures").to_string(),
                    format!("{}.{:02} %", percent / 100, percent % 100),
                )
            } else {
                (
                    row["calls"].to_string(),
                    row["failures"].to_string(),
                    time(number(row, "/time/total_ns")),
                )
            };
            let share = |place: &str| match number(row, "/time/samples") {
                0 => "-".to_owned(),
                _ => time(number(row, place)),
            };
            vec![
                string(&row["plugin"]),
                row["version"].to_string(),
                string(&row["hook"]),
                string(&row["lane"]),
                calls,
                failed,
                cpu,
                share("/time/p50_ns"),
                share("/time/p99_ns"),
                share("/time/p999_ns"),
                memory(number(row, "/memory/bytes")),
                remarks(row),
            ]
        })
        .collect();
    table(&heading, &rows)
}

/// What an author should look at.
fn remarks(row: &Value) -> String {
    let mut remarks = Vec::new();
    match row["breaker"].as_str() {
        Some("closed") | None => {}
        Some(state) => remarks.push(format!("breaker {state}")),
    }
    for (place, what) in [
        ("/near_deadline", "calls near the deadline"),
        ("/near_memory", "instances near their memory"),
    ] {
        match number(row, place) {
            0 => {}
            count => remarks.push(format!("{count} {what}")),
        }
    }
    if row["is_bound"] == false {
        remarks.push("not bound any more".to_owned());
    }
    remarks.join(", ")
}

fn rows(look: &Value) -> &[Value] {
    look["items"].as_array().map_or(&[], Vec::as_slice)
}

fn name(row: &Value) -> (String, u64, String) {
    (
        string(&row["plugin"]),
        number(row, "/version"),
        string(&row["hook"]),
    )
}

fn number(row: &Value, place: &str) -> u64 {
    row.pointer(place).and_then(Value::as_u64).unwrap_or(0)
}

/// Nanoseconds in the unit that leaves the fewest digits.
fn time(nanos: u64) -> String {
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => tenths(nanos / 100, "us"),
        1_000_000..1_000_000_000 => tenths(nanos / 100_000, "ms"),
        1_000_000_000.. => tenths(nanos / 100_000_000, "s"),
    }
}

fn memory(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576.. => tenths(bytes * 10 / 1_048_576, "MiB"),
    }
}

fn tenths(tenths: u64, unit: &str) -> String {
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(uptime_ms: u64, calls: u64) -> Value {
        json!({ "uptime_ms": uptime_ms, "items": [{
            "plugin": "shout", "version": 2, "hook": "filtering", "is_bound": true, "calls": calls, "failures": 1,
            "breaker": "open", "breaker_refusals": 0, "lane": "aside", "near_deadline": 3, "near_memory": 0,
            "time": { "samples": 9, "total_ns": calls * 1_000_000, "p50_ns": 999, "p99_ns": 1_234, "p999_ns": 5_600_000 },
            "memory": { "bytes": 1_179_648 },
        }]})
    }

    #[test]
    fn a_rate_is_the_difference_of_two_looks() {
        let compared = compare(&look(1_000, 10), look(3_000, 70));
        let per_second = &compared["items"][0]["per_second"];
        assert_eq!(per_second["calls"], 30);
        assert_eq!(per_second["failures"], 0);
        // 60 ms of work in two seconds.
        assert_eq!(per_second["cpu_ns"], 30_000_000);
        let text = text(&compared);
        for says in [
            "CALLS/s", "shout", "30", "3.00 %", "999 ns", "1.2 us", "5.6 ms", "1.1 MiB",
        ] {
            assert!(text.contains(says), "{says}: {text}");
        }
        assert!(text.contains("breaker open, 3 calls near the deadline"));
    }

    #[test]
    fn counters_that_went_back_start_from_nothing() {
        let compared = compare(&look(1_000, 70), look(2_000, 10));
        assert_eq!(compared["items"][0]["per_second"]["calls"], 10);
        let same_moment = compare(&look(1_000, 1), look(1_000, 2));
        assert_eq!(same_moment["items"][0]["per_second"]["calls"], 0);
    }
}
