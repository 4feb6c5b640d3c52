//! Licences, bans and sources of what we depend on, by the rules of `deny.toml`.
//!
//! `cargo deny` reads the same file and knows more (advisories, duplicates); it is used where it is installed. This
//! check needs nothing but the lock file, so that a machine without the tool still enforces the same three rules.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The part of `deny.toml` that this check honours.
struct Rules {
    licences: BTreeSet<String>,
    banned: Vec<(String, String)>,
    registries: Vec<String>,
}

/// Checks everything the lock file names.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("deny.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let rules = Rules::read(&text.parse().context("deny.toml is not TOML")?)?;
    let mut broken = Vec::new();
    let mut count = 0;
    for package in workspace
        .packages()
        .filter(|package| !package["source"].is_null())
    {
        count += 1;
        let field = |key: &str| package[key].as_str().unwrap_or_default();
        broken.extend(rules.faults(
            field("name"),
            field("version"),
            field("license"),
            field("source"),
        ));
    }
    if !broken.is_empty() {
        bail!(
            "{} rules of deny.toml are broken:\n  {}",
            broken.len(),
            broken.join("\n  ")
        );
    }
    println!("    {count} packages: licences, bans and sources are as deny.toml wants them");
    Ok(())
}

impl Rules {
    fn read(file: &toml::Table) -> Result<Self> {
        let list = |section: &str, key: &str| -> Result<Vec<toml::Value>> {
            let found = file
                .get(section)
                .and_then(|section| section.get(key))
                .and_then(toml::Value::as_array);
            Ok(found
                .with_context(|| format!("deny.toml has no list {section}.{key}"))?
                .clone())
        };
        let texts = |values: Vec<toml::Value>| {
            values
                .into_iter()
                .filter_map(|value| value.as_str().map(str::to_owned))
        };
        let banned = list("bans", "deny")?
            .into_iter()
            .filter_map(|ban| {
                let text = |key: &str| {
                    ban.get(key)
                        .and_then(toml::Value::as_str)
                        .map(str::to_owned)
                };
                Some((
                    text("crate").or_else(|| text("name"))?,
                    text("reason").unwrap_or_default(),
                ))
            })
            .collect();
        Ok(Self {
            licences: texts(list("licenses", "allow")?).collect(),
            banned,
            registries: texts(list("sources", "allow-registry")?).collect(),
        })
    }

    fn faults(&self, name: &str, version: &str, licence: &str, source: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if licence.is_empty() {
            faults.push(format!("{name} {version} states no licence"));
        } else if !Expression::new(licence).satisfies(&self.licences) {
            faults.push(format!(
                "{name} {version} is under `{licence}`, which licenses.allow does not cover"
            ));
        }
        if let Some((_, reason)) = self.banned.iter().find(|(banned, _)| banned == name) {
            faults.push(format!("{name} {version} is banned: {reason}"));
        }
        let is_known = source
            .strip_prefix("registry+")
            .is_some_and(|url| self.registries.iter().any(|known| known == url));
        if !is_known {
            faults.push(format!(
                "{name} {version} comes from {source}, which sources.allow-registry does not name"
            ));
        }
        faults
    }
}

/// A licence expression: names joined by AND and OR, `/` as the old spelling of OR, parentheses, `WITH` exceptions.
struct Expression {
    tokens: Vec<String>,
    at: usize,
}

impl Expression {
    fn new(text: &str) -> Self {
        let spaced = text
            .replace('(', " ( ")
            .replace(')', " ) ")
            .replace('/', " OR ");
        Self {
            tokens: spaced.split_whitespace().map(str::to_owned).collect(),
            at: 0,
        }
    }

    fn satisfies(mut self, allowed: &BTreeSet<String>) -> bool {
        let fits = self.any(allowed);
        fits && self.at == self.tokens.len()
    }

    fn next_is(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| token == word);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self, allowed: &BTreeSet<String>) -> bool {
        let mut fits = self.all(allowed);
        while self.next_is("OR") {
            fits |= self.all(allowed);
        }
        fits
    }

    fn all(&mut self, allowed: &BTreeSet<String>) -> bool {
        let mut fits = self.one(allowed);
        while self.next_is("AND") {
            fits &= self.one(allowed);
        }
        fits
    }

    fn one(&mut self, allowed: &BTreeSet<String>) -> bool {
        if self.next_is("(") {
            let fits = self.any(allowed);
            return self.next_is(")") && fits;
        }
        let Some(mut name) = self.tokens.get(self.at).cloned() else {
            return false;
        };
        self.at += 1;
        if self.next_is("WITH") {
            let exception = self.tokens.get(self.at).cloned().unwrap_or_default();
            self.at += 1;
            name = format!("{name} WITH {exception}");
        }
        allowed.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_expression(text: &str, expected: bool) {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            .map(str::to_owned)
            .into_iter()
            .collect();
        assert_eq!(
            Expression::new(text).satisfies(&allowed),
            expected,
            "{text}"
        );
    }

    #[test]
    fn a_licence_expression_is_allowed_when_a_choice_of_it_is() {
        check_expression("MIT", true);
        check_expression("MIT/GPL-3.0", true);
        check_expression("GPL-3.0", false);
        check_expression("GPL-3.0 OR Apache-2.0", true);
        check_expression("MIT AND BSD-3-Clause", false);
        check_expression("(MIT OR GPL-3.0) AND Apache-2.0", true);
        check_expression("Apache-2.0 WITH LLVM-exception", true);
        check_expression("Apache-2.0 WITH Other-exception", false);
        check_expression("(MIT", false);
        check_expression("", false);
    }

    #[test]
    fn a_ban_names_its_reason_and_an_unknown_source_is_refused() {
        let file = "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"openssl\", reason = \"use rustls\" }]\n\
                    [sources]\nallow-registry = [\"https://example.org/index\"]\n";
        let rules = Rules::read(&file.parse().unwrap()).unwrap();
        assert_eq!(
            rules.faults(
                "openssl",
                "1.0.0",
                "MIT",
                "registry+https://example.org/index"
            ),
            ["openssl 1.0.0 is banned: use rustls"]
        );
        assert_eq!(
            rules.faults("a", "1.0.0", "MIT", "git+https://example.org/a"),
            [
                "a 1.0.0 comes from git+https://example.org/a, which sources.allow-registry does not name"
            ]
        );
    }
}
