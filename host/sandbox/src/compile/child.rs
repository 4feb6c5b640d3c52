//! The compile child: a process of its own that turns one component into machine code and ends.
//!
//! What a compiler needs for hostile input has no bound that could be told beforehand, and wasmtime promises
//! none (threat model W2). So it is compiled where running out of memory or time ends nothing but the attempt.
//! The child limits itself before it reads the component: address space, processor time, size of what it
//! writes, and no further file or socket at all. It is given the component on standard input, a file, writes
//! its answer to standard output, another file, and never sees the key that artifacts are proved with.
//!
//! Everything here runs in the child; [`super::spawn`] is the other side.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::AsFd,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
use wasmtime::Engine;

use crate::{admit::MAX_UPLOAD_BYTES, engine};

/// First bytes of a question, and of an answer.
pub(super) const QUESTION: &[u8; 8] = b"tgcmpl-q";
pub(super) const ANSWER: &[u8; 8] = b"tgcmpl-a";
/// Kinds of answers.
pub(super) const ARTIFACT: u8 = 0;
pub(super) const REFUSED: u8 = 1;
/// An answer up to its payload: magic, kind, length of the payload.
pub(super) const ANSWER_HEADER_BYTES: usize = 8 + 1 + 8;
/// Largest answer. The largest admitted component compiles to a fraction of it.
pub(super) const MAX_ANSWER_BYTES: u64 = 128 << 20;

/// How much nicer than the node the child is: beside a busy node it gets about a quarter of a core, which is little
/// enough for the sessions and still makes an ordinary plugin a matter of a second.
const NICENESS: i32 = 5;
/// Between the signal that says "your processor time is over" and the one that cannot be ignored.
const GRACE: Duration = Duration::from_secs(2);

/// What the child is told before the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) address_space_bytes: u64,
    pub(super) processor_seconds: u64,
    pub(super) component_bytes: u64,
}

impl Header {
    pub(super) const BYTES: usize = 8 + 3 * 8;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self {
            address_space_bytes,
            processor_seconds,
            component_bytes,
        } = self;
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(QUESTION);
        bytes[8..16].copy_from_slice(&address_space_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&processor_seconds.to_le_bytes());
        bytes[24..].copy_from_slice(&component_bytes.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let rest = bytes.strip_prefix(QUESTION)?;
        let mut numbers = rest.chunks_exact(8).map(|chunk| {
            let mut number = [0; 8];
            number.copy_from_slice(chunk);
            u64::from_le_bytes(number)
        });
        Some(Self {
            address_space_bytes: numbers.next()?,
            processor_seconds: numbers.next()?,
            component_bytes: numbers.next()?,
        })
    }
}

/// The whole life of the child. To be the only thing that its process does: the limits are the process's, and
/// nothing may be printed afterwards.
///
/// # Errors
/// When it was not started by a node, or the question or the answer cannot be handed over.
pub fn compile_child() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut answer = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut header = [0; Header::BYTES];
    input.read_exact(&mut header)?;
    let header = Header::from_bytes(&header)
        .ok_or_else(|| io::Error::other("this is no question of a node"))?;
    limit_myself(header)?;
    let component = read_component(&mut input, header.component_bytes)?;
    let (kind, payload) = match engine::for_compiling()
        .and_then(|engine: Engine| engine.precompile_component(&component))
    {
        Ok(artifact) => (ARTIFACT, artifact),
        Err(error) => (REFUSED, format!("{error:#}").into_bytes()),
    };
    drop(component);
    // The answer is all that the file holds, whatever was printed on the way.
    answer.set_len(0)?;
    answer.rewind()?;
    answer.write_all(ANSWER)?;
    answer.write_all(&[kind])?;
    answer.write_all(&(payload.len() as u64).to_le_bytes())?;
    answer.write_all(&payload)
}

fn read_component(input: &mut impl Read, len: u64) -> io::Result<Vec<u8>> {
    if len > MAX_UPLOAD_BYTES as u64 {
        return Err(io::Error::other(
            "the component is larger than any that is admitted",
        ));
    }
    let mut component = Vec::new();
    input.take(len).read_to_end(&mut component)?;
    if component.len() as u64 != len {
        return Err(io::Error::other("the component is shorter than announced"));
    }
    Ok(component)
}

/// From here on the process can use only so much, and nobody can raise it again.
fn limit_myself(header: Header) -> io::Result<()> {
    // Niceness that cannot be had is a pity and no reason not to compile.
    let _ = nice(NICENESS);
    // A node that dies takes its child along.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Nofile, 0, 0)?;
    limit(Resource::Fsize, MAX_ANSWER_BYTES, MAX_ANSWER_BYTES)?;
    let seconds = header.processor_seconds.max(1);
    limit(Resource::Cpu, seconds, seconds + GRACE.as_secs())?;
    let bytes = header.address_space_bytes;
    limit(Resource::As, bytes, bytes)
}

/// Sets a limit, but never above what the process was given.
fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let given = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit {
        current: Some(soft.min(given)),
        maximum: Some(hard.min(given)),
    };
    Ok(setrlimit(resource, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_foreign_bytes_are_none() {
        let header = Header {
            address_space_bytes: 1 << 30,
            processor_seconds: 30,
            component_bytes: 4 << 20,
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Some(header));
        let mut foreign = bytes;
        foreign[0] ^= 1;
        assert_eq!(Header::from_bytes(&foreign), None);
    }

    #[test]
    fn a_component_of_another_length_than_announced_is_not_compiled() {
        assert!(read_component(&mut &b"abc"[..], 4).is_err());
        assert_eq!(read_component(&mut &b"abcd"[..], 3).unwrap(), b"abc");
        assert!(read_component(&mut &b""[..], u64::MAX).is_err());
    }
}
