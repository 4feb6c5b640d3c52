//! The compile child: what it makes is what the pool runs, and however it ends, it ends, and is named.
//!
//! The child of these tests is this same program, told to run one test of it, [`the_child_itself`].

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::guests::{PASS, bind, binding, filter_function, filtering, guest, passed, replace};
use tempfile::TempDir;
use tidegate_sandbox::{
    AdmissionRefused, CacheConfig, Compilation, CompileChild, CompileError, Hook, Sandbox,
    SandboxConfig,
};

/// Runs in the child alone, hence ignored: it would read the standard input of whoever runs the tests.
#[test]
#[ignore = "the compile child of the other tests"]
fn the_child_itself() {
    tidegate_sandbox::compile_child().unwrap();
    // The runner's own words must not follow the answer.
    std::process::exit(0);
}

fn child() -> CompileChild {
    let arguments = [
        "--exact",
        "child::the_child_itself",
        "--ignored",
        "--nocapture",
    ];
    CompileChild::this_program(arguments.map(OsString::from)).unwrap()
}

/// A program in the child's place.
fn shell(script: &str) -> CompileChild {
    CompileChild {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        ..child()
    }
}

fn node(root: &Path, child: CompileChild) -> Arc<Sandbox> {
    let cache = CacheConfig::open(root.join("artifacts"), &root.join("sandbox.key")).unwrap();
    Sandbox::new(SandboxConfig {
        cache: Some(cache),
        compilation: Compilation::Child(child),
        ..SandboxConfig::default()
    })
    .unwrap()
}

/// Replaces every message by `7`.
fn good() -> Vec<u8> {
    filtering(&format!("(data (i32.const 1024) \"7\")\n{}", replace(1)))
}

/// Admitted by every rule: thirty kilobytes that take half a minute and gigabytes. Each of many nested loops carries each of many variables.
fn bomb() -> Vec<u8> {
    let locals = "(local i32)".repeat(990);
    let depth = 3_000;
    let steps: String = (1..990)
        .map(|local| format!("local.get {local} local.get 0 i32.add local.set {local}\n"))
        .collect();
    let function = format!(
        "(func (param i32) {locals}\n{}{steps}{})",
        "loop\n".repeat(depth),
        "local.get 0 br_if 0 end\n".repeat(depth)
    );
    guest(
        &[Hook::Filtering],
        &format!("{function}\n{}", filter_function(PASS)),
    )
}

#[track_caller]
fn compile(sandbox: &Sandbox, wasm: &[u8]) -> Result<(), CompileError> {
    let admitted = sandbox.admit(wasm).unwrap();
    sandbox.compile(&admitted).map(drop)
}

#[track_caller]
fn refused(child: CompileChild, wasm: &[u8]) -> AdmissionRefused {
    let root = TempDir::new().unwrap();
    match compile(&node(root.path(), child), wasm) {
        Err(CompileError::Refused(refusal)) => {
            assert!(!refusal.help.is_empty());
            let left: Vec<PathBuf> = fs::read_dir(root.path().join("artifacts"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{left:?} stayed behind");
            refusal
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn w2_what_the_child_made_runs_in_the_pool_and_is_cached() {
    let root = TempDir::new().unwrap();
    let sandbox = node(root.path(), child());
    let admitted = sandbox.admit(&good()).unwrap();
    let compiled = sandbox.compile(&admitted).unwrap();
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(passed(&sandbox, b"0"), "7");

    // Another start needs no child: this one could not compile anything.
    let sandbox = node(root.path(), shell("exit 1"));
    let compiled = sandbox.compile(&admitted).unwrap();
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(passed(&sandbox, b"0"), "7");
}

#[test]
fn w2_a_compile_bomb_is_killed_when_its_time_is_over() {
    let child = CompileChild {
        processor_time: Duration::from_secs(1),
        wall_time: Duration::from_secs(600),
        ..child()
    };
    let refusal = refused(child, &bomb());
    assert_eq!(refusal.rule, "compile-time", "{refusal}");
}

#[test]
fn w2_a_compile_bomb_cannot_have_more_memory_than_the_child_may() {
    let child = CompileChild {
        address_space_bytes: 320 << 20,
        wall_time: Duration::from_secs(600),
        ..child()
    };
    let refusal = refused(child, &bomb());
    assert_eq!(refusal.rule, "compile-memory", "{refusal}");
}

#[test]
fn w2_a_child_that_is_killed_is_named_and_the_next_upload_works() {
    let root = TempDir::new().unwrap();
    let flag = root.path().join("killed");
    // Kills itself the first time, in the middle of its work; is a compiler the second time.
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "test -e {flag} && exec {program} --exact child::the_child_itself --ignored --nocapture; \
         touch {flag}; kill -KILL $$",
        flag = flag.display(),
        program = program.display()
    );
    let sandbox = node(root.path(), shell(&script));
    match compile(&sandbox, &good()) {
        Err(CompileError::Refused(refusal)) => {
            assert_eq!(refusal.rule, "compile-crash");
            assert!(refusal.detail.contains("signal 9"), "{refusal}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    compile(&sandbox, &good()).unwrap();
}

#[test]
fn w2_a_child_that_hangs_is_killed_and_gone() {
    let root = TempDir::new().unwrap();
    let note = root.path().join("pid");
    let child = CompileChild {
        wall_time: Duration::from_millis(300),
        ..shell(&format!("echo $$ > {}; exec sleep 600", note.display()))
    };
    // It used no processor time, so the plugin is not to blame.
    match compile(&node(root.path(), child), &good()) {
        Err(CompileError::Failed(why)) => assert!(why.contains("too busy"), "{why}"),
        other => panic!("expected our own failure, got {other:?}"),
    }
    // Absent if the shell had not come so far; then there is no more to see.
    if let Ok(pid) = fs::read_to_string(note) {
        let process = Path::new("/proc").join(pid.trim());
        assert!(!process.exists(), "the child is still there, or not reaped");
    }
}

#[test]
fn w2_the_last_words_of_a_crash_are_shown_and_escaped() {
    let refusal = refused(
        shell("printf '\\n\\033[31mboom\\nmore' >&2; exit 3"),
        &good(),
    );
    assert_eq!(refusal.rule, "compile-crash");
    assert!(refusal.detail.contains("code 3"), "{refusal}");
    assert!(refusal.detail.contains("\\u{1b}[31mboom"), "{refusal}");
}

#[test]
fn w2_the_child_has_no_environment_and_no_file_but_its_three() {
    let refusal = refused(
        shell("tr '\\0' ' ' < /proc/$$/environ >&2; echo end >&2; exit 1"),
        &good(),
    );
    assert!(refusal.detail.ends_with("saying: end"), "{refusal}");
    // What whoever started the tests left open for them is not ours to close; what we open is.
    let ours = TempDir::new().unwrap();
    let _open = fs::File::create(ours.path().join("ours")).unwrap();
    let count = |pattern: &str| {
        let script = format!("readlink /proc/$$/fd/* | grep -c {pattern} >&2; exit 1");
        let detail = refused(shell(&script), &good()).detail;
        detail.split("saying: ").nth(1).unwrap().to_owned()
    };
    assert_eq!(count("/artifacts/.*deleted"), "3");
    assert_eq!(count("/ours"), "0");
}

#[test]
fn w2_a_child_that_cannot_start_or_answers_nonsense_is_not_the_plugins_fault() {
    let root = TempDir::new().unwrap();
    let nowhere = CompileChild {
        program: root.path().join("nothing"),
        ..child()
    };
    for child in [
        nowhere,
        shell("exit 0"),
        shell("echo tgcmpl-a and nothing else"),
    ] {
        match compile(&node(root.path(), child), &good()) {
            Err(CompileError::Failed(_)) => {}
            other => panic!("expected our own failure, got {other:?}"),
        }
    }
}

#[test]
fn what_is_cached_does_not_wait_for_what_is_compiled() {
    let root = TempDir::new().unwrap();
    let first = node(root.path(), child());
    compile(&first, &good()).unwrap();
    let (started, stop) = (root.path().join("started"), root.path().join("stop"));
    // Compiles for as long as nobody says stop.
    let script = format!(
        "echo > {}; while ! test -e {}; do sleep 0.01; done; exit 1",
        started.display(),
        stop.display()
    );
    let sandbox = node(root.path(), shell(&script));
    thread::scope(|scope| {
        let slow = scope.spawn(|| compile(&sandbox, &filtering(PASS)));
        while !started.exists() {
            thread::yield_now();
        }
        compile(&sandbox, &good()).unwrap();
        fs::write(&stop, "").unwrap();
        assert!(matches!(
            slow.join().unwrap(),
            Err(CompileError::Refused(_))
        ));
    });
}
