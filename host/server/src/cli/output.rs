//! What commands print, and how they fail.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};
use tidegate_control::Timestamp;

use super::exit;

/// Where results go: text for people, JSON for programs.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    is_json: bool,
}

/// Why a command did not do what it was asked, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    /// The next step; empty when the message says it.
    pub hint: String,
    pub code: u8,
    /// What the server or the checks said, for `--json`.
    pub details: Value,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: String::new(),
            code: exit::FAILED,
            details: Value::Null,
        }
    }

    /// The arguments are wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: exit::USAGE,
            ..Self::new(message)
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        use crate::config::ConfigError;
        let details = match &error {
            ConfigError::Problems(problems) => problems.to_json(),
            ConfigError::Unreadable { .. } => Value::Null,
        };
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        let failure =
            Self::usage(format!("{error}{}", source.unwrap_or_default())).details(details);
        match error {
            ConfigError::Problems(_) => failure.hint("docs/configuration.md lists all keys; `tidegate config default` prints a file to start from"),
            ConfigError::Unreadable { .. } => failure,
        }
    }
}

impl Output {
    pub fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    pub fn is_json(self) -> bool {
        self.is_json
    }

    /// Prints a result: the value, or the text made from it.
    pub fn result(self, value: &Value, text: impl FnOnce() -> String) {
        if self.is_json {
            self.line(&value.to_string());
        } else {
            self.line(&text());
        }
    }

    /// One line on standard output. A reader that went away (`| head`) is no error of ours.
    pub fn line(self, text: &str) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{}", text.trim_end_matches('\n'));
        let _ = stdout.flush();
    }

    /// As [`Self::line`], for who goes on for as long as somebody reads.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn try_line(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
        stdout.flush()
    }

    /// Tells a person what is going on; silent with `--json`.
    pub fn note(self, text: &str) {
        if !self.is_json {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// Prints the failure and gives its exit code.
    pub fn fail(self, failure: &Failure) -> ExitCode {
        let mut stderr = io::stderr().lock();
        if self.is_json {
            let error = json!({"error": {"message": failure.message, "hint": failure.hint, "details": failure.details}});
            let _ = writeln!(stderr, "{error}");
        } else {
            let _ = writeln!(stderr, "error: {}", failure.message);
            if !failure.hint.is_empty() {
                let _ = writeln!(stderr, "\n  {}", failure.hint);
            }
        }
        ExitCode::from(failure.code)
    }
}

/// Rows in aligned columns under a heading; what is shown of an empty list is the caller's.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    std::iter::once(line(heading.to_vec()))
        .chain(
            rows.iter()
                .map(|row| line(row.iter().map(String::as_str).collect())),
        )
        .collect::<Vec<_>>()
        .join("\n")
}

/// Fields one per line, nested ones indented.
pub(super) fn describe_fields(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            let line = |(name, value): (&String, &Value)| match value {
                Value::Object(_) | Value::Array(_) => {
                    format!("{pad}{name}\n{}", describe_fields(value, indent + 2))
                }
                _ => format!("{pad}{name:width$}  {}", describe_fields(value, 0)),
            };
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(line)
                .collect::<Vec<_>>()
                .join("\n")
        }
        Value::Array(items) => items
            .iter()
            .map(|item| describe_fields(item, indent))
            .collect::<Vec<_>>()
            .join(if items.iter().any(Value::is_object) {
                "\n\n"
            } else {
                "\n"
            }),
        Value::String(text) => format!("{pad}{text}"),
        other => format!("{pad}{other}"),
    }
}

/// The text of a member; empty where it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The same as a cell of a [`table`].
pub(super) fn string(value: &Value) -> String {
    text(value).to_owned()
}

/// A moment that is told in milliseconds since 1970, as people read it and in whole seconds.
pub(super) fn moment(unix_ms: &Value) -> String {
    let Some(unix_ms) = unix_ms.as_i64() else {
        return String::new();
    };
    let text = Timestamp::from_millis(unix_ms).to_string();
    text.split_once('.')
        .map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// A value that somebody else chose, so that it cannot be taken for anything else on the line.
pub(super) fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_lines_and_nested_ones_are_indented() {
        let story = json!({"plugin": "shout", "version": 2, "log": ["one", "two"], "none": null});
        assert_eq!(
            describe_fields(&story, 0),
            "log\n  one\n  two\nplugin   shout\nversion  2"
        );
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long-name".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "V"], &rows),
            "NAME       V\na          1\nlong-name  22"
        );
    }
}
