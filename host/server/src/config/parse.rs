//! Bytes of a file to the spanned tree: TOML, YAML or JSON by extension, sniffed without one.
//!
//! Owns syntax only. Invariant: a duplicate key is an error in every format, so that no value is silently lost.

use std::{ops::Range, path::Path};

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    json,
    tree::{Entry, Node, Origin, Problem, Value},
};

/// A syntax of configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Toml,
    Yaml,
    Json,
}

impl Format {
    /// Decides by extension, then by what the text looks like.
    pub fn of(path: &Path, text: &str) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::Toml,
            Some("yaml" | "yml") => Self::Yaml,
            Some("json") => Self::Json,
            _ => Self::sniff(text),
        }
    }

    fn sniff(text: &str) -> Self {
        if text.trim_start().starts_with('{') {
            return Self::Json;
        }
        let is_toml = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .is_some_and(|line| {
                let equals = line.find('=').unwrap_or(usize::MAX);
                line.starts_with('[') || equals < line.find(':').unwrap_or(usize::MAX)
            });
        if is_toml { Self::Toml } else { Self::Yaml }
    }
}

/// Parses a file's text; the result is always a table.
///
/// # Errors
/// One problem with its place; syntax errors do not let us find a second.
pub fn parse(text: &str, format: Format) -> Result<Node, Problem> {
    // Editors on Windows put a mark in front that no parser wants.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let node = match format {
        Format::Toml => parse_toml(text)?,
        Format::Yaml => parse_yaml(text)?,
        Format::Json => json::parse(text)?,
    };
    match node.value {
        Value::Table(_) => Ok(node),
        // An empty YAML file is an empty document.
        Value::Null => Ok(Node {
            value: Value::Table(Vec::new()),
            origin: node.origin,
        }),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
            let message = format!(
                "the file holds {}, not a table of keys; see `tidegate config default`",
                node.value.kind_name()
            );
            Err(Problem::new("", &node.origin, message))
        }
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
pub(super) fn place(text: &str, offset: usize) -> Origin {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Origin::File {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before[start..].chars().count() + 1,
    }
}

fn parse_toml(text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Problem::new(
            "",
            &place(text, offset),
            format!("not valid TOML: {}", error.message().trim()),
        )
    })?;
    let span = table.span();
    toml_table(text, table.get_ref(), &span)
}

fn toml_table(text: &str, table: &DeTable<'_>, span: &Range<usize>) -> Result<Node, Problem> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        entries.push((
            key.span().start,
            Entry {
                key: key.get_ref().to_string(),
                origin: place(text, key.span().start),
                node: toml_value(text, value)?,
            },
        ));
    }
    // The parser's table is sorted by key; problems read better in the file's order.
    entries.sort_by_key(|(offset, _)| *offset);
    Ok(Node {
        value: Value::Table(entries.into_iter().map(|(_, entry)| entry).collect()),
        origin: place(text, span.start),
    })
}

fn toml_value(text: &str, value: &Spanned<DeValue<'_>>) -> Result<Node, Problem> {
    let span = value.span();
    let origin = place(text, span.start);
    let problem = |message: &str| Problem::new("", &origin, message);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(Value::Integer)
            .map_err(|_| problem("the number does not fit into 64 bits"))?,
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| problem("not a number"))?,
        DeValue::Datetime(_) => {
            return Err(problem("no key takes a date; put the text in quotes"));
        }
        DeValue::Array(values) => Value::List(
            values
                .iter()
                .map(|value| toml_value(text, value))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => return toml_table(text, table, &span),
    };
    Ok(Node { value, origin })
}

fn parse_yaml(text: &str) -> Result<Node, Problem> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| {
        let origin = yaml_place(error.marker());
        Problem::new("", &origin, format!("not valid YAML: {}", error.info()))
    })?;
    match documents.as_slice() {
        [] => Ok(Node {
            value: Value::Null,
            origin: Origin::File { line: 1, column: 1 },
        }),
        [document] => yaml_node(document, 0),
        [_, second, ..] => {
            let message = "the file holds several YAML documents; keep one";
            Err(Problem::new("", &yaml_place(&second.span.start), message))
        }
    }
}

fn yaml_place(marker: &saphyr::Marker) -> Origin {
    Origin::File {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

fn yaml_node(node: &MarkedYaml<'_>, depth: usize) -> Result<Node, Problem> {
    let origin = yaml_place(&node.span.start);
    let problem = |message: &str| Problem::new("", &origin, message);
    if depth > json::MAX_DEPTH {
        return Err(problem("nested too deeply"));
    }
    let value = match &node.data {
        YamlData::Value(Scalar::Null) => Value::Null,
        YamlData::Value(Scalar::Boolean(value)) => Value::Bool(*value),
        YamlData::Value(Scalar::Integer(value)) => Value::Integer(*value),
        YamlData::Value(Scalar::FloatingPoint(value)) => Value::Float(value.into_inner()),
        YamlData::Value(Scalar::String(value)) => Value::Text(value.to_string()),
        YamlData::Representation(text, ..) => Value::Text(text.to_string()),
        YamlData::Sequence(nodes) => Value::List(
            nodes
                .iter()
                .map(|node| yaml_node(node, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        YamlData::Mapping(mapping) => {
            let mut entries = Vec::with_capacity(mapping.len());
            for (key, value) in mapping {
                let key_origin = yaml_place(&key.span.start);
                let YamlData::Value(Scalar::String(name)) = &key.data else {
                    return Err(Problem::new(
                        "",
                        &key_origin,
                        "keys are text; put this one in quotes",
                    ));
                };
                entries.push(Entry {
                    key: name.to_string(),
                    origin: key_origin,
                    node: yaml_node(value, depth + 1)?,
                });
            }
            Value::Table(entries)
        }
        YamlData::Tagged(_, inner) => return yaml_node(inner, depth + 1),
        YamlData::Alias(_) | YamlData::BadValue => {
            return Err(problem(
                "not a value; an alias has to name an anchor before it",
            ));
        }
    };
    Ok(Node { value, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(node: &'a Node, path: &str) -> &'a Node {
        path.split('.').fold(node, |node, key| {
            let Value::Table(entries) = &node.value else {
                panic!("{key} is asked of {:?}", node.value)
            };
            &entries.iter().find(|entry| entry.key == key).unwrap().node
        })
    }

    #[test]
    fn three_formats_give_one_tree_with_places() {
        let toml = "# comment\n[client]\nallowed_origins = [\"a\", \"b\"]\n[client.token]\nhmac_secret_key = \"s\"\n";
        let yaml =
            "# comment\nclient:\n  allowed_origins: [a, b]\n  token:\n    hmac_secret_key: s\n";
        let json = "{\n\t\"client\": {\n\t\t\"allowed_origins\": [\"a\", \"b\"],\n\t\t\"token\": {\"hmac_secret_key\": \"s\"}\n\t}\n}\n";
        let at = |line, column| Origin::File { line, column };
        for (text, format, expected) in [
            (toml, Format::Toml, at(5, 19)),
            (yaml, Format::Yaml, at(5, 22)),
            (json, Format::Json, at(4, 32)),
        ] {
            let node = parse(text, format).unwrap();
            let secret = find(&node, "client.token.hmac_secret_key");
            assert_eq!(secret.value, Value::Text("s".into()));
            assert_eq!(secret.origin, expected, "{format:?}");
            let origins = &find(&node, "client.allowed_origins").value;
            assert_eq!(origins.to_json(), serde_json::json!(["a", "b"]));
        }
    }

    #[test]
    fn syntax_errors_have_a_place() {
        for (text, format, line) in [
            ("a = 1\nb = = 2\n", Format::Toml, 2),
            ("a: 1\nb: [1, 2\n", Format::Yaml, 3),
            ("{\n\"a\": 1,\n}", Format::Json, 3),
            ("a = 1\na = 2\n", Format::Toml, 2),
            ("a: 1\na: 2\n", Format::Yaml, 2),
            ("{\"a\": 1,\n\"a\": 2}", Format::Json, 2),
        ] {
            let problem = parse(text, format).unwrap_err();
            let Origin::File { line: found, .. } = problem.origin else {
                panic!("{problem:?}")
            };
            assert_eq!(found, line, "{format:?} {}", problem.message);
        }
    }

    #[test]
    fn a_file_without_an_extension_is_recognised() {
        let of = |text| Format::of(Path::new("config"), text);
        assert_eq!(of("\n {\"a\": 1}"), Format::Json);
        assert_eq!(of("# x\n[client]\n"), Format::Toml);
        assert_eq!(of("port = 1\n"), Format::Toml);
        assert_eq!(of("client:\n  x: 1\n"), Format::Yaml);
        assert_eq!(of(""), Format::Yaml);
    }

    #[test]
    fn an_empty_file_is_an_empty_table_and_a_list_is_refused() {
        assert_eq!(parse("", Format::Yaml).unwrap().value, Value::Table(vec![]));
        assert_eq!(parse("", Format::Toml).unwrap().value, Value::Table(vec![]));
        assert!(
            parse("- a\n", Format::Yaml)
                .unwrap_err()
                .message
                .contains("a list")
        );
        assert!(parse("", Format::Json).is_err());
    }
}
