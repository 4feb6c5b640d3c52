//! The SDK stands alone and says the same as the repository: its copy of the contract, its dependencies' versions.

use std::{fs, path::Path};

/// `(name, version)` of every dependency that a manifest names with a version.
fn versions(manifest: &str) -> Vec<(String, String)> {
    let dependencies = manifest.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        let version = match value.split_once("version = \"") {
            Some((_, version)) => version,
            None => value.trim().strip_prefix('"')?,
        };
        let (version, _) = version.split_once('"')?;
        Some((name.trim().to_owned(), version.to_owned()))
    });
    dependencies.collect()
}

#[test]
fn contract_is_a_true_copy() {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |directory: &Path| {
        let mut files: Vec<(String, String)> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let (ours, contract) = (read(&sdk.join("wit")), read(&sdk.join("../wit")));
    assert!(!contract.is_empty());
    assert!(
        ours == contract,
        "sdk/wit is not the contract any more; run `cp wit/*.wit sdk/wit/`"
    );
}

#[test]
fn manifests_inherit_nothing_and_agree_with_the_workspace() {
    let workspace = versions(include_str!("../../Cargo.toml"));
    for manifest in [
        include_str!("../Cargo.toml"),
        include_str!("../macros/Cargo.toml"),
    ] {
        assert!(!manifest.contains("workspace = true"));
        let (_, dependencies) = manifest.split_once("dependencies]").unwrap();
        for (name, version) in versions(dependencies) {
            assert!(
                workspace.contains(&(name.clone(), version.clone())),
                "{name} {version} is not the workspace's"
            );
        }
    }
}
