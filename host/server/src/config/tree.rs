//! The spanned tree: what a configuration file says, and where.
//!
//! One shape for TOML, YAML and JSON, so that everything after parsing is written once. No meaning is given to
//! keys here.

use std::fmt;

/// Where a value came from; every problem and every line of `config check` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Line and column in the configuration file, both from 1.
    File { line: usize, column: usize },
    /// Name of the environment variable.
    Environment(String),
    /// Name of the command-line option.
    CommandLine(&'static str),
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key: value`; the origin is the key's own place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub origin: Origin,
    pub node: Node,
}

impl Value {
    /// How errors call it.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a number",
            Self::Float(_) => "a number with a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// Same content as JSON, places forgotten.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Integer(value) => Json::from(*value),
            Self::Float(value) => Json::from(*value),
            Self::Text(value) => Json::String(value.clone()),
            Self::List(nodes) => nodes.iter().map(|node| node.value.to_json()).collect(),
            Self::Table(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.value.to_json()))
                .collect(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { line, column } => write!(f, "{line}:{column}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine(name) => f.write_str(name),
        }
    }
}

/// Something that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path, as in `client.token.hmac_secret_key`; empty when the file as a whole is meant.
    pub path: String,
    pub origin: Origin,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub fn new(path: impl Into<String>, origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            origin: origin.clone(),
            message: message.into(),
        }
    }
}
