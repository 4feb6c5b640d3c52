//! The direction of dependencies: which of our crates may see which, and what each must never see.
//!
//! Reads the resolved graph of `cargo metadata` and walks normal and build dependencies (tests may use anything).
//! The rules are those of ARCHITECTURE.md; change both together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// What one of our crates may use of ours, and what it must not reach by any way.
struct Rule {
    of: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        of: "tidegate-protocol",
        ours: &[],
        never: &[
            "tokio", "mio", "hyper", "axum", "wasmtime", "rusqlite", "socket2",
        ],
    },
    Rule {
        of: "tidegate-realtime",
        ours: &["tidegate-protocol"],
        never: &[
            "hyper",
            "hyper-util",
            "axum",
            "tungstenite",
            "wasmtime",
            "rusqlite",
            "redis",
        ],
    },
    Rule {
        of: "tidegate-tls",
        ours: &[],
        never: &[
            "hyper",
            "axum",
            "wasmtime",
            "rusqlite",
            "redis",
            "tokio-postgres",
        ],
    },
    Rule {
        of: "tidegate-redis",
        ours: &["tidegate-protocol", "tidegate-realtime", "tidegate-tls"],
        never: &[
            "hyper",
            "hyper-util",
            "axum",
            "tungstenite",
            "wasmtime",
            "rusqlite",
        ],
    },
    Rule {
        of: "tidegate-sandbox",
        ours: &["tidegate-protocol", "tidegate-realtime"],
        never: &[
            "hyper",
            "hyper-util",
            "axum",
            "tungstenite",
            "rusqlite",
            "redis",
        ],
    },
    Rule {
        of: "tidegate-control",
        ours: &["tidegate-protocol", "tidegate-realtime", "tidegate-tls"],
        never: &[
            "hyper",
            "hyper-util",
            "axum",
            "tungstenite",
            "wasmtime",
            "redis",
        ],
    },
    Rule {
        of: "tidegate",
        ours: &[
            "tidegate-protocol",
            "tidegate-realtime",
            "tidegate-sandbox",
            "tidegate-redis",
            "tidegate-control",
            "tidegate-tls",
        ],
        never: &["openssl", "openssl-sys"],
    },
    Rule {
        of: "tidegate-sdk",
        ours: &["tidegate-sdk-macros"],
        never: &["tokio", "wasmtime", "hyper"],
    },
    Rule {
        of: "tidegate-sdk-macros",
        ours: &[],
        never: &["tokio", "wasmtime", "hyper"],
    },
    Rule {
        of: "xtask",
        ours: &[],
        never: &["tokio", "wasmtime", "hyper"],
    },
];

/// What every package that is built to wasm, by itself or into others, may use of ours, and never.
const PLUGINS: Rule = Rule {
    of: "",
    ours: &["tidegate-sdk", "tidegate-sdk-macros", "personal-data"],
    never: &["tokio", "mio", "hyper", "wasmtime", "rusqlite"],
};

/// Checks every rule and reports everything that breaks one.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let graph = Graph::read(&workspace.metadata);
    let plugins: Vec<String> = crate::guests::FOLDERS
        .iter()
        .flat_map(|folder| workspace.members_under(folder))
        .collect();
    let rules = RULES
        .iter()
        .map(|rule| (rule.of, rule))
        .chain(plugins.iter().map(|name| (name.as_str(), &PLUGINS)));
    let mut broken: Vec<String> = workspace
        .members_under("host")
        .into_iter()
        .filter(|name| !RULES.iter().any(|rule| rule.of == name))
        .map(|name| {
            format!("{name} is under host/ and has no rule; add one to xtask/src/dependencies.rs")
        })
        .collect();
    for (of, rule) in rules {
        if !graph.ours.contains(of) {
            broken.push(format!("{of} has a rule and is not in the workspace"));
            continue;
        }
        let faults = graph.faults(of, rule);
        if faults.is_empty() {
            println!(
                "    {of} sees of ours: {}",
                if rule.ours.is_empty() {
                    "nothing".to_owned()
                } else {
                    rule.ours.join(", ")
                }
            );
        }
        broken.extend(faults);
    }
    if !broken.is_empty() {
        bail!(
            "dependencies point the wrong way:\n  {}",
            broken.join("\n  ")
        );
    }
    Ok(())
}

/// Who depends on whom, by name; two versions of a crate count as one.
struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    ours: BTreeSet<String>,
}

impl Graph {
    fn read(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut names = BTreeMap::new();
        let mut ours = BTreeSet::new();
        for package in list(&metadata["packages"]) {
            names.insert(text(&package["id"]), text(&package["name"]));
            if package["source"].is_null() {
                ours.insert(text(&package["name"]));
            }
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(from) = names.get(&text(&node["id"])) else {
                continue;
            };
            let to = edges.entry(from.clone()).or_default();
            for dependency in list(&node["deps"]) {
                let ships = list(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"] != "dev");
                if let Some(name) = names.get(&text(&dependency["pkg"])).filter(|_| ships) {
                    to.insert(name.clone());
                }
            }
        }
        Self { edges, ours }
    }

    fn faults(&self, of: &str, rule: &Rule) -> Vec<String> {
        let reached = self.reachable(of);
        let mut faults = Vec::new();
        for (name, way) in &reached {
            if self.ours.contains(name) && !rule.ours.contains(&name.as_str()) {
                faults.push(format!("{of} must not see {name} (by {way})"));
            }
            if rule.never.contains(&name.as_str()) {
                faults.push(format!("{of} must never reach {name} (by {way})"));
            }
        }
        faults
    }

    /// Everything reachable from a package, with the way there.
    fn reachable(&self, of: &str) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut open = vec![(of.to_owned(), of.to_owned())];
        while let Some((name, way)) = open.pop() {
            for next in self.edges.get(&name).into_iter().flatten() {
                if next != of && !found.contains_key(next) {
                    let way = format!("{way} -> {next}");
                    found.insert(next.clone(), way.clone());
                    open.push((next.clone(), way));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(edges: &[(&str, &str, Option<&str>)]) -> Graph {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for (from, to, _) in edges {
            names.extend([*from, *to]);
        }
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _, _)| from == name)
                    .map(|(_, to, kind)| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] }))
                    .collect();
                json!({ "id": name, "deps": deps })
            })
            .collect();
        let packages: Vec<Value> = names
            .iter()
            .map(|name| json!({ "id": name, "name": name, "source": if name.starts_with("our") { Value::Null } else { json!("registry") } }))
            .collect();
        Graph::read(&json!({ "packages": packages, "resolve": { "nodes": nodes } }))
    }

    const PURE: Rule = Rule {
        of: "our-core",
        ours: &["our-base"],
        never: &["tokio"],
    };

    #[test]
    fn a_forbidden_crate_is_found_through_others_and_the_way_is_told() {
        let graph = graph(&[("our-core", "middle", None), ("middle", "tokio", None)]);
        assert_eq!(
            graph.faults("our-core", &PURE),
            ["our-core must never reach tokio (by our-core -> middle -> tokio)"]
        );
    }

    #[test]
    fn a_crate_of_ours_that_is_not_listed_is_a_fault() {
        let graph = graph(&[
            ("our-core", "our-server", None),
            ("our-core", "our-base", None),
        ]);
        assert_eq!(
            graph.faults("our-core", &PURE),
            ["our-core must not see our-server (by our-core -> our-server)"]
        );
    }

    #[test]
    fn tests_may_depend_on_anything() {
        let graph = graph(&[
            ("our-core", "tokio", Some("dev")),
            ("our-core", "our-server", Some("dev")),
        ]);
        assert_eq!(graph.faults("our-core", &PURE), [] as [&str; 0]);
    }
}
