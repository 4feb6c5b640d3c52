//! One PostgreSQL server.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_test_redis::{Pair, free_port, until};

use crate::programs::{binary, command, hand_over, missing};

/// How many ports are tried before the fault must lie elsewhere.
const PORTS_TRIED: usize = 20;

/// The role that owns everything.
const USER: &str = "tidegate";

/// Its password, so that the way of a password is tested too, and whether it shows anywhere.
const PASSWORD: &str = "s3cret-of-the-tests";

/// Runs the server until its input ends, which it does with the process that started it; then removes the folder.
/// A line says to end the server and leave the folder.
const KEEPER: &str = r#"
folder=$1; shift
"$@" & server=$!
if read -r _; then kill -QUIT $server; wait $server; else kill -QUIT $server; wait $server; rm -rf "$folder"; fi
"#;

/// How a server speaks TLS.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// The server's.
    pub pair: Pair,
    /// Who vouches for clients, in PEM. Nobody is let in without TLS and a certificate of theirs, `psql` neither.
    pub clients: String,
}

/// A running server; killed, and its directory removed, on drop and when the process ends.
#[derive(Debug)]
pub struct PostgresServer {
    /// `None` after [`kill`](Self::kill).
    keeper: Option<Child>,
    port: u16,
    folder: PathBuf,
    /// How often it was started; each life has a log of its own.
    lives: u32,
}

impl PostgresServer {
    /// Makes an empty database cluster, starts a server for it and waits until it answers.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine, or it does not come up; its log is in the message.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// As [`Self::start`], of a server that speaks TLS and nothing else.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with_tls(tls: &ServerTls) -> Self {
        Self::start_with(Some(tls))
    }

    fn start_with(tls: Option<&ServerTls>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        hand_over(folder.path());
        let folder = folder.keep();
        let password_file = folder.join("password");
        fs::write(&password_file, PASSWORD).expect("the folder is ours");
        hand_over(&password_file);
        let mut server = Self {
            keeper: None,
            port: 0,
            folder,
            lives: 0,
        };
        let made = command(binary("initdb"))
            .args(["--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .args(["--auth", "scram-sha-256", "--username", USER, "--pwfile"])
            .arg(&password_file)
            .arg(server.data())
            .current_dir(&server.folder)
            .stdin(Stdio::null())
            .output();
        let made = made.unwrap_or_else(|error| panic!("{}", missing("initdb", &error)));
        assert!(made.status.success(), "initdb failed: {}", all_of(&made));
        if let Some(tls) = tls {
            server.set_up(tls);
        }
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            match server.try_live() {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("postgres ended at once:\n{log}"),
            }
        }
        panic!("postgres found no free port in {PORTS_TRIED} attempts");
    }

    /// Writes down how to speak TLS, and that nobody is let in without.
    fn set_up(&self, tls: &ServerTls) {
        let ServerTls { pair, clients } = tls;
        let files = [
            ("server.crt", &*pair.certificate),
            ("server.key", &pair.key),
            ("clients.crt", clients),
            (
                "postgresql.auto.conf",
                "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'clients.crt'\n",
            ),
            (
                "pg_hba.conf",
                "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n",
            ),
        ];
        for (name, text) in files {
            let path = self.data().join(name);
            // A key that others may read is none to PostgreSQL. Two of the files are there already.
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            let written = options
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()));
            written.expect("the folder is ours");
            hand_over(&path);
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.lives))
    }

    /// What the server has logged since it was started last.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts the process and waits until it answers, or says what it logged before it ended.
    fn try_live(&mut self) -> Result<(), String> {
        self.lives += 1;
        let log = File::create(self.log_path()).expect("the folder is ours");
        let keeper = command("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.folder)
            .arg(binary("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "max_connections=200"])
            .args(["-c", "shared_buffers=16MB"])
            // A test kills processes, never the machine.
            .args(["-c", "fsync=off", "-c", "full_page_writes=off"])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        self.keeper = Some(keeper.expect("there is a shell"));
        let ended = until("postgres to answer", || {
            let log = self.log();
            if log.contains("ready to accept connections") {
                return Some(None);
            }
            let has_failed = ["FATAL:", "not found", "cannot execute", "could not be"]
                .iter()
                .any(|sign| log.contains(sign));
            // While it recovers, it turns connections away with a FATAL of its own.
            (has_failed && !log.contains("starting up")).then_some(Some(log))
        });
        match ended {
            None => Ok(()),
            Some(log) => {
                self.kill();
                Err(log)
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The password in [`Self::url`], for a test that looks whether it shows.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// `postgresql://USER:PASSWORD@127.0.0.1:PORT/DATABASE` of the database that every server has.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Makes a database; its address.
    ///
    /// # Panics
    /// When there is one of this name.
    pub fn create_database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url_of(name)
    }

    /// Runs SQL in a database; what it printed, values alone.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        match self.try_sql(database, sql) {
            Ok(printed) => printed,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// As [`Self::sql`].
    ///
    /// # Errors
    /// What the server said.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let ran = command(binary("psql"))
            .args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &self.url_of(database), "-c", sql])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output();
        let ran = ran.unwrap_or_else(|error| panic!("{}", missing("psql", &error)));
        if ran.status.success() {
            Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        } else {
            Err(all_of(&ran))
        }
    }

    /// Ends the server without care for what is under way: what was not committed is gone.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut input) = keeper.stdin.take() {
                // It may have ended by itself.
                let _ = input.write_all(b"end\n");
            }
            keeper.wait().expect("the process was started by us");
        }
    }

    /// Kills it, if it runs, and starts it again on the same port and directory.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.kill();
        if let Err(log) = self.try_live() {
            panic!("postgres did not start again:\n{log}");
        }
    }

    /// Stops all its processes where they are (SIGSTOP): connections stay open and get no answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid_file = fs::read_to_string(self.data().join("postmaster.pid"));
        let postmaster = pid_file
            .ok()
            .and_then(|text| text.lines().next()?.parse().ok());
        let Some(postmaster) = postmaster else {
            return;
        };
        for pid in std::iter::once(postmaster).chain(children_of(postmaster)) {
            if let Some(pid) = Pid::from_raw(pid) {
                // One that served a connection may have ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.resume();
        match self.keeper.take() {
            Some(mut keeper) => {
                // The end of its input tells the keeper to clear everything away.
                drop(keeper.stdin.take());
                let _ = keeper.wait();
            }
            None => {
                let _ = fs::remove_dir_all(&self.folder);
            }
        }
    }
}

/// The processes that this one started.
fn children_of(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children = processes.filter_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        (parent_of(&process.path())? == parent).then_some(pid)
    });
    children.collect()
}

/// `PID (NAME) STATE PARENT …`; the name may contain anything.
fn parent_of(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn all_of(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    text
}
