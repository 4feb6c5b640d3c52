//! Which version of each plugin runs here, since when, and why not the one that should.

use std::collections::{BTreeMap, btree_map::Entry};

use serde_json::{Value, json};
use tidegate_control::{AppName, DesiredBinding, PluginName, Timestamp};

use crate::admin::Refused;

/// The plugins that are bound.
#[derive(Debug, Default)]
pub(super) struct RunningPlugins {
    by_name: BTreeMap<(AppName, PluginName), RunningPlugin>,
}

#[derive(Debug)]
struct RunningPlugin {
    /// `None`: its bindings answer their failure policy.
    version: Option<u32>,
    /// When this node began to run it.
    since: Timestamp,
    /// What the store says should run.
    wanted: u32,
    problem: Option<String>,
}

impl RunningPlugins {
    /// Counts what came of a binding; of several, the one with a problem is told of.
    pub(super) fn add(
        &mut self,
        row: &DesiredBinding,
        version: Option<u32>,
        why: Option<&Refused>,
    ) {
        let plugin = RunningPlugin {
            version,
            since: Timestamp::now(),
            wanted: row.version,
            problem: why.map(ToString::to_string),
        };
        match self.by_name.entry((row.app.clone(), row.plugin.clone())) {
            Entry::Vacant(place) => {
                place.insert(plugin);
            }
            Entry::Occupied(mut known) => {
                if plugin.problem.is_some() && known.get().problem.is_none() {
                    known.insert(plugin);
                }
            }
        }
    }

    /// Takes over since when those run that ran before.
    pub(super) fn since(&mut self, before: &Self) {
        for (name, plugin) in &mut self.by_name {
            if let Some(before) = before.by_name.get(name)
                && before.version == plugin.version
            {
                plugin.since = before.since;
            }
        }
    }

    pub(super) fn rows(&self) -> Vec<Value> {
        let rows = self.by_name.iter().map(|((app, name), plugin)| {
            let RunningPlugin {
                version,
                since,
                wanted,
                problem,
            } = plugin;
            let mut row = json!({
                "app": app,
                "plugin": name,
                "version": version,
                "wanted_version": wanted,
                "since": since,
            });
            if let Some(problem) = problem {
                row["problem"] = json!(problem);
            }
            row
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_control::{Digest, FailurePolicy, Hook, Isolation, Scope};

    use super::*;

    fn row(version: u32, hook: Hook) -> DesiredBinding {
        DesiredBinding {
            id: hook.as_str().to_owned(),
            app: AppName::default_app(),
            plugin: PluginName::parse("p").unwrap(),
            version,
            digest: Digest::of(b""),
            hook,
            scope: Scope::App,
            position: 0,
            config: String::new(),
            failure_policy: FailurePolicy::Closed,
            isolation: Isolation::Shared,
        }
    }

    #[test]
    fn of_several_bindings_the_one_with_a_problem_is_told_of() {
        let why = Refused {
            rule: "size".to_owned(),
            detail: "too large".to_owned(),
            help: String::new(),
        };
        for order in [[Hook::Filtering, Hook::Rpc], [Hook::Rpc, Hook::Filtering]] {
            let mut plugins = RunningPlugins::default();
            for hook in order {
                match hook {
                    Hook::Rpc => plugins.add(&row(2, hook), Some(1), Some(&why)),
                    _ => plugins.add(&row(2, hook), Some(2), None),
                }
            }
            let shown = plugins.rows();
            assert_eq!(
                (&shown[0]["version"], &shown[0]["wanted_version"]),
                (&json!(1), &json!(2))
            );
            assert_eq!(shown[0]["problem"], "size: too large");
        }
    }

    #[test]
    fn a_version_runs_since_it_began_to_however_often_something_else_changes() {
        let mut before = RunningPlugins::default();
        before.add(&row(1, Hook::Rpc), Some(1), None);
        let long_ago = Timestamp::from_millis(1);
        for plugin in before.by_name.values_mut() {
            plugin.since = long_ago;
        }
        let since = |version| {
            let mut now = RunningPlugins::default();
            now.add(&row(version, Hook::Rpc), Some(version), None);
            now.since(&before);
            now.rows()[0]["since"].clone()
        };
        assert_eq!(since(1), json!(long_ago));
        assert_ne!(since(2), json!(long_ago));
    }
}
