//! `config check`: every effective value and where it came from.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    keys::{self, Key},
    settings::Settings,
    tree::Origin,
};

/// One value as it is in force; secrets are hidden.
#[derive(Debug, Clone)]
pub struct Effective {
    pub path: String,
    pub value: serde_json::Value,
    pub origin: Origin,
}

/// Every supported key, in the order of the table, namespaces in the order of the file.
pub(super) fn effective(settings: &Settings) -> Vec<Effective> {
    let mut all = Vec::new();
    for key in keys::all().iter().filter(|key| key.is_supported()) {
        if key.path == "channel.namespaces" || key.path.contains("[]") {
            continue;
        }
        let (setting, origin) = settings.root.effective(&key.path);
        all.push(Effective {
            path: key.path.clone(),
            value: setting.to_json(),
            origin,
        });
    }
    for scope in &settings.namespaces {
        for name in namespace_options() {
            // Defaults of each namespace would bury what was said.
            if scope.is_set(name) {
                let (setting, origin) = scope.effective(name);
                all.push(Effective {
                    path: scope.shown(name),
                    value: setting.to_json(),
                    origin,
                });
            }
        }
    }
    all
}

fn namespace_options() -> impl Iterator<Item = &'static str> {
    keys::all()
        .iter()
        .filter(|key| key.is_supported())
        .filter_map(|key: &Key| key.path.strip_prefix("channel.namespaces[]."))
}

/// For people: what was set first, then the defaults, in aligned columns.
pub fn render(effective: &[Effective], file: Option<&std::path::Path>) -> String {
    let place = |origin: &Origin| match (origin, file) {
        (Origin::File { .. }, Some(file)) => format!("{}:{origin}", file.display()),
        _ => origin.to_string(),
    };
    let width = effective
        .iter()
        .map(|value| value.path.len())
        .max()
        .unwrap_or(0);
    let values: Vec<String> = effective
        .iter()
        .map(|value| value.value.to_string())
        .collect();
    let value_width = values
        .iter()
        .map(|value| value.chars().count())
        .max()
        .unwrap_or(0)
        .min(40);
    let mut text = String::new();
    let (set, defaults): (Vec<_>, Vec<_>) = effective
        .iter()
        .zip(&values)
        .partition(|(value, _)| value.origin != Origin::Default);
    for (title, group) in [("Set:", set), ("Defaults:", defaults)] {
        if group.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{title}");
        for (value, shown) in group {
            let _ = writeln!(
                text,
                "  {:width$}  {:value_width$}  {}",
                value.path,
                shown,
                place(&value.origin)
            );
        }
    }
    text
}

/// For programs: a list of `key`, `value`, `origin`.
pub fn to_json(effective: &[Effective]) -> serde_json::Value {
    effective
        .iter()
        .map(|value| {
            let origin = match &value.origin {
                Origin::Default => json!({"kind": "default"}),
                Origin::File { line, column } => {
                    json!({"kind": "file", "line": line, "column": column})
                }
                Origin::Environment(name) => json!({"kind": "environment", "name": name}),
                Origin::CommandLine(name) => json!({"kind": "option", "name": name}),
            };
            json!({"key": value.path, "value": value.value, "origin": origin})
        })
        .collect()
}
