//! What is wrong with a configuration, for people and as JSON.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::tree::{Origin, Problem};

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}; check the path and its permissions")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Problems(Problems),
}

/// All problems of a configuration, in the order of the file.
#[derive(Debug, Clone)]
pub struct Problems {
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: Option<&Path>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::File { line, column } => (0, line, column),
            Origin::Environment(_) => (1, 0, 0),
            Origin::CommandLine(_) => (2, 0, 0),
            Origin::Default => (3, 0, 0),
        });
        Self {
            file: file.map(Path::to_owned),
            problems,
        }
    }

    pub fn as_slice(&self) -> &[Problem] {
        &self.problems
    }

    /// One object per problem: `key`, `place`, `message`.
    pub fn to_json(&self) -> serde_json::Value {
        self.problems
            .iter()
            .map(|problem| {
                json!({
                    "key": problem.path,
                    "place": self.place(problem),
                    "message": problem.message,
                })
            })
            .collect()
    }

    fn place(&self, problem: &Problem) -> String {
        match (&problem.origin, &self.file) {
            (Origin::File { line, column }, Some(file)) => {
                format!("{}:{line}:{column}", file.display())
            }
            (Origin::Default, Some(file)) => format!("{}: not set", file.display()),
            (Origin::Default, None) => "not set".into(),
            (origin, _) => origin.to_string(),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(f, "the configuration has {count} {noun}:")?;
        for problem in &self.problems {
            write!(f, "\n  {}: ", self.place(problem))?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}
