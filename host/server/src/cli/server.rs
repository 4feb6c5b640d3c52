//! Which server a command talks to, and with which key.
//!
//! Options, then the environment, then the key files that a first start leaves in the data directory.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Failure,
    http::{Base, Client},
};
use crate::config::{Environment, ProcessEnvironment, Secret};

const DEFAULT_URL: &str = "http://127.0.0.1:8000";
const DEFAULT_ADMIN_URL: &str = "http://127.0.0.1:8001";
const DEFAULT_DATA_DIR: &str = "tidegate-data";

/// Options of commands that use the admin API, for the node as a whole.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct AdminAccess {
    /// Admin API [default: http://127.0.0.1:8001; env: TIDEGATE_ADMIN_URL]
    #[arg(long, value_name = "URL")]
    admin_url: Option<String>,
    /// Admin key [default: the file admin.key of the data directory; env: TIDEGATE_ADMIN_KEY]
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
    /// API key [default: the file api.key of the data directory; env: TIDEGATE_API_KEY]
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
    pub(super) fn client(&self) -> Result<Client, Failure> {
        self.access.client()
    }
}

impl AdminAccess {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let environment = &ProcessEnvironment;
        let url = setting(
            self.admin_url.as_ref(),
            environment,
            "TIDEGATE_ADMIN_URL",
            DEFAULT_ADMIN_URL,
        );
        let key = key(Key {
            option: self.admin_key.as_ref(),
            data_dir: self.data_dir.as_deref(),
            variable: "TIDEGATE_ADMIN_KEY",
            file: "admin.key",
            flag: "--admin-key",
            environment,
        })?;
        let header = format!("Bearer {}", key.expose());
        Client::new(Base::parse(&url, "--admin-url")?, ("authorization", header))
    }
}

impl ApiServer {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let environment = &ProcessEnvironment;
        let key = key(Key {
            option: self.api_key.as_ref(),
            data_dir: self.data_dir.as_deref(),
            variable: "TIDEGATE_API_KEY",
            file: "api.key",
            flag: "--api-key",
            environment,
        })?;
        let url = url(self.url.as_ref());
        Client::new(
            Base::parse(&url, "--url")?,
            ("x-api-key", key.expose().to_owned()),
        )
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
    data_dir: Option<&'a Path>,
    variable: &'a str,
    file: &'a str,
    flag: &'a str,
    environment: &'a dyn Environment,
}

fn key(key: Key<'_>) -> Result<Secret, Failure> {
    let Key {
        option,
        data_dir,
        variable,
        file,
        flag,
        environment,
    } = key;
    if let Some(text) = option.cloned().or_else(|| environment.lookup(variable)) {
        return Ok(Secret::new(text));
    }
    let data_dir = data_dir
        .map(Path::to_owned)
        .or_else(|| environment.lookup("TIDEGATE_DATA_DIR").map(PathBuf::from))
        .unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let path = data_dir.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(error) => Err(Failure::usage(format!("there is no key: {}: {error}", path.display())).hint(format!(
            "name the server's data directory with --data-dir or TIDEGATE_DATA_DIR, or give the key with {variable} or {flag}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn find(
        option: Option<&String>,
        data_dir: Option<&Path>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Secret, Failure> {
        key(Key {
            option,
            data_dir,
            variable: "TIDEGATE_ADMIN_KEY",
            file: "admin.key",
            flag: "--admin-key",
            environment,
        })
    }

    #[test]
    fn the_key_comes_from_option_environment_or_file_in_this_order() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = BTreeMap::new();
        let missing = find(None, Some(dir.path()), &nothing).unwrap_err();
        assert_eq!(missing.code, 2);
        assert!(missing.hint.contains("--data-dir"));
        std::fs::write(dir.path().join("admin.key"), "from-file\n").unwrap();
        assert_eq!(
            find(None, Some(dir.path()), &nothing).unwrap().expose(),
            "from-file"
        );
        let set: BTreeMap<_, _> = [(
            "TIDEGATE_DATA_DIR".to_owned(),
            dir.path().display().to_string(),
        )]
        .into();
        assert_eq!(find(None, None, &set).unwrap().expose(), "from-file");
        let set: BTreeMap<_, _> = [("TIDEGATE_ADMIN_KEY".to_owned(), "from-env".to_owned())].into();
        assert_eq!(
            find(None, Some(dir.path()), &set).unwrap().expose(),
            "from-env"
        );
        let option = "from-option".to_owned();
        assert_eq!(
            find(Some(&option), Some(dir.path()), &set)
                .unwrap()
                .expose(),
            "from-option"
        );
    }
}
