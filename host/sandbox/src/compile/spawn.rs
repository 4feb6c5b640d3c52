//! The node's side of the compile child: starts it, waits within a limit, reaps it, and says what became of it.
//!
//! Question, answer and error output are nameless files, so a child that reads or writes nothing holds nobody
//! up, a node that is killed leaves no litter, and the child needs no path. Whatever the child does, this ends
//! within the wall-clock limit, and the child is gone when it does. A component is blamed for what it costs, never
//! for how busy the machine was.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::{
        fs::OpenOptionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::child::{ANSWER, ANSWER_HEADER_BYTES, ARTIFACT, Header, MAX_ANSWER_BYTES, REFUSED};
use crate::{admit::AdmissionRefused, compile::CompileError, failure::escape};

/// Address space of the child, its own code included.
pub const DEFAULT_COMPILE_ADDRESS_SPACE_BYTES: u64 = 1 << 30;
/// Processor time of the child. This is what a component is judged by: it is the same on a busy machine.
pub const DEFAULT_COMPILE_TIME: Duration = Duration::from_secs(30);
/// The clock on the wall runs so many times longer, then the child is killed and nobody is blamed.
const PATIENCE: u32 = 3;
/// And at least so long: how busy a machine is does not shrink with the limit that somebody sets.
const LEAST_WALL_TIME: Duration = Duration::from_secs(90);
/// Error output that is looked at.
const MAX_ERROR_BYTES: u64 = 4 << 10;
/// Of which so much is shown.
const SHOWN_ERROR_BYTES: usize = 200;

/// How the compile child is started and what it may use.
#[derive(Debug, Clone)]
pub struct CompileChild {
    /// A program that calls [`crate::compile_child`] and nothing else, given `arguments`.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    pub address_space_bytes: u64,
    /// At least a second; fractions of one are dropped.
    pub processor_time: Duration,
    pub wall_time: Duration,
}

impl CompileChild {
    /// The running program itself with these arguments, and the default limits.
    ///
    /// # Errors
    /// When the system does not tell which program this is.
    pub fn this_program(arguments: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        // This link leads to the program that runs even after its file was replaced by a newer one, whose code
        // the engine of this process would refuse.
        let link = Path::new("/proc/self/exe");
        let program = if link.exists() {
            link.to_owned()
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            program,
            arguments: arguments.into_iter().collect(),
            environment: Vec::new(),
            address_space_bytes: DEFAULT_COMPILE_ADDRESS_SPACE_BYTES,
            processor_time: DEFAULT_COMPILE_TIME,
            wall_time: DEFAULT_COMPILE_TIME * PATIENCE,
        })
    }

    /// The same with this processor time, and time by the clock to go with it.
    #[must_use]
    pub fn within(self, processor_time: Duration) -> Self {
        Self {
            processor_time,
            wall_time: processor_time.saturating_mul(PATIENCE).max(LEAST_WALL_TIME),
            ..self
        }
    }

    /// Machine code of a component. `directory` is where the nameless files are made.
    pub(super) fn compile(
        &self,
        component: &[u8],
        directory: &Path,
    ) -> Result<Vec<u8>, CompileError> {
        let ended = self.run(component, directory).map_err(|error| {
            CompileError::Failed(format!("the compile child could not be run: {error}"))
        })?;
        let Ended {
            end,
            mut answer,
            errors,
        } = ended;
        match end {
            End::Exited(status) if status.success() => {
                read_answer(&mut answer).map_err(|error| {
                    CompileError::Failed(format!(
                        "the compile child's answer is no answer: {error}"
                    ))
                })?
            }
            End::Exited(status) => Err(self.blame(status, &errors)),
            End::OutOfTime => Err(CompileError::Failed(format!(
                "the compile child did not end within {} s, though its processor time was not over; \
                 the machine is too busy, or the child hangs",
                self.wall_time.as_secs_f32()
            ))),
        }
    }

    fn processor_seconds(&self) -> u64 {
        self.processor_time.as_secs().max(1)
    }

    fn run(&self, component: &[u8], directory: &Path) -> io::Result<Ended> {
        let header = Header {
            address_space_bytes: self.address_space_bytes,
            processor_seconds: self.processor_seconds(),
            component_bytes: component.len() as u64,
        };
        let mut question = nameless_file(directory)?;
        question.write_all(&header.to_bytes())?;
        question.write_all(component)?;
        question.rewind()?;
        let answer = nameless_file(directory)?;
        let mut errors = nameless_file(directory)?;
        let mut command = Command::new(&self.program);
        command
            .arg0("tidegate")
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::from(question))
            .stdout(Stdio::from(answer.try_clone()?))
            .stderr(Stdio::from(errors.try_clone()?))
            // Signals that a terminal sends to the node are the node's business.
            .process_group(0);
        // A thread of its own: the child is to die with whoever started it, which for the system is a thread,
        // and callers may be inside of an asynchronous runtime.
        let end = thread::scope(|scope| {
            thread::Builder::new()
                .name("compile".to_owned())
                .spawn_scoped(scope, || wait(command, self.wall_time))?
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that waits for it panicked")))
        })?;
        let mut text = Vec::new();
        errors.rewind()?;
        errors.take(MAX_ERROR_BYTES).read_to_end(&mut text)?;
        Ok(Ended {
            end,
            answer,
            errors: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// Why a child ended without an answer.
    fn blame(&self, status: ExitStatus, errors: &str) -> CompileError {
        let signal = status.signal();
        let is = |wanted: Signal| signal == Some(wanted.as_raw());
        if is(Signal::XCPU) {
            return refused(
                "compile-time",
                format!(
                    "compiling it takes more than {} s of processor time",
                    self.processor_seconds()
                ),
                SMALLER,
            );
        }
        if is(Signal::XFSZ) {
            return refused(
                "compile-size",
                format!("its machine code has more than {MAX_ANSWER_BYTES} bytes"),
                SMALLER,
            );
        }
        // What Rust's allocator says before it aborts.
        if errors.contains("memory allocation of") {
            return refused(
                "compile-memory",
                format!(
                    "compiling it takes more than {} bytes of memory",
                    self.address_space_bytes
                ),
                SMALLER,
            );
        }
        let end = match (signal, status.code()) {
            (Some(signal), _) => format!("was ended by signal {signal}"),
            (None, Some(code)) => format!("ended with code {code}"),
            (None, None) => "ended".to_owned(),
        };
        let said = match errors.lines().find(|line| !line.trim().is_empty()) {
            Some(line) => format!(", saying: {}", escape(line, SHOWN_ERROR_BYTES)),
            None => String::new(),
        };
        refused(
            "compile-crash",
            format!("the compiler {end}{said}"),
            "try once more; if it stays, build the plugin with the newest tidegate-sdk and rustc, and report it \
             with the file",
        )
    }
}

const SMALLER: &str = "make the plugin smaller: build with `--profile plugin`, split very large functions, leave out \
                       what it does not need";

fn refused(rule: &'static str, detail: String, help: &'static str) -> CompileError {
    CompileError::Refused(AdmissionRefused::new(rule, detail, help))
}

/// A child that is no more.
struct Ended {
    end: End,
    answer: File,
    errors: String,
}

enum End {
    Exited(ExitStatus),
    /// It was killed and reaped.
    OutOfTime,
}

/// Starts the child and waits for its end. The runtime is this call's own; waiting for a process with a limit
/// is what it is for.
fn wait(command: Command, limit: Duration) -> io::Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => Ok(End::Exited(status?)),
            Err(_) => {
                child.kill().await?;
                Ok(End::OutOfTime)
            }
        }
    })
}

/// A file that nobody else can open and that is gone with its last handle.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let name: [u8; 8] = rand::random();
    let path = directory.join(format!(".{}.tmp", hex::encode(name)));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// What the child says, if it is exactly one answer.
fn read_answer(file: &mut File) -> io::Result<Result<Vec<u8>, CompileError>> {
    let len = file.metadata()?.len();
    file.rewind()?;
    let mut header = [0; ANSWER_HEADER_BYTES];
    file.read_exact(&mut header)?;
    let (magic, rest) = header.split_at(ANSWER.len());
    let (kind, announced) = rest.split_at(1);
    let mut number = [0; 8];
    number.copy_from_slice(announced);
    let announced = u64::from_le_bytes(number);
    if magic != ANSWER
        || len > MAX_ANSWER_BYTES
        || Some(announced) != len.checked_sub(ANSWER_HEADER_BYTES as u64)
    {
        return Err(io::Error::other("its head or its length is wrong"));
    }
    let mut payload = Vec::with_capacity(usize::try_from(announced).unwrap_or_default());
    file.take(announced).read_to_end(&mut payload)?;
    match kind {
        [ARTIFACT] => Ok(Ok(payload)),
        [REFUSED] => Ok(Err(super::not_compilable(&String::from_utf8_lossy(
            &payload,
        )))),
        _ => Err(io::Error::other("it is of an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: &[u8]) -> io::Result<Result<Vec<u8>, CompileError>> {
        let mut file = nameless_file(&std::env::temp_dir()).unwrap();
        file.write_all(bytes).unwrap();
        read_answer(&mut file)
    }

    fn message(kind: u8, announced: u64, payload: &[u8]) -> Vec<u8> {
        [ANSWER, &[kind][..], &announced.to_le_bytes(), payload].concat()
    }

    #[test]
    fn an_answer_is_taken_only_if_it_is_whole_and_nothing_else() {
        let code = answer(&message(ARTIFACT, 4, b"code")).unwrap().unwrap();
        assert_eq!(code, b"code");
        let refusal = answer(&message(REFUSED, 3, b"why")).unwrap().unwrap_err();
        assert!(refusal.to_string().contains("why"), "{refusal}");
        for bad in [
            &b""[..],
            b"tgcmpl-a",
            &message(ARTIFACT, 5, b"code"),
            &message(ARTIFACT, 3, b"code"),
            &message(ARTIFACT, u64::MAX, b"code"),
            &message(7, 4, b"code"),
            &[b"x", &message(ARTIFACT, 4, b"code")[..]].concat(),
        ] {
            assert!(answer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn files_for_the_child_have_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let _file = nameless_file(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
