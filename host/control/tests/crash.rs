//! The store survives kill -9 at any moment: what was answered is there, what was not is there whole or not
//! at all.
//!
//! The child is this test binary again, running [`the_writer`] alone; it reports every answered change on its
//! standard output, and the parent kills it in the middle of the next one.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use tidegate_control::{
    Actor, AppName, AuditQuery, BindingRequest, Digest, FailurePolicy, Hook, NewVersion, Page,
    PluginName, Scope, Store,
};

const DIRECTORY: &str = "TIDEGATE_TEST_CRASH_DIRECTORY";
const ROUNDS: usize = 12;
/// Large enough for an upload to span many pages of the log.
const ARTIFACT_WORDS: u32 = 96 * 1024;

fn plugin() -> PluginName {
    PluginName::parse("filter").unwrap()
}

fn artifact(number: u32) -> Vec<u8> {
    (0..ARTIFACT_WORDS)
        .map(|i| {
            i.wrapping_mul(2_654_435_761)
                .wrapping_add(number)
                .to_le_bytes()[2]
        })
        .collect()
}

/// The child's half; does nothing when the suite runs it.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the parent hands over the directory in the environment"
)]
fn the_writer() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = Store::open(Path::new(&directory)).unwrap();
    let (app, plugin, actor) = (AppName::default_app(), plugin(), Actor::node());
    let newest = store
        .plugin(&app, &plugin)
        .map_or(0, |plugin| plugin.newest_version);
    let report = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nanswered {line}").unwrap();
        out.flush().unwrap();
    };
    for number in newest + 1.. {
        let version = NewVersion {
            artifact: &artifact(number),
            hooks: &[Hook::Filtering],
            imports: &[],
            note: "",
        };
        let uploaded = store.add_version(&actor, &app, &plugin, version).unwrap();
        report(format!("upload {}", uploaded.version.number));
        store.activate(&actor, &app, &plugin, number, "").unwrap();
        report(format!("active {number}"));
        let request = BindingRequest {
            plugin: plugin.clone(),
            hook: Hook::Filtering,
            scope: Scope::App,
            position: None,
            config: Some(number.to_string()),
            failure_policy: Some(FailurePolicy::Closed),
            isolation: None,
        };
        store.bind(&actor, &app, &request).unwrap();
        report(format!("config {number}"));
    }
}

#[test]
fn r9_kill_9_at_any_moment_loses_no_answered_change_and_leaves_no_half_one() {
    let directory = tempfile::TempDir::new().unwrap();
    let (app, plugin) = (AppName::default_app(), plugin());
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_writer", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each round ends at another step of the cycle of three changes.
        let answers: Vec<(String, u32)> = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .filter_map(|line| {
                let (kind, number) = line.strip_prefix("answered ")?.split_once(' ')?;
                Some((kind.to_owned(), number.parse().unwrap()))
            })
            .take(3 + round)
            .collect();
        assert_eq!(answers.len(), 3 + round, "the writer stopped by itself");
        child.kill().unwrap(); // SIGKILL, while the next change is under way.
        child.wait().unwrap();

        let store = Store::open(directory.path()).unwrap();
        store.check().unwrap();
        let last = |kind: &str| {
            let of_kind = answers.iter().filter(|(found, _)| found == kind);
            of_kind.map(|(_, number)| *number).max().unwrap_or_default()
        };
        let found = store.plugin(&app, &plugin).unwrap();
        assert!(found.newest_version >= last("upload"));
        assert!(found.active_version.unwrap() >= last("active"));
        let binding = &store.bindings(&app).unwrap()[0];
        assert!(binding.config.parse::<u32>().unwrap() >= last("config"));
        for number in 1..=found.newest_version {
            let version = store.version(&app, &plugin, number).unwrap();
            assert_eq!(version.digest, Digest::of(&artifact(number)));
            store.artifact(&version.digest).unwrap();
        }
        every_version_has_its_audit_entry(&store, found.newest_version);
    }
}

fn every_version_has_its_audit_entry(store: &Store, newest: u32) {
    let mut uploads = 0;
    let mut before = None;
    loop {
        let page = Page { size: 200, before };
        let entries = store.audit(&AuditQuery { app: None, page }).unwrap();
        let Some(oldest) = entries.last() else {
            break;
        };
        before = Some(oldest.id);
        uploads += entries
            .iter()
            .filter(|entry| entry.action == "plugin.upload")
            .count();
    }
    assert_eq!(uploads, newest as usize);
}
