//! The command line, run as its user would run it.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{Node, node::binary};

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The last line of standard output as JSON.
    ///
    /// # Panics
    /// When the command failed or printed no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{} {}", self.stdout, self.stderr);
        serde_json::from_str(self.stdout.trim())
            .unwrap_or_else(|err| panic!("not JSON ({err}): {}", self.stdout))
    }
}

/// Runs `tidegate ARGS` in `dir` against nothing in particular.
///
/// # Panics
/// When the binary cannot be executed.
pub async fn run_in(dir: &Path, args: &[&str]) -> Ended {
    run_with(dir, &[], args).await
}

/// Runs `tidegate ARGS` in `dir` with these environment variables.
///
/// # Panics
/// When the binary cannot be executed.
pub async fn run_with(dir: &Path, variables: &[(&str, &str)], args: &[&str]) -> Ended {
    let output = Command::new(binary())
        .args(args)
        .current_dir(dir)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the binary can be executed");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Node {
    /// Runs `tidegate ARGS` against this node.
    ///
    /// # Panics
    /// When the binary cannot be executed.
    pub async fn cli(&self, args: &[&str]) -> Ended {
        let child = self.spawn_cli(args);
        let output = child
            .wait_with_output()
            .await
            .expect("the command was started by us");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Pushes a built plugin under its package's name, activates it and binds it at `place` (`HOOK@SCOPE`).
    ///
    /// # Panics
    /// When the node refuses it.
    pub async fn install(&self, package: &str, place: &str, settings: &Value) -> Value {
        let wasm = crate::guests::wasm(package);
        let settings = settings.to_string();
        let options = ["--activate", "--bind", place, "--config", &settings];
        self.push(&wasm, package, &options).await.json()
    }

    /// Pushes a plugin's file under a name, with these options, if the node lets it.
    ///
    /// # Panics
    /// When the file's path is no text, or the binary cannot be executed.
    pub async fn push(&self, file: &Path, name: &str, options: &[&str]) -> Ended {
        let file = file.to_str().expect("paths of guests are texts");
        let push = ["plugin", "push", file, "--name", name, "--json"];
        self.cli(&[&push, options].concat()).await
    }

    /// Starts `tidegate ARGS` against this node and does not wait for it.
    ///
    /// # Panics
    /// When the binary cannot be executed.
    pub fn spawn_cli(&self, args: &[&str]) -> Child {
        Command::new(binary())
            .args(args)
            .env("TIDEGATE_ADMIN_KEY", self.admin_key())
            .env("TIDEGATE_API_KEY", self.api_key())
            .env(
                "TIDEGATE_ADMIN_URL",
                format!("http://{}", self.admin_addr()),
            )
            .env("TIDEGATE_URL", format!("http://{}", self.client_addr()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary can be executed")
    }
}
