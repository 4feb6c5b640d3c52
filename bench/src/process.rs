//! What the system says about a process: CPU time and memory, from `/proc`.

use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`, which Linux shows to every process whatever its own clock does.
const TICKS_PER_SECOND: u32 = 100;

/// User and system time that a process has used, all threads together.
///
/// # Errors
/// When the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let ticks = cpu_ticks(&stat)
        .with_context(|| format!("/proc/{pid}/stat has another form than expected"))?;
    Ok(Duration::from_secs(ticks) / TICKS_PER_SECOND)
}

/// Fields 14 and 15, counted after the name, which may itself hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Everything that is resident.
    pub resident: u64,
    /// What the process allocated itself: heap and stacks, no files.
    pub anonymous: u64,
}

/// What a process holds now.
///
/// # Errors
/// When the process is gone.
pub fn memory(pid: u32) -> Result<Memory> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("process {pid} is gone"))?;
    let bytes = |key: &str| {
        kibibytes(&rollup, key)
            .map(|kib| kib * 1024)
            .with_context(|| format!("smaps_rollup has no {key}"))
    };
    Ok(Memory {
        resident: bytes("Rss:")?,
        anonymous: bytes("Anonymous:")?,
    })
}

fn kibibytes(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The machine in one line, for a report.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split(':').nth(1))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = kibibytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let release = kernel.trim().split('-').next().unwrap_or_default();
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {release}",
        model.trim(),
        memory as f64 / 1024.0 / 1024.0
    )
}

/// How many processes wanted to run in the last minute: the reader's hint on how far to believe absolute figures.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .unwrap_or(0.0)
}

/// Time of all cores together since the machine was started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreTime {
    /// All of it, whoever had it.
    whole: u64,
    /// What the hypervisor gave to other machines while this one wanted to run.
    stolen: u64,
}

impl CoreTime {
    /// Nothing where the system does not say.
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::of(&stat)
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq and steal; guests are within user.
    fn of(stat: &str) -> Self {
        let cores = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = cores
            .split_whitespace()
            .skip(1)
            .take(8)
            .map_while(|ticks| ticks.parse().ok())
            .collect();
        Self {
            whole: ticks.iter().sum(),
            stolen: ticks.get(7).copied().unwrap_or(0),
        }
    }

    /// The share that was stolen since then.
    pub fn stolen_since(self, then: Self) -> f64 {
        let whole = self.whole.saturating_sub(then.whole).max(1);
        self.stolen.saturating_sub(then.stolen) as f64 / whole as f64
    }
}

/// Lets this process, and those it starts, open as many files as the system permits.
pub fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // What cannot be raised shows as connections that fail, which the report counts.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_of_it() {
        let then = CoreTime::of("cpu  10 0 10 70 5 0 0 5 99 99\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let now = CoreTime::of("cpu  50 0 20 110 5 0 0 15 99 99\n");
        assert_eq!((then.whole, then.stolen), (100, 5));
        assert!((now.stolen_since(then) - 0.1).abs() < f64::EPSILON);
        assert!(CoreTime::of("").stolen_since(CoreTime::of("")).abs() < f64::EPSILON);
    }

    #[test]
    fn ticks_are_found_behind_a_name_with_spaces_and_parentheses() {
        assert_eq!(
            cpu_ticks("7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0"),
            Some(42)
        );
    }

    #[test]
    fn our_own_process_uses_memory_and_time() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.anonymous > 0 && memory.resident >= memory.anonymous);
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
