//! `config default`: a commented file that holds every supported key at its default; and the table of the manual.
//!
//! Written from the table of keys, so that it cannot disagree with it. A test loads what is printed.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::{
    keys::{self, Key, Kind, Status},
    parse::Format,
};

/// The default file. JSON has no comments, so there it is bare.
pub fn render(format: Format) -> String {
    match format {
        Format::Toml => toml(),
        Format::Yaml => yaml(),
        Format::Json => {
            let text = serde_json::to_string_pretty(&Json::Object(tree()))
                .expect("a map of text keys is JSON");
            format!("{text}\n")
        }
    }
}

fn supported() -> impl Iterator<Item = &'static Key> {
    keys::all()
        .iter()
        .filter(|key| key.is_supported() && !key.path.contains("[]"))
}

fn tree() -> Map<String, Json> {
    let mut root = Map::new();
    for key in supported() {
        let mut parts: Vec<&str> = key.path.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        let mut table = &mut root;
        for part in parts {
            let section = table
                .entry(part)
                .or_insert_with(|| Json::Object(Map::new()));
            let Json::Object(inner) = section else {
                unreachable!("a key of the table is not a section too")
            };
            table = inner;
        }
        table.insert(last.to_owned(), key.default.clone());
    }
    root
}

const HEAD: &str = "# Tidegate: every key with its default. Keep what you change; delete the rest.\n# The environment overrides each key: TIDEGATE_ and the key path in capitals, joined by `_`.\n";

const NAMESPACE_EXAMPLE: [&str; 4] = [
    "# A namespace, for channels as in `chat:lobby`:",
    "name = \"chat\"",
    "history_size = 100",
    "history_ttl = \"10m\"",
];

fn toml() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in supported() {
        let (table, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        if table != section {
            section = table;
            let _ = write!(text, "\n[{table}]\n");
        }
        if key.kind == Kind::Structure {
            // A list of tables stands in sections of its own.
            let [title, lines @ ..] = NAMESPACE_EXAMPLE;
            let _ = write!(text, "# {}\n{title}\n#   [[{}]]\n", key.doc, key.path);
            for line in lines {
                let _ = writeln!(text, "#   {line}");
            }
            continue;
        }
        let _ = writeln!(text, "# {}\n{name} = {}", key.doc, key.default);
    }
    text
}

fn yaml() -> String {
    let mut text = HEAD.to_owned();
    let mut open: Vec<&str> = Vec::new();
    for key in supported() {
        let parts: Vec<&str> = key.path.split('.').collect();
        let (name, sections) = parts.split_last().expect("a path has a last part");
        let shared = open
            .iter()
            .zip(sections)
            .take_while(|(a, b)| a == b)
            .count();
        open.truncate(shared);
        for section in sections.iter().skip(shared) {
            if open.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "{:indent$}{section}:", "", indent = open.len() * 2);
            open.push(section);
        }
        let indent = open.len() * 2;
        let _ = writeln!(
            text,
            "{:indent$}# {}\n{:indent$}{name}: {}",
            "", key.doc, "", key.default
        );
    }
    text
}

/// The tables of `docs/configuration.md`.
pub fn manual() -> String {
    let mut text = String::new();
    let mut section = None;
    for key in keys::all()
        .iter()
        .filter(|key| key.is_supported() && !key.path.starts_with("channel.namespaces[]."))
    {
        let top = key.path.split('.').next().unwrap_or_default();
        if section != Some(top) {
            section = Some(top);
            let _ = write!(
                text,
                "\n### `{top}`\n\n| Key | Default | Meaning |\n|---|---|---|\n"
            );
        }
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} |",
            key.path,
            key.default,
            key.doc.replace('|', "\\|")
        );
    }
    text.push_str("\n### Keys of Centrifugo that are refused\n\n| Key | Why |\n|---|---|\n");
    for (keys, why) in refused() {
        let _ = writeln!(text, "| {keys} | {why} |");
    }
    text
}

/// Neighbours with the same reason share a row.
fn refused() -> Vec<(String, String)> {
    let mut rows: Vec<(Vec<&str>, String)> = Vec::new();
    for key in keys::all()
        .iter()
        .filter(|key| !key.path.starts_with("channel.namespaces[]."))
    {
        let why = match key.status {
            Status::Supported => continue,
            Status::Later(thing) => format!("{thing} not part of this release"),
            Status::Never(reason) => reason.trim_end_matches('.').to_owned(),
        };
        match rows.iter_mut().find(|(_, other)| *other == why) {
            Some((paths, _)) => paths.push(&key.path),
            None => rows.push((vec![&key.path], why)),
        }
    }
    rows.into_iter()
        .map(|(paths, why)| (summary(&paths), why))
        .collect()
}

/// `a.b.*` instead of all keys of a section, where none of that section is supported.
fn summary(paths: &[&str]) -> String {
    let mut shown: Vec<String> = Vec::new();
    for path in paths {
        let parts: Vec<&str> = path.split('.').collect();
        let whole = (1..parts.len())
            .map(|len| parts[..len].join("."))
            .find(|section| {
                let prefix = format!("{section}.");
                let mut inside = keys::all()
                    .iter()
                    .filter(|key| key.path.starts_with(&prefix));
                inside.all(|key| paths.contains(&key.path.as_str()))
            });
        let name = whole.map_or_else(|| format!("`{path}`"), |section| format!("`{section}.*`"));
        if !shown.contains(&name) {
            shown.push(name);
        }
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    const START: &str = "<!-- written by `tidegate config reference`; do not edit below -->\n";

    #[test]
    fn the_manual_says_what_the_table_says() {
        let manual = include_str!("../../../../docs/configuration.md");
        let (_, tables) = manual
            .split_once(START)
            .expect("the manual has its generated part");
        assert!(
            tables == super::manual(),
            "docs/configuration.md is stale: put the output of `tidegate config reference` under its marker"
        );
    }
}
