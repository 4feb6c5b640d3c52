//! One `redis-server` process.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    ports::free_port,
    resp::{Connection, Reply},
    wait::until,
};

/// How many ports are tried before the fault must lie elsewhere.
const PORTS_TRIED: usize = 20;

/// Stands for a free port in a line of the configuration.
pub const FREE_PORT: &str = "{free port}";

/// How a server is to run; the default keeps nothing on disk and lets everybody in.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Keeps an append-only file, flushed every second: the data survive a kill.
    pub append_only: bool,
    /// `requirepass`.
    pub password: Option<String>,
    /// Lines of an ACL file, as `user tidegate on >secret ~tg:* &tg:* +@all`; none means no such file.
    pub acl: Vec<String>,
    /// Permits `DEBUG`.
    pub debug_command: bool,
    /// Follows the server on this port of the loopback.
    pub replica_of: Option<u16>,
    /// `maxmemory`, with the policy `noeviction`.
    pub max_memory_bytes: Option<u64>,
    /// Refuses writes when replicas are missing.
    pub min_replicas: Option<MinReplicas>,
    /// Further lines of `redis.conf`; [`FREE_PORT`] in one of them is another free port at every try to start.
    pub lines: Vec<String>,
}

/// `min-replicas-to-write` and `min-replicas-max-lag`.
#[derive(Debug, Clone, Copy)]
pub struct MinReplicas {
    pub count: u32,
    pub max_lag_seconds: u32,
}

impl RedisOptions {
    fn config(&self, directory: &Path, port: u16) -> String {
        let Self {
            append_only,
            password,
            acl,
            debug_command,
            replica_of,
            max_memory_bytes,
            min_replicas,
            lines,
        } = self;
        let mut config = vec![
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", directory.display()),
            "save \"\"".to_owned(),
            "appendfsync everysec".to_owned(),
            format!("appendonly {}", if *append_only { "yes" } else { "no" }),
            // A replica that attaches is served at once, not after five seconds.
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        if let Some(password) = password {
            config.push(format!("requirepass {password}"));
            config.push(format!("masterauth {password}"));
        }
        if !acl.is_empty() {
            config.push(format!("aclfile {}", directory.join("users.acl").display()));
        }
        if *debug_command {
            config.push("enable-debug-command yes".to_owned());
        }
        if let Some(port) = replica_of {
            config.push(format!("replicaof 127.0.0.1 {port}"));
        }
        if let Some(bytes) = max_memory_bytes {
            config.push(format!("maxmemory {bytes}"));
            config.push("maxmemory-policy noeviction".to_owned());
        }
        if let Some(MinReplicas {
            count,
            max_lag_seconds,
        }) = min_replicas
        {
            config.push(format!("min-replicas-to-write {count}"));
            config.push(format!("min-replicas-max-lag {max_lag_seconds}"));
        }
        let port = |line: &String| line.replace(FREE_PORT, &free_port().to_string());
        config.extend(lines.iter().map(port));
        config.join("\n") + "\n"
    }
}

/// What the process is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Server,
    Sentinel,
}

/// A running server; killed, and its directory removed, on drop.
#[derive(Debug)]
pub struct RedisServer {
    /// `None` after [`kill`](Self::kill).
    child: Option<Child>,
    mode: Mode,
    port: u16,
    password: Option<String>,
    directory: TempDir,
    /// How often it was started; each life has a log of its own.
    lives: u32,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When there is no `redis-server` on this machine, or it does not come up; its log is in the message.
    pub fn start(options: &RedisOptions) -> Self {
        Self::start_as(Mode::Server, options.password.clone(), |directory, port| {
            if !options.acl.is_empty() {
                let path = directory.join("users.acl");
                fs::write(path, options.acl.join("\n") + "\n").expect("the directory is ours");
            }
            options.config(directory, port)
        })
    }

    /// Starts a process with the configuration that `config` makes of its directory and port.
    pub(crate) fn start_as(
        mode: Mode,
        password: Option<String>,
        config: impl Fn(&Path, u16) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder can be made");
        let mut server = Self {
            child: None,
            mode,
            port: 0,
            password,
            directory,
            lives: 0,
        };
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            let config = config(server.directory.path(), server.port);
            fs::write(server.config_path(), config).expect("the directory is ours");
            match server.try_live() {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("redis-server ended at once:\n{log}"),
            }
        }
        panic!("redis-server found no free port in {PORTS_TRIED} attempts");
    }

    fn config_path(&self) -> PathBuf {
        self.directory.path().join("redis.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.lives))
    }

    /// What the server has logged since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the process and waits until it answers, or says what it logged before it ended.
    fn try_live(&mut self) -> Result<(), String> {
        self.lives += 1;
        let log = File::create(self.log_path()).expect("the directory is ours");
        let mut command = Command::new(binary("redis-server"));
        command.arg(self.config_path());
        if self.mode == Mode::Sentinel {
            command.arg("--sentinel");
        }
        let spawned = command
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        match spawned {
            Ok(child) => self.child = Some(child),
            Err(error) => panic!("{}", missing(&error)),
        }
        until("redis-server to answer", || {
            let child = self.child.as_mut().expect("it was just started");
            if child.try_wait().expect("the process is ours").is_some() {
                self.child = None;
                return Some(Err(self.log()));
            }
            let log = self.log();
            let has_loaded = match self.mode {
                Mode::Server => log.contains("Ready to accept connections"),
                Mode::Sentinel => log.contains("Sentinel ID is"),
            };
            if !has_loaded {
                return None;
            }
            match self.ask(&["PING"]) {
                Ok(Reply::Error(text)) if text.starts_with("LOADING") => None,
                Ok(_) => Some(Ok(())),
                Err(_) => None,
            }
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://[:PASSWORD@]127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@{}", self.addr()),
            None => format!("redis://{}", self.addr()),
        }
    }

    /// The id of the process; 0 when it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The folder of the server's files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection of one's own, authenticated when there is a password.
    ///
    /// # Errors
    /// The server does not take it.
    pub fn connect(&self) -> io::Result<Connection> {
        let mut connection = Connection::open(self.port)?;
        if let Some(password) = &self.password {
            connection.call(&["AUTH", password])?;
        }
        Ok(connection)
    }

    /// Sends one command on a new connection.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn ask(&self, command: &[&str]) -> io::Result<Reply> {
        self.connect()?.call(command)
    }

    /// Sends one command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn command(&self, command: &[&str]) -> Reply {
        match self.ask(command) {
            Ok(Reply::Error(error)) => panic!("{command:?} was refused: {error}"),
            Ok(reply) => reply,
            Err(error) => panic!("{command:?} got no answer: {error}"),
        }
    }

    /// A field of `INFO`; empty when there is none.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn info(&self, section: &str, field: &str) -> String {
        let text = self.command(&["INFO", section]).text();
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(name, _)| *name == field);
        found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    }

    /// Waits until a replica has everything and has acknowledged some of it: before the first time its primary sends it
    /// nothing more, and `WAIT` counts nobody.
    ///
    /// # Panics
    /// When it does not for a minute.
    pub fn wait_for(&self, replica: &Self) {
        // Something to acknowledge, soon.
        self.command(&["CONFIG", "SET", "repl-ping-replica-period", "1"]);
        until("the replica to follow", || {
            let is_up = replica.info("replication", "master_link_status") == "up";
            let seen = self.info("replication", "slave0");
            let is_heard = seen.contains("state=online") && !seen.contains("offset=0,");
            (is_up && is_heard).then_some(())
        });
    }

    /// Ends the process without warning (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process was started by us");
        }
    }

    /// Asks the process to end in good order (SIGTERM) and waits until it is gone.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("the process was started by us");
        }
    }

    /// Kills it, if it runs, and starts it again on the same port and directory.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(log) = self.try_live() {
            panic!("redis-server did not start again:\n{log}");
        }
    }

    /// Stops the process where it is (SIGSTOP): connections stay open and get no answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().map(|child| child.id().cast_signed());
        if let Some(pid) = child.and_then(Pid::from_raw) {
            kill_process(pid, signal).expect("the process is ours and not waited for");
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Path of a program of Redis: what `REDIS_SERVER` names or has beside it, else the one on PATH.
pub(crate) fn binary(name: &str) -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test harness has no configuration module"
    )]
    let named = std::env::var_os("REDIS_SERVER").map(PathBuf::from);
    match named {
        Some(server) if name == "redis-server" => server,
        Some(server) if server.with_file_name(name).is_file() => server.with_file_name(name),
        Some(_) | None => name.into(),
    }
}

pub(crate) fn missing(error: &io::Error) -> String {
    format!(
        "redis-server or redis-cli cannot be executed ({error}); install Redis 7 (Debian: apt-get install \
         redis-server; its service is not needed), or set REDIS_SERVER to the binary"
    )
}
