//! What criterion measured, read from the folder where it keeps its results.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One bench.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// As the bench is named in the code, `group/function/value`.
    pub name: String,
    pub median_ns: f64,
    /// The 95 % confidence interval of the median.
    pub between_ns: [f64; 2],
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// The latest result of each bench, by name.
///
/// # Errors
/// When the folder or a file of it cannot be read.
pub fn results(folder: &Path) -> Result<Vec<Measured>> {
    let mut results = Vec::new();
    visit(folder, &mut results)?;
    results.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(results)
}

fn visit(folder: &Path, results: &mut Vec<Measured>) -> Result<()> {
    let unreadable = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        if !entry.file_type().with_context(unreadable)?.is_dir() {
            continue;
        }
        let path = entry.path();
        if entry.file_name() != "new" {
            visit(&path, results)?;
            continue;
        }
        let benchmark: Benchmark = json(&path.join("benchmark.json"))?;
        let Estimates { median } = json(&path.join("estimates.json"))?;
        results.push(Measured {
            name: benchmark.full_id,
            median_ns: median.point_estimate,
            between_ns: [
                median.confidence_interval.lower_bound,
                median.confidence_interval.upper_bound,
            ],
        });
    }
    Ok(())
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is not what criterion writes", path.display()))
}

/// The results as a Markdown table.
pub fn table(results: &[Measured]) -> String {
    let mut text = String::from("| Bench | Median | 95 % between |\n|---|---|---|\n");
    for Measured {
        name,
        median_ns,
        between_ns: [low, high],
    } in results
    {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} and {} |",
            time(*median_ns),
            time(*low),
            time(*high)
        );
    }
    text
}

fn time(nanos: f64) -> String {
    if nanos < 10_000.0 {
        format!("{nanos:.0} ns")
    } else if nanos < 10_000_000.0 {
        format!("{:.1} µs", nanos / 1e3)
    } else {
        format!("{:.1} ms", nanos / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_result_of_each_bench_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for (place, name, median) in [("b/x", "b/x", 20_000.0), ("a", "a", 312.4)] {
            for (age, median) in [("new", median), ("base", 1.0)] {
                let path = folder.path().join(place).join(age);
                fs::create_dir_all(&path).unwrap();
                fs::write(
                    path.join("benchmark.json"),
                    format!(r#"{{"full_id":"{name}","group_id":"g"}}"#),
                )
                .unwrap();
                fs::write(
                    path.join("estimates.json"),
                    format!(r#"{{"median":{{"point_estimate":{median},"confidence_interval":{{"lower_bound":1.0,"upper_bound":2.0}}}}}}"#),
                )
                .unwrap();
            }
        }
        let found = results(folder.path()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].median_ns), ("a", 312.4));
        assert!(table(&found).contains("| `b/x` | 20.0 µs | 1 ns and 2 ns |"));
    }
}
