//! Which server a command talks to, and with which key.
//!
//! Options, then the environment, then the key files that a first start leaves in the data directory. Where a key came
//! from is remembered for the message in case it is refused.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Failure, Output,
    http::{Api, Base, Client, Credential},
};
use crate::config::{Environment, ProcessEnvironment, Secret};

const DEFAULT_URL: &str = "http://127.0.0.1:8000";
const DEFAULT_ADMIN_URL: &str = "http://127.0.0.1:8001";
const DEFAULT_DATA_DIR: &str = "tidegate-data";

/// Longest key file that is read; a key has well under a hundred bytes.
const MAX_KEY_FILE_BYTES: u64 = 4_096;

/// Options of commands that use the admin API, for the node as a whole.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct AdminAccess {
    /// Admin API [default: http://127.0.0.1:8001; env: TIDEGATE_ADMIN_URL]
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// File with the admin key, `-` for standard input [default: admin.key of the data directory; env: TIDEGATE_ADMIN_KEY]
    #[arg(long, value_name = "FILE", conflicts_with = "admin_key")]
    admin_key_file: Option<PathBuf>,
    /// Admin key; other users of the machine can read it here, so prefer --admin-key-file
    #[arg(long, value_name = "KEY")]
    admin_key: Option<String>,
    /// Data directory of a server on this machine, for its key [default: tidegate-data; env: TIDEGATE_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Options of commands that use the admin API, for one app.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct AdminServer {
    #[command(flatten)]
    access: AdminAccess,
    /// App to work in
    #[arg(long, value_name = "APP", default_value = "default")]
    pub(super) app: String,
}

/// Options of commands that use the server API.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ApiServer {
    /// Server [default: http://127.0.0.1:8000; env: TIDEGATE_URL]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// File with the API key, `-` for standard input [default: api.key of the data directory; env: TIDEGATE_API_KEY]
    #[arg(long, value_name = "FILE", conflicts_with = "api_key")]
    api_key_file: Option<PathBuf>,
    /// API key; other users of the machine can read it here, so prefer --api-key-file
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Data directory of a server on this machine, for its key [default: tidegate-data; env: TIDEGATE_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Path of the server API, `http_api.handler_prefix` of the server
    #[arg(long, value_name = "PATH", default_value = "/api")]
    pub(super) api_prefix: String,
}

impl AdminServer {
    pub(super) fn client(&self, output: Output) -> Result<Client, Failure> {
        self.access.client(output)
    }
}

impl AdminAccess {
    pub(super) fn client(&self, output: Output) -> Result<Client, Failure> {
        let environment = &ProcessEnvironment;
        let url = setting(
            self.admin_url.as_ref(),
            environment,
            "TIDEGATE_ADMIN_URL",
            DEFAULT_ADMIN_URL,
        );
        let key = key(Key {
            option: self.admin_key.as_ref(),
            option_file: self.admin_key_file.as_deref(),
            data_dir: self.data_dir.as_deref(),
            variable: "TIDEGATE_ADMIN_KEY",
            file: "admin.key",
            flag: "--admin-key",
            environment,
        })?;
        key.warn(output);
        let credential = Credential {
            api: Api::Admin,
            header: "authorization",
            value: format!("Bearer {}", key.secret.expose()),
            origin: key.origin.to_string(),
        };
        Client::new(Base::parse(&url, "--admin-url")?, credential)
    }
}

impl ApiServer {
    pub(super) fn client(&self, output: Output) -> Result<Client, Failure> {
        let environment = &ProcessEnvironment;
        let key = key(Key {
            option: self.api_key.as_ref(),
            option_file: self.api_key_file.as_deref(),
            data_dir: self.data_dir.as_deref(),
            variable: "TIDEGATE_API_KEY",
            file: "api.key",
            flag: "--api-key",
            environment,
        })?;
        key.warn(output);
        let url = url(self.url.as_ref());
        let credential = Credential {
            api: Api::Server,
            header: "x-api-key",
            value: key.secret.expose().to_owned(),
            origin: key.origin.to_string(),
        };
        Client::new(Base::parse(&url, "--url")?, credential)
    }
}

/// The client listener's address: option, environment, default.
pub(super) fn url(option: Option<&String>) -> String {
    setting(option, &ProcessEnvironment, "TIDEGATE_URL", DEFAULT_URL)
}

fn setting(
    option: Option<&String>,
    environment: &dyn Environment,
    variable: &str,
    default: &str,
) -> String {
    option
        .cloned()
        .or_else(|| environment.lookup(variable))
        .unwrap_or_else(|| default.to_owned())
}

#[derive(Clone, Copy)]
struct Key<'a> {
    option: Option<&'a String>,
    option_file: Option<&'a Path>,
    data_dir: Option<&'a Path>,
    variable: &'static str,
    file: &'static str,
    flag: &'static str,
    environment: &'a dyn Environment,
}

/// A key and where it was found.
#[derive(Debug)]
struct FoundKey {
    secret: Secret,
    origin: Origin,
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// Named by its flag.
    Option(&'static str),
    Variable(&'static str),
    File(PathBuf),
    Stdin,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Option(flag) => write!(f, "the option {flag}"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

impl FoundKey {
    fn warn(&self, output: Output) {
        if let Origin::Option(flag) = self.origin {
            output.note(&format!(
                "warning: other users of this machine can read the key of {flag}; give it with {flag}-file instead"
            ));
        }
    }
}

fn key(key: Key<'_>) -> Result<FoundKey, Failure> {
    let Key {
        option,
        option_file,
        data_dir,
        variable,
        file,
        flag,
        environment,
    } = key;
    let found = |text: &str, origin| {
        let text = text.trim();
        if text.is_empty() {
            return Err(Failure::usage(format!("{origin} holds no key"))
                .hint(format!("{flag}-file names a file with the key alone")));
        }
        Ok(FoundKey {
            secret: Secret::new(text),
            origin,
        })
    };
    if let Some(text) = option {
        return found(text, Origin::Option(flag));
    }
    if let Some(path) = option_file {
        let origin = if path == Path::new("-") {
            Origin::Stdin
        } else {
            Origin::File(path.to_owned())
        };
        let text = read(&origin)
            .map_err(|error| Failure::usage(format!("{flag}-file: {origin}: {error}")))?;
        return found(&text, origin);
    }
    if let Some(text) = environment.lookup(variable) {
        return found(&text, Origin::Variable(variable));
    }
    let data_dir = data_dir
        .map(Path::to_owned)
        .or_else(|| environment.lookup("TIDEGATE_DATA_DIR").map(PathBuf::from))
        .unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let origin = Origin::File(data_dir.join(file));
    match read(&origin) {
        Ok(text) => found(&text, origin),
        Err(error) => Err(Failure::usage(format!("there is no key: {origin}: {error}")).hint(format!(
            "name the server's data directory with --data-dir or TIDEGATE_DATA_DIR, or give the key with {variable} or {flag}-file"
        ))),
    }
}

/// The text of a key file or of standard input.
fn read(origin: &Origin) -> std::io::Result<String> {
    let mut text = String::new();
    match origin {
        Origin::File(path) => std::fs::File::open(path)?
            .take(MAX_KEY_FILE_BYTES)
            .read_to_string(&mut text)?,
        Origin::Stdin | Origin::Option(_) | Origin::Variable(_) => std::io::stdin()
            .take(MAX_KEY_FILE_BYTES)
            .read_to_string(&mut text)?,
    };
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn find(
        option: Option<&String>,
        option_file: Option<&Path>,
        data_dir: Option<&Path>,
        environment: &BTreeMap<String, String>,
    ) -> Result<FoundKey, Failure> {
        key(Key {
            option,
            option_file,
            data_dir,
            variable: "TIDEGATE_ADMIN_KEY",
            file: "admin.key",
            flag: "--admin-key",
            environment,
        })
    }

    #[track_caller]
    fn check(found: Result<FoundKey, Failure>, key: &str, origin: &str) {
        let found = found.unwrap();
        assert_eq!(found.secret.expose(), key);
        let said = found.origin.to_string();
        assert!(said.ends_with(origin), "{said}");
    }

    #[test]
    fn the_key_comes_from_option_environment_or_file_in_this_order() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = BTreeMap::new();
        let missing = find(None, None, Some(dir.path()), &nothing).unwrap_err();
        assert_eq!(missing.code, 2);
        assert!(missing.hint.contains("--data-dir"));
        std::fs::write(dir.path().join("admin.key"), "from-file\n").unwrap();
        let found = find(None, None, Some(dir.path()), &nothing);
        check(found, "from-file", "admin.key");
        let set: BTreeMap<_, _> = [(
            "TIDEGATE_DATA_DIR".to_owned(),
            dir.path().display().to_string(),
        )]
        .into();
        check(find(None, None, None, &set), "from-file", "admin.key");
        let set: BTreeMap<_, _> = [("TIDEGATE_ADMIN_KEY".to_owned(), "from-env".to_owned())].into();
        let found = find(None, None, Some(dir.path()), &set);
        check(found, "from-env", "TIDEGATE_ADMIN_KEY");
        let named = dir.path().join("named");
        std::fs::write(&named, " from-named-file\n").unwrap();
        let found = find(None, Some(&named), Some(dir.path()), &set);
        check(found, "from-named-file", "named");
        let option = "from-option".to_owned();
        let found = find(Some(&option), None, Some(dir.path()), &set);
        check(found, "from-option", "the option --admin-key");

        std::fs::write(&named, "\n").unwrap();
        let empty = find(None, Some(&named), None, &set).unwrap_err();
        assert!(empty.message.ends_with("holds no key"), "{empty:?}");
    }
}
