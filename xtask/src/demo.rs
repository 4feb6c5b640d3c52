//! `cargo xtask run`: the real server with the demo page and the example plugins, pushed as any user would push them.
//!
//! State lives in `target/tour`, which the README's tour uses as well, and starts empty each time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::guests::{self, Guest};
use crate::server::Server;
use crate::steps::{self, Steps};
use crate::toolchain;
use crate::workspace::Workspace;

/// Name of the ticket key, in the server's demo section and in the binding of `ticket-auth`.
const TICKET_KEY_ID: &str = "demo";

pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, options: &[String]) -> Result<()> {
    if let Some(option) = options.first() {
        bail!("`cargo xtask run` knows no option `{option}`");
    }
    toolchain::rust(steps, workspace)?;
    page(steps, workspace)?;
    build_server(steps, workspace)?;
    let guests = guests::build(steps, workspace, &["plugins"])?;
    // Before the folder of a run that still goes on is emptied.
    ports_are_free(workspace)?;
    let tour = steps.step(
        "preparing target/tour",
        "remove target/tour by hand, then run this again",
        || Tour::prepare(workspace),
    )?;
    let mut server = steps.step(
        "starting the server",
        "free the ports 8000 and 8001 (ss -ltnp shows who has them), then run this again",
        || tour.start(workspace),
    )?;
    server.stop_on_ctrl_c()?;
    steps.step(
        "pushing and binding the example plugins",
        "read the server's answer above",
        || tour.install(workspace, &server, &guests),
    )?;
    steps.print_summary();
    tour.print_what_to_try(&server);
    let status = server.wait()?;
    if !status.success() {
        bail!("the server ended with {status}");
    }
    Ok(())
}

/// The page's copy of the official SDK.
pub(crate) fn page(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    let demo = workspace.root.join("demo");
    toolchain::node_packages(steps, &demo)?;
    let vendor = demo.join("page/vendor");
    std::fs::create_dir_all(&vendor).context("cannot make demo/page/vendor")?;
    std::fs::copy(demo.join("node_modules/centrifuge/dist/centrifuge.js"), vendor.join("centrifuge.js"))
        .context("the npm package `centrifuge` has no dist/centrifuge.js; remove demo/node_modules and run this again")?;
    Ok(())
}

/// Builds the server in the profile that builds fast.
pub(crate) fn build_server(steps: &mut Steps, workspace: &Workspace) -> Result<()> {
    steps.command(
        "building the server (minutes the first time, because of the WebAssembly engine)",
        "fix what the compiler says above; a C compiler is needed for SQLite (Debian: apt-get install build-essential)",
        // The whole workspace chooses the features of dependencies, as in the tests: the engine is built once for both.
        workspace
            .cargo()
            .args(["build", "--workspace", "--bin", "tidegate"]),
    )
}

/// The demonstration's ports can be had.
fn ports_are_free(workspace: &Workspace) -> Result<()> {
    let text = std::fs::read_to_string(workspace.root.join("demo/tidegate.toml"))
        .context("cannot read demo/tidegate.toml")?;
    let config: toml::Table = text.parse().context("demo/tidegate.toml is not TOML")?;
    for section in ["http_server", "admin_api"] {
        let port = config
            .get(section)
            .and_then(|section| section.get("port"))
            .and_then(toml::Value::as_integer)
            .and_then(|port| u16::try_from(port).ok())
            .with_context(|| format!("demo/tidegate.toml has no {section}.port"))?;
        if let Err(error) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            bail!(
                "port {port} cannot be had ({error}): is the demonstration running already? Stop it, or whatever \
                 `ss -ltnp` shows there; nothing was changed"
            );
        }
    }
    Ok(())
}

/// The folder of one demonstration: binary, configuration, data.
struct Tour {
    root: PathBuf,
    ticket_secret: String,
}

impl Tour {
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let root = workspace.root.join("target/tour");
        if root.exists() {
            std::fs::remove_dir_all(&root)
                .with_context(|| format!("cannot empty {}", root.display()))?;
        }
        std::fs::create_dir_all(root.join("data"))
            .with_context(|| format!("cannot make {}", root.display()))?;
        std::os::unix::fs::symlink(workspace.server(), root.join("tidegate"))
            .context("cannot link the binary")?;
        Ok(Self {
            root,
            ticket_secret: secret()?,
        })
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn start(&self, workspace: &Workspace) -> Result<Server> {
        Server::start(&workspace.server(), &mut |command: &mut Command| {
            command
                .current_dir(&workspace.root)
                .args(["--config", "demo/tidegate.toml", "--data-dir"])
                .arg(self.data())
                .env("TIDEGATE_DEMO_TICKET_KEY_ID", TICKET_KEY_ID)
                .env("TIDEGATE_DEMO_TICKET_SECRET", &self.ticket_secret);
        })
    }

    /// Pushes and binds each plugin as `demo/plugins.toml` says, in its order.
    fn install(&self, workspace: &Workspace, server: &Server, guests: &[Guest]) -> Result<()> {
        let text = std::fs::read_to_string(workspace.root.join("demo/plugins.toml"))
            .context("cannot read demo/plugins.toml")?;
        let file: toml::Table = text.parse().context("demo/plugins.toml is not TOML")?;
        for binding in file
            .get("binding")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
        {
            let field = |key: &str| {
                binding
                    .get(key)
                    .and_then(toml::Value::as_str)
                    .with_context(|| format!("a binding of demo/plugins.toml has no {key}"))
            };
            let plugin = field("plugin")?;
            let Some(guest) = guests.iter().find(|guest| guest.name == plugin) else {
                bail!("demo/plugins.toml names `{plugin}`, which is not under plugins/");
            };
            let mut config: Value = match binding.get("config") {
                Some(config) => serde_json::to_value(config)
                    .context("a binding's configuration does not fit JSON")?,
                None => json!({}),
            };
            if plugin == "ticket-auth" {
                config["secrets"] = json!([{ "id": TICKET_KEY_ID, "secret": self.ticket_secret }]);
            }
            let target = format!("{}@{}", field("hook")?, field("scope")?);
            // In a file: a command line is seen by every user of the machine.
            let config_file = self.root.join(format!("{plugin}.json"));
            write_private(&config_file, &config.to_string())
                .context("cannot write a plugin's configuration")?;
            steps::run(
                self.cli(&workspace.server(), server)
                    .args(["plugin", "push"])
                    .arg(&guest.wasm)
                    .args([
                        "--name",
                        plugin,
                        "--activate",
                        "--bind",
                        &target,
                        "--config",
                    ])
                    .arg(format!("@{}", config_file.display())),
            )?;
        }
        Ok(())
    }

    /// The CLI, pointed at this server.
    fn cli(&self, binary: &Path, server: &Server) -> Command {
        let mut command = Command::new(binary);
        command
            .env("TIDEGATE_DATA_DIR", self.data())
            .env("TIDEGATE_ADMIN_URL", format!("http://{}", server.admin));
        command
    }

    fn print_what_to_try(&self, server: &Server) {
        let root = self.root.display();
        println!(
            "
  The page:  http://{}/     open it in two windows, join with two names
             (each start begins anew: no history, only the example plugins)

  Try in the page
    write a word of demo/plugins.toml or an e-mail address: word-filter masks it, and the message says which version did
    send privately to the other name: only that user's windows show it
    post as system without being an operator: direct-router refuses, and the page shows who and why
    reload a window: the history is there

  Try in a second terminal
    export PATH=\"{root}:$PATH\" TIDEGATE_DATA_DIR=\"{root}/data\"
    tidegate plugin list
    tidegate publish chat:lobby '{{\"type\":\"broadcast\",\"from\":\"terminal\",\"text\":\"hello from the API\"}}'
    in any empty directory: tidegate plugin new shout && cd shout && tidegate plugin push --activate --bind filtering@namespace:chat
    then say something in the page: it comes out in capitals, read by shout@1, and no window lost its connection

  ctrl-c stops the server.
",
            local(&server.client)
        );
    }
}

/// The address as the person at this machine opens it; tickets are minted for local names only.
fn local(address: &str) -> String {
    let port = address.rsplit(':').next().unwrap_or("8000");
    format!("localhost:{port}")
}

/// A fresh secret of 64 hexadecimal digits.
pub(crate) fn secret() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("no /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_opened_by_a_local_name_whatever_is_listened_on() {
        assert_eq!(local("0.0.0.0:8000"), "localhost:8000");
        assert_eq!(local("[::]:9000"), "localhost:9000");
    }

    #[test]
    fn secrets_are_long_and_differ() {
        let (one, two) = (secret().unwrap(), secret().unwrap());
        assert_eq!(one.len(), 64);
        assert_ne!(one, two);
    }
}
