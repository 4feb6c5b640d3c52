//! The table of all configuration keys: ours and every one of the reference.
//!
//! A key is *supported*, belongs to a *later* release, or will *never* be. The table is the single source for
//! reading, for refusing by name, for `config check`, `config default` and for the tables of
//! `docs/configuration.md`. Meaning is given in the private module `build`.

use std::sync::LazyLock;

use serde_json::Value as Json;

use super::key_sections;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Full path; `[]` stands for any element of a list, as in `channel.namespaces[].name`.
    pub path: String,
    pub kind: Kind,
    /// Our default, in the form that a file has.
    pub default: Json,
    /// The reference's default where it is another one; a file that says it means "the default".
    pub reference_default: Option<Json>,
    pub status: Status,
    /// One line for people.
    pub doc: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Flag,
    Count {
        min: i64,
        max: i64,
    },
    Text,
    Secret,
    Duration,
    Size {
        min: u64,
        max: u64,
    },
    Texts,
    /// A list or table of its own shape.
    Structure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Supported,
    /// The thing that is missing, as in "server-sent events are".
    Later(&'static str),
    /// Why not, and what instead; a whole sentence.
    Never(&'static str),
}

impl Key {
    pub fn is_supported(&self) -> bool {
        self.status == Status::Supported
    }

    /// Name of the environment variable that overrides it; `None` inside lists.
    pub fn environment_name(&self) -> Option<String> {
        let is_inside_list = self.path.contains("[]");
        (!is_inside_list).then(|| environment_name(&self.path))
    }

    /// Whether `value` says the same as the default, ours or the reference's.
    pub fn is_default(&self, value: &Json) -> bool {
        self.same(value, &self.default)
            || self
                .reference_default
                .as_ref()
                .is_some_and(|default| self.same(value, default))
    }

    fn same(&self, left: &Json, right: &Json) -> bool {
        let duration =
            |json: &Json| super::units::parse_duration(json.as_str().unwrap_or("0")).ok();
        match self.kind {
            Kind::Duration if left.is_string() => duration(left) == duration(right),
            // null, [], {}, "" and 0 all say "nothing" in the reference's files.
            _ if is_nothing(left) && is_nothing(right) => true,
            _ => left == right || text_of(left) == text_of(right),
        }
    }
}

fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(_) => false,
        Json::Number(number) => number.as_i64() == Some(0),
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(fields) => fields.is_empty(),
    }
}

fn text_of(value: &Json) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// `TIDEGATE_` and the key path in capitals joined by `_`.
pub fn environment_name(path: &str) -> String {
    format!("TIDEGATE_{}", path.to_ascii_uppercase().replace('.', "_"))
}

/// Every key, in the order in which people should meet them.
pub fn all() -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(key_sections::build);
    &KEYS
}

/// The key with this pattern path.
pub fn find(path: &str) -> Option<&'static Key> {
    all().iter().find(|key| key.path == path)
}

/// Whether some key starts with `path.`.
pub fn is_section(path: &str) -> bool {
    all().iter().any(|key| {
        key.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// Whether a name without a section is one that files of Centrifugo before v6 had, when keys were flat: a section that
/// was one key, a proxy, or a key of ours without its section.
pub fn is_of_before_v6(name: &str) -> bool {
    let tail = format!("_{name}");
    !name.contains('.')
        && find(name).is_none()
        && (is_section(name)
            || is_proxy(name)
            || all().iter().any(|key| {
                let flat = key.path.replace('.', "_");
                flat == name || flat.ends_with(&tail)
            }))
}

/// Whether a flat name is one of the proxies to a back end: `proxy_connect_endpoint`, `granular_proxy_mode`.
pub fn is_proxy(name: &str) -> bool {
    name.split(['_', '.']).any(|word| word == "proxy")
}

/// A key of a section of which nothing is supported; its status says why.
pub fn absence(section: &str) -> Option<&'static Key> {
    let mut inside = all().iter().filter(|key| {
        key.path
            .strip_prefix(section)
            .is_some_and(|rest| rest.starts_with('.'))
    });
    let first = inside.next()?;
    let is_absent = !first.is_supported() && inside.all(|key| !key.is_supported());
    is_absent.then_some(first)
}

/// The key that somebody who wrote `path` most likely meant.
pub fn nearest(path: &str) -> Option<&'static str> {
    // Flat names of older files: `token_hmac_secret_key` is `client.token.hmac_secret_key`.
    let flat = path.replace('.', "_");
    let by_suffix = all().iter().filter(|key| {
        let candidate = key.path.replace('.', "_");
        key.is_supported() && (candidate == flat || candidate.ends_with(&format!("_{flat}")))
    });
    // What stood at the top was for all namespaces, and `port` was that of clients.
    let order = |key: &&Key| {
        (
            key.path.contains("[]"),
            !key.path.starts_with("http_server."),
            key.path.len(),
        )
    };
    if let Some(key) = by_suffix.min_by_key(order) {
        return Some(&key.path);
    }
    let limit = (path.len() / 5).clamp(1, 4);
    all()
        .iter()
        .map(|key| (distance(path, &key.path), key))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, key)| (*distance, !key.is_supported()))
        .map(|(_, key)| key.path.as_str())
}

/// The closest of `names`, if one is close.
pub(super) fn nearest_of<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.len() / 4).clamp(1, 4);
    names
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in bytes; both texts are short.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (slot, b) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *slot;
            previous = replaced.min(diagonal + 1).min(previous + 1);
            *slot = previous;
        }
    }
    // `row[0]` is never read again inside the loop, so the empty right side needs its own answer.
    if right.is_empty() {
        return left.len();
    }
    row.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn distance_is_levenshtein() {
        for (left, right, expected) in [
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("port", "prot", 2),
            ("a", "a", 0),
        ] {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
    }

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        assert_eq!(nearest("http_server.prot"), Some("http_server.port"));
        assert_eq!(
            nearest("client.allowed_origin"),
            Some("client.allowed_origins")
        );
        assert_eq!(
            nearest("token_hmac_secret_key"),
            Some("client.token.hmac_secret_key")
        );
        assert_eq!(nearest("allowed_origins"), Some("client.allowed_origins"));
        assert_eq!(
            nearest("allow_subscribe_for_client"),
            Some("channel.without_namespace.allow_subscribe_for_client")
        );
        assert_eq!(nearest("namespaces"), Some("channel.namespaces"));
        assert_eq!(nearest("port"), Some("http_server.port"));
        assert_eq!(nearest("api_key"), Some("http_api.key"));
        assert_eq!(nearest("something.else.entirely"), None);
    }

    #[test]
    fn paths_and_environment_names_are_unique() {
        let paths: BTreeSet<_> = all().iter().map(|key| &key.path).collect();
        assert_eq!(paths.len(), all().len());
        let names: Vec<_> = all().iter().filter_map(Key::environment_name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn every_supported_key_says_what_it_is() {
        for key in all().iter().filter(|key| key.is_supported()) {
            assert!(key.doc.ends_with('.'), "{}: {:?}", key.path, key.doc);
        }
    }

    /// `key TAB default` for every key of the reference, hook proxies and TLS groups written out.
    const REFERENCE: &str = include_str!("testdata/reference-keys.tsv");

    #[test]
    fn every_key_of_the_reference_is_known_with_its_default() {
        let ours: BTreeMap<_, _> = all().iter().map(|key| (key.path.as_str(), key)).collect();
        let mut n_keys = 0;
        for line in REFERENCE.lines().filter(|line| !line.starts_with('#')) {
            let (path, default) = line.split_once('\t').unwrap();
            let key = ours
                .get(path)
                .unwrap_or_else(|| panic!("{path} is missing"));
            let default: Json = serde_json::from_str(default).unwrap();
            assert!(
                key.is_default(&default),
                "{path}: {default} is not {}",
                key.default
            );
            n_keys += 1;
        }
        assert!(n_keys > 400, "{n_keys}");
    }
}
