//! The cache of compiled code: quick restarts, and nothing loaded that we did not write.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::guests::{self, bind, binding, filtering, passed, replace};
use tempfile::TempDir;
use tidegate_sandbox::{CacheConfig, Hook, Sandbox, SandboxConfig};

fn open(root: &Path) -> Arc<Sandbox> {
    let cache = CacheConfig::open(root.join("artifacts"), &root.join("sandbox.key")).unwrap();
    Sandbox::new(SandboxConfig {
        cache: Some(cache),
        ..SandboxConfig::default()
    })
    .unwrap()
}

fn files(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join("artifacts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Admits, compiles and calls in a sandbox of its own, as after a restart.
#[track_caller]
fn run(root: &Path) {
    let wasm = filtering(&format!("(data (i32.const 1024) \"7\")\n{}", replace(1)));
    let sandbox = open(root);
    let compiled = guests::compile(&sandbox, &wasm);
    bind(&sandbox, vec![binding(&compiled, Hook::Filtering)]);
    assert_eq!(passed(&sandbox, b"0"), "7");
}

#[test]
fn w3_the_directory_and_its_files_are_ours_alone() {
    let root = TempDir::new().unwrap();
    run(root.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root.path().join("artifacts")), 0o700);
    assert_eq!(mode(&root.path().join("sandbox.key")), 0o600);
    let files = files(root.path());
    assert_eq!(files.len(), 1, "no temporary file stays behind");
    assert_eq!(mode(&files[0]), 0o600);
}

#[test]
fn a_second_start_takes_the_file() {
    let root = TempDir::new().unwrap();
    run(root.path());
    let file = &files(root.path())[0];
    let written = fs::metadata(file).unwrap().modified().unwrap();
    run(root.path());
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), written);
}

#[test]
fn w3_a_changed_file_is_never_loaded_but_compiled_anew() {
    let root = TempDir::new().unwrap();
    run(root.path());
    let file = files(root.path()).remove(0);
    let good = fs::read(&file).unwrap();
    for at in [0, 8, 20, 40, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        run(root.path());
        assert_ne!(fs::read(&file).unwrap(), bad, "byte {at} was changed");
    }
    for cut in [0, 7, 39, good.len() - 1] {
        fs::write(&file, &good[..cut]).unwrap();
        run(root.path());
        assert!(fs::metadata(&file).unwrap().len() > cut as u64);
    }
}

#[test]
fn w3_a_file_under_another_key_or_name_is_not_taken() {
    let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    run(ours.path());
    run(theirs.path());
    let file = files(ours.path()).remove(0);
    let foreign = fs::read(files(theirs.path()).remove(0)).unwrap();
    fs::write(&file, &foreign).unwrap();
    run(ours.path());
    assert_ne!(fs::read(&file).unwrap(), foreign);
}

#[test]
fn what_was_compiled_of_components_that_are_gone_is_removed() {
    let root = TempDir::new().unwrap();
    run(root.path());
    let [kept] = &files(root.path())[..] else {
        panic!("one component, one file");
    };
    let name = kept.file_name().unwrap().to_str().unwrap();
    let digest: [u8; 32] =
        std::array::from_fn(|at| u8::from_str_radix(&name[2 * at..2 * at + 2], 16).unwrap());
    let gone = kept.with_file_name(format!("{}-0123456789abcdef.native", "ab".repeat(32)));
    fs::write(&gone, b"old").unwrap();
    open(root.path()).keep_only(&[digest]);
    assert_eq!(files(root.path()), std::slice::from_ref(kept));
    open(root.path()).keep_only(&[]);
    assert!(files(root.path()).is_empty());
}
