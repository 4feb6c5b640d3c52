//! A kept-alive HTTP connection, as small as measuring needs it: one request at a time, answers of a known length.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longest silence of a server that was asked something.
const SILENCE: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
    /// The lines that every request has.
    head: String,
}

impl Http {
    /// # Errors
    /// When nobody listens there.
    pub fn open(address: SocketAddr, key: Option<&str>) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let key = key.map_or_else(String::new, |key| format!("X-API-Key: {key}\r\n"));
        Ok(Self {
            stream: BufReader::with_capacity(64 * 1024, stream),
            head: format!("Host: {address}\r\n{key}"),
        })
    }

    /// # Errors
    /// When the connection ends or answers in a form that is not expected.
    pub fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head);
        self.ask(&request)
    }

    /// # Errors
    /// As [`Http::get`].
    pub fn post(&mut self, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
        let request = format!(
            "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.head,
            body.len()
        );
        self.ask(&request)
    }

    fn ask(&mut self, request: &str) -> Result<(u16, Vec<u8>)> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.context("no status")?;
        let mut len = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; len.context("an answer without a length")?];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.stream.read_line(&mut line)? > 0,
            "the server closed the connection"
        );
        Ok(line.trim_end().to_owned())
    }
}
