//! The tree and the overrides, checked against the table of keys: typed settings with their origins.
//!
//! Owns "is this key known, supported and of the right kind"; what values mean together is in the private module `build`.
//! Invariant: every problem is collected, none ends the reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    environment::Environment,
    keys::{self, Key, Kind, Status},
    secret::Secret,
    tree::{Entry, Node, Origin, Problem, Value},
    units,
};

/// A value of the right kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    Flag(bool),
    Count(i64),
    Text(String),
    Secret(Secret),
    Duration(Duration),
    Size(u64),
    Texts(Vec<String>),
}

impl Setting {
    /// As `config check` shows it; secrets are hidden.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Flag(value) => (*value).into(),
            Self::Count(value) => (*value).into(),
            Self::Text(value) => value.clone().into(),
            Self::Secret(value) => format!("({})", value.redacted()).into(),
            Self::Duration(value) => units::format_duration(*value).into(),
            Self::Size(value) => units::format_size(*value).into(),
            Self::Texts(values) => values.clone().into(),
        }
    }
}

/// Settings of one scope (the file, or one namespace), by the last part of the pattern path.
#[derive(Debug, Default)]
pub struct Scope {
    values: BTreeMap<String, (Setting, Origin)>,
    /// Pattern paths that were set to what cannot be read; their problems are told already.
    unreadable: BTreeSet<String>,
    /// Pattern path of the scope's keys, as in `channel.namespaces[].`.
    pattern: &'static str,
    /// Path for problems, as in `channel.namespaces[2].`.
    shown: String,
    origin: Option<Origin>,
}

/// Everything that was said.
#[derive(Debug)]
pub struct Settings {
    pub root: Scope,
    pub namespaces: Vec<Scope>,
    pub problems: Vec<Problem>,
}

const NAMESPACES: &str = "channel.namespaces";
const NAMESPACE_PATTERN: &str = "channel.namespaces[].";

impl Settings {
    /// Reads the file's tree, then the environment over it.
    pub fn read(file: Option<&Node>, environment: &dyn Environment) -> Self {
        let mut settings = Self {
            root: Scope::default(),
            namespaces: Vec::new(),
            problems: Vec::new(),
        };
        if let Some(Value::Table(entries)) = file.map(|node| &node.value) {
            settings.walk(entries, "");
            settings.tell_of_flat_keys(entries);
        }
        for (name, text) in environment.variables() {
            settings.override_by_variable(&name, text);
        }
        settings
    }

    /// Sets a key from the command line.
    pub fn override_by_option(&mut self, path: &str, option: &'static str, text: &str) {
        let node = Node {
            value: Value::Text(text.to_owned()),
            origin: Origin::CommandLine(option),
        };
        self.accept(path, path, &node);
    }

    fn override_by_variable(&mut self, name: &str, text: String) {
        let origin = Origin::Environment(name.to_owned());
        let Some(key) = keys::all()
            .iter()
            .find(|key| key.environment_name().as_deref() == Some(name))
        else {
            let known: Vec<String> = keys::all()
                .iter()
                .filter_map(Key::environment_name)
                .collect();
            let near = keys::nearest_of(name, known.iter().map(String::as_str));
            // A variable of somebody else's tooling may share our prefix; one that looks like a key may not be lost.
            let is_in_section = keys::all()
                .iter()
                .filter_map(|key| key.path.split_once('.'))
                .any(|(section, _)| {
                    name.starts_with(&format!("{}_", keys::environment_name(section)))
                });
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None if is_in_section => "unset it".to_owned(),
                None => return,
            };
            let message = format!("no key has this environment variable; {hint}");
            self.problems.push(Problem::new("", &origin, message));
            return;
        };
        let value = match key.kind {
            Kind::Structure => match super::json::parse(&text) {
                Ok(node) => with_origin(node, &origin).value,
                Err(problem) => {
                    let message = format!("{}; write the list as JSON", problem.message);
                    self.problems
                        .push(Problem::new(&key.path, &origin, message));
                    return;
                }
            },
            Kind::Texts if text.trim_start().starts_with('[') => match super::json::parse(&text) {
                Ok(node) => with_origin(node, &origin).value,
                Err(problem) => {
                    self.problems
                        .push(Problem::new(&key.path, &origin, problem.message));
                    return;
                }
            },
            Kind::Texts
            | Kind::Flag
            | Kind::Count { .. }
            | Kind::Text
            | Kind::Secret
            | Kind::Duration
            | Kind::Size { .. } => Value::Text(text),
        };
        let path = key.path.as_str();
        self.accept(path, path, &Node { value, origin });
    }

    fn walk(&mut self, entries: &[Entry], prefix: &str) {
        for entry in entries {
            let path = format!("{prefix}{}", entry.key);
            if keys::find(&path).is_some() {
                self.accept(&path, &path, &entry.node);
                continue;
            }
            match &entry.node.value {
                Value::Table(inner) if keys::is_section(&path) => {
                    self.walk(inner, &format!("{path}."))
                }
                Value::Null if keys::is_section(&path) => {}
                _ => self.unknown(&path, &path, entry),
            }
        }
    }

    /// One line above the others when a file is of the format that had no sections: its keys are not slips.
    fn tell_of_flat_keys(&mut self, entries: &[Entry]) {
        let mut flat = entries.iter().filter(|entry| {
            !matches!(entry.node.value, Value::Table(_) | Value::Null)
                && keys::is_of_before_v6(&entry.key)
        });
        let (Some(first), n_others) = (flat.next(), flat.count()) else {
            return;
        };
        if n_others > 0 {
            let message = format!(
                "this looks like a file of Centrifugo before v6, whose keys had no sections ({} of them are here); move \
                 each as its line says",
                n_others + 1
            );
            // Problems at one place keep their order.
            self.problems
                .insert(0, Problem::new("", &first.origin, message));
        }
    }

    fn unknown(&mut self, shown: &str, pattern: &str, entry: &Entry) {
        let value = &entry.node.value;
        let message = if let Some(key) = keys::absence(pattern) {
            absent(key.status)
        } else if keys::is_section(pattern) {
            let kind = format!("{pattern}.type");
            match value {
                Value::Text(text) if keys::find(&kind).is_some() => {
                    format!("this is a section; set `{kind}` to {text:?}")
                }
                _ => format!(
                    "this is a section; give it a table of keys, not {}",
                    value.kind_name()
                ),
            }
        } else {
            let proxies = keys::find("proxies").filter(|_| keys::is_proxy(pattern));
            match (keys::nearest(pattern), proxies) {
                (Some(near), _) if keys::find(near).is_some_and(Key::is_supported) => {
                    format!("unknown key; did you mean `{near}`?")
                }
                (_, Some(proxies)) => absent(proxies.status),
                (Some(near), None) => format!(
                    "unknown key; remove it (`{near}`, the closest, is not part of this release)"
                ),
                (None, None) => {
                    "unknown key; remove it, or see docs/configuration.md for the keys there are"
                        .to_owned()
                }
            }
        };
        self.problems
            .push(Problem::new(shown, &entry.origin, message));
    }

    /// Takes one key of the table.
    fn accept(&mut self, pattern: &str, shown: &str, node: &Node) {
        let key = keys::find(pattern).expect("callers looked the key up");
        if let Some(refusal) = refusal(key, &node.value) {
            self.problems
                .push(Problem::new(shown, &node.origin, refusal));
            return;
        }
        if !key.is_supported() {
            return;
        }
        if pattern == NAMESPACES {
            self.read_namespaces(node);
            return;
        }
        self.store(key, shown, node);
    }

    fn store(&mut self, key: &Key, shown: &str, node: &Node) {
        if node.value == Value::Null {
            return;
        }
        let scope = match key.path.strip_prefix(NAMESPACE_PATTERN) {
            Some(_) => self
                .namespaces
                .last_mut()
                .expect("a namespace is being read"),
            None => &mut self.root,
        };
        match coerce(key.kind, &node.value) {
            Ok(setting) => {
                scope
                    .values
                    .insert(key.path.clone(), (setting, node.origin.clone()));
            }
            Err(message) => {
                scope.unreadable.insert(key.path.clone());
                self.problems
                    .push(Problem::new(shown, &node.origin, message));
            }
        }
    }

    fn read_namespaces(&mut self, node: &Node) {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Null => &[],
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Table(_) => {
                let message = format!(
                    "write a list of tables, each with a `name`; this is {}",
                    node.value.kind_name()
                );
                self.problems
                    .push(Problem::new(NAMESPACES, &node.origin, message));
                return;
            }
        };
        // The environment replaces the file's list as a whole.
        self.namespaces.clear();
        self.problems
            .retain(|problem| !problem.path.starts_with("channel.namespaces["));
        for (index, item) in items.iter().enumerate() {
            let shown = format!("{NAMESPACES}[{index}]");
            let Value::Table(entries) = &item.value else {
                let message = format!(
                    "a namespace is a table with a `name`; this is {}",
                    item.value.kind_name()
                );
                self.problems
                    .push(Problem::new(shown, &item.origin, message));
                continue;
            };
            self.namespaces.push(Scope {
                values: BTreeMap::new(),
                unreadable: BTreeSet::new(),
                pattern: NAMESPACE_PATTERN,
                shown: format!("{shown}."),
                origin: Some(item.origin.clone()),
            });
            self.walk_namespace(entries, NAMESPACE_PATTERN, &format!("{shown}."));
        }
    }

    fn walk_namespace(&mut self, entries: &[Entry], pattern_prefix: &str, shown_prefix: &str) {
        for entry in entries {
            let pattern = format!("{pattern_prefix}{}", entry.key);
            let shown = format!("{shown_prefix}{}", entry.key);
            match (&entry.node.value, keys::find(&pattern)) {
                (_, Some(_)) => self.accept(&pattern, &shown, &entry.node),
                (Value::Table(inner), None) if keys::is_section(&pattern) => {
                    self.walk_namespace(inner, &format!("{pattern}."), &format!("{shown}."));
                }
                (_, None) => self.unknown(&shown, &pattern, entry),
            }
        }
    }
}

impl Scope {
    /// The setting of a key, or its default.
    fn get(&self, name: &str) -> (Setting, Origin) {
        let path = format!("{}{name}", self.pattern);
        if let Some((setting, origin)) = self.values.get(&path) {
            return (setting.clone(), origin.clone());
        }
        let key = keys::find(&path).unwrap_or_else(|| panic!("{path} is in the table of keys"));
        (default_setting(key), Origin::Default)
    }

    /// Where the key was set.
    pub fn origin(&self, name: &str) -> Origin {
        match self.get(name).1 {
            Origin::Default => self.origin.clone().unwrap_or(Origin::Default),
            origin => origin,
        }
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(&format!("{}{name}", self.pattern))
    }

    /// Whether something was written that cannot be read; the default stands in for it.
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.unreadable.contains(&format!("{}{name}", self.pattern))
    }

    /// Path of a key in this scope as people see it.
    pub fn shown(&self, name: &str) -> String {
        format!("{}{name}", self.shown)
    }

    pub fn problem(&self, name: &str, message: impl Into<String>) -> Problem {
        Problem::new(self.shown(name), &self.origin(name), message)
    }

    /// Settings of this scope, by name, with origins.
    pub fn effective(&self, name: &str) -> (Setting, Origin) {
        self.get(name)
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name).0, Setting::Flag(true))
    }

    /// A count; the table's bounds hold, and all of them start at 0 or more.
    pub fn count(&self, name: &str) -> u64 {
        match self.get(name).0 {
            Setting::Count(value) => u64::try_from(value).unwrap_or(0),
            Setting::Flag(_)
            | Setting::Text(_)
            | Setting::Secret(_)
            | Setting::Duration(_)
            | Setting::Size(_)
            | Setting::Texts(_) => 0,
        }
    }

    pub fn text(&self, name: &str) -> String {
        match self.get(name).0 {
            Setting::Text(value) => value,
            Setting::Flag(_)
            | Setting::Count(_)
            | Setting::Secret(_)
            | Setting::Duration(_)
            | Setting::Size(_)
            | Setting::Texts(_) => String::new(),
        }
    }

    /// `None` for the empty text.
    pub fn filled_text(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// `None` for the empty secret.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        match self.get(name).0 {
            Setting::Secret(value) => Some(value).filter(|secret| !secret.is_empty()),
            Setting::Flag(_)
            | Setting::Count(_)
            | Setting::Text(_)
            | Setting::Duration(_)
            | Setting::Size(_)
            | Setting::Texts(_) => None,
        }
    }

    pub fn duration(&self, name: &str) -> Duration {
        match self.get(name).0 {
            Setting::Duration(value) => value,
            Setting::Flag(_)
            | Setting::Count(_)
            | Setting::Text(_)
            | Setting::Secret(_)
            | Setting::Size(_)
            | Setting::Texts(_) => Duration::ZERO,
        }
    }

    pub fn size(&self, name: &str) -> usize {
        match self.get(name).0 {
            Setting::Size(value) => usize::try_from(value).unwrap_or(usize::MAX),
            Setting::Flag(_)
            | Setting::Count(_)
            | Setting::Text(_)
            | Setting::Secret(_)
            | Setting::Duration(_)
            | Setting::Texts(_) => 0,
        }
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name).0 {
            Setting::Texts(values) => values,
            Setting::Flag(_)
            | Setting::Count(_)
            | Setting::Text(_)
            | Setting::Secret(_)
            | Setting::Duration(_)
            | Setting::Size(_) => Vec::new(),
        }
    }
}

fn default_setting(key: &Key) -> Setting {
    let node =
        super::json::parse(&key.default.to_string()).expect("defaults of the table are JSON");
    match (&node.value, key.kind) {
        (Value::Null, Kind::Texts) => Setting::Texts(Vec::new()),
        (value, kind) => coerce(kind, value).expect("defaults of the table are of their kind"),
    }
}

/// Why a key that we do not have cannot be accepted with this value.
fn refusal(key: &Key, value: &Value) -> Option<String> {
    if key.is_supported() || *value == Value::Null || key.is_default(&value.to_json()) {
        return None;
    }
    let default = &key.default;
    match key.status {
        Status::Supported => None,
        Status::Later(thing) => Some(format!(
            "{thing} not part of this release; remove the key, or set it to its default, {default}"
        )),
        Status::Never(_) => Some(absent(key.status)),
    }
}

/// Why something is not there, and what to do.
fn absent(status: Status) -> String {
    match status {
        Status::Later(thing) => format!("{thing} not part of this release; remove it"),
        Status::Never(reason) => reason.trim_end_matches('.').to_owned(),
        Status::Supported => "there is none of it; remove it".to_owned(),
    }
}

/// Gives a value its kind. Text is read as what the key wants, because environments and templates write text.
fn coerce(kind: Kind, value: &Value) -> Result<Setting, String> {
    let wrong = |wanted: &str| {
        let found = match value {
            Value::Text(text) if kind != Kind::Secret => {
                format!("the text `{}`", text.chars().take(60).collect::<String>())
            }
            _ => value.kind_name().to_owned(),
        };
        format!("write {wanted}; this is {found}")
    };
    match kind {
        Kind::Flag => match value {
            Value::Bool(value) => Ok(Setting::Flag(*value)),
            Value::Text(text) if text == "true" || text == "1" => Ok(Setting::Flag(true)),
            Value::Text(text) if text == "false" || text == "0" => Ok(Setting::Flag(false)),
            _ => Err(wrong("true or false")),
        },
        Kind::Count { min, max } => {
            let number = match value {
                Value::Integer(number) => *number,
                Value::Text(text) => text.trim().parse().map_err(|_| wrong("a whole number"))?,
                _ => return Err(wrong("a whole number")),
            };
            match number {
                number if number < min => Err(format!("{number} is too small; use at least {min}")),
                number if number > max => Err(format!("{number} is too large; use at most {max}")),
                number => Ok(Setting::Count(number)),
            }
        }
        Kind::Text => match value {
            Value::Text(text) => Ok(Setting::Text(text.clone())),
            Value::Integer(number) => Ok(Setting::Text(number.to_string())),
            _ => Err(wrong("text")),
        },
        Kind::Secret => match value {
            Value::Text(text) => Ok(Setting::Secret(Secret::new(text.clone()))),
            _ => Err(wrong("text, in quotes")),
        },
        Kind::Duration => match value {
            Value::Text(text) => units::parse_duration(text).map(Setting::Duration),
            Value::Integer(0) => Ok(Setting::Duration(Duration::ZERO)),
            Value::Integer(number) => Err(format!(
                "a duration has a unit; write \"{number}s\" if you mean seconds"
            )),
            _ => Err(wrong("a duration with a unit, as in \"25s\"")),
        },
        Kind::Size { min, max } => {
            let size = match value {
                Value::Integer(number) => {
                    u64::try_from(*number).map_err(|_| wrong("a size of 0 or more"))?
                }
                Value::Text(text) => units::parse_size(text)?,
                _ => return Err(wrong("a size, as in 65536 or \"64KiB\"")),
            };
            match size {
                size if size < min => Err(format!(
                    "{size} bytes are too few; use at least {}",
                    units::format_size(min)
                )),
                size if size > max => Err(format!(
                    "{size} bytes are too many; use at most {}",
                    units::format_size(max)
                )),
                size => Ok(Setting::Size(size)),
            }
        }
        Kind::Texts => match value {
            Value::List(nodes) => nodes
                .iter()
                .map(|node| match &node.value {
                    Value::Text(text) => Ok(text.clone()),
                    other => Err(format!(
                        "every element is text; one is {}",
                        other.kind_name()
                    )),
                })
                .collect::<Result<_, _>>()
                .map(Setting::Texts),
            Value::Text(text) => Ok(Setting::Texts(
                text.split([',', ' '])
                    .filter(|part| !part.is_empty())
                    .map(str::to_owned)
                    .collect(),
            )),
            _ => Err(wrong("a list of texts")),
        },
        Kind::Structure => Err(wrong("a list")),
    }
}

/// Everything inside a value of the environment comes from that variable.
fn with_origin(node: Node, origin: &Origin) -> Node {
    let value = match node.value {
        Value::List(nodes) => Value::List(
            nodes
                .into_iter()
                .map(|node| with_origin(node, origin))
                .collect(),
        ),
        Value::Table(entries) => Value::Table(
            entries
                .into_iter()
                .map(|entry| Entry {
                    key: entry.key,
                    origin: origin.clone(),
                    node: with_origin(entry.node, origin),
                })
                .collect(),
        ),
        value => value,
    };
    Node {
        value,
        origin: origin.clone(),
    }
}
