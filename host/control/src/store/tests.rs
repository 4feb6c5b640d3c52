//! What the store promises, claim by claim; here is what all claims use.

mod apps;
mod audit;
mod bindings;
mod closing;
mod files;
mod keys;
mod plugins;
mod retention;

use std::{collections::BTreeSet, sync::Arc, thread};

use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    AppName, AuditQuery, BindingRequest, Digest, FailurePolicy, Hook, KeyRole, NewVersion, Page,
    PluginName, Scope, Uploaded,
};

struct Bench {
    store: Arc<Store>,
    app: AppName,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self {
            store: Arc::new(Store::open(dir.path()).unwrap()),
            app: AppName::default_app(),
            dir,
        }
    }

    fn upload(&self, plugin: &str, artifact: &[u8], hooks: &[Hook]) -> Uploaded {
        self.store
            .add_version(
                &actor(),
                &self.app,
                &name(plugin),
                NewVersion {
                    artifact,
                    hooks,
                    imports: &["tidegate:plugin/log@0.1.0".to_owned()],
                    note: "",
                },
            )
            .unwrap()
    }

    fn bind(&self, plugin: &str, hook: Hook, position: Option<u32>) -> Result<String, StoreError> {
        self.store
            .bind(&actor(), &self.app, &request(plugin, hook, position))
            .map(|bound| bound.binding.id)
    }

    fn active(&self, plugin: &str) -> Option<u32> {
        self.store
            .plugin(&self.app, &name(plugin))
            .unwrap()
            .active_version
    }

    fn activate(&self, plugin: &str, number: u32) -> Result<u32, StoreError> {
        self.store
            .activate(&actor(), &self.app, &name(plugin), number)
            .map(|activation| activation.version)
    }

    fn rollback(&self, plugin: &str) -> Result<u32, StoreError> {
        self.store
            .rollback(&actor(), &self.app, &name(plugin))
            .map(|activation| activation.version)
    }

    fn actions(&self) -> Vec<String> {
        let page = Page {
            size: 200,
            before: None,
        };
        let entries = self.store.audit(&AuditQuery { app: None, page }).unwrap();
        entries
            .into_iter()
            .rev()
            .map(|entry| format!("{} {} {}", entry.action, entry.object, entry.result))
            .collect()
    }
}

fn actor() -> Actor {
    Actor {
        who: "test".to_owned(),
        ip: Some([127, 0, 0, 1].into()),
    }
}

fn name(text: &str) -> PluginName {
    PluginName::parse(text).unwrap()
}

fn request(plugin: &str, hook: Hook, position: Option<u32>) -> BindingRequest {
    BindingRequest {
        plugin: name(plugin),
        hook,
        scope: Scope::App,
        position,
        config: Some(r#"{"words":["a"]}"#.to_owned()),
        failure_policy: Some(FailurePolicy::Closed),
        isolation: None,
    }
}

#[track_caller]
fn is_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict { why }) => assert!(why.contains(says), "{why}"),
        other => panic!("expected a conflict about {says:?}, got {other:?}"),
    }
}
