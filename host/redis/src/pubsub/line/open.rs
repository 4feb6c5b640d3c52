//! How a connection for subscriptions comes to stand: the server is found, and told who we are.
//!
//! Invariant: it ends in time, and no error shows a name or a secret.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{
        Shard,
        resp::{self, Said},
    },
    Line,
};
use crate::{
    config::{Address, Login},
    connect::{ConnectError, Socket},
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("no server is known")]
    NoAddress,
    #[error("Redis does not answer the login")]
    Login(#[source] io::Error),
    #[error("Redis refuses the login for subscriptions with {0}")]
    Refused(Box<str>),
}

pub(super) fn report(error: &OpenError) {
    match error {
        OpenError::Refused(_) => {
            tracing::error!(%error, "nothing can be heard from Redis; check user and password");
        }
        OpenError::Connect(_) | OpenError::NoAddress | OpenError::Login(_) => {
            tracing::warn!(%error, "nothing can be heard from Redis; trying again");
        }
    }
}

/// Finds the server, connects and logs in; answers who it is too.
pub(super) async fn open(shard: &Shard, line: &Line) -> Result<(Socket, Address), OpenError> {
    let connector = shard.pipe.connector();
    let address = match &line.address {
        Some(address) => address.clone(),
        None => {
            let primary = connector.primary().await?;
            primary.ok_or(OpenError::NoAddress)?
        }
    };
    let opening = async {
        let login = connector.login();
        let mut socket = connector.open_socket(&address, login).await?;
        introduce(&mut socket, login).await?;
        Ok((socket, address.clone()))
    };
    let opened = tokio::time::timeout(shard.connect_timeout, opening).await;
    opened.unwrap_or_else(|_| Err(OpenError::Login(io::ErrorKind::TimedOut.into())))
}

/// Says who we are.
async fn introduce(socket: &mut Socket, login: &Login) -> Result<(), OpenError> {
    let mut out = BytesMut::new();
    let mut num_due = 0;
    if !login.password.is_empty() {
        let credentials = [&*login.user, &*login.password];
        let credentials = credentials.into_iter().filter(|part| !part.is_empty());
        let credentials: Vec<&str> = credentials.collect();
        resp::write_command(&mut out, "AUTH", credentials.into_iter());
        num_due += 1;
    }
    if !login.client_name.is_empty() {
        let arguments = ["SETNAME", &*login.client_name];
        resp::write_command(&mut out, "CLIENT", arguments.into_iter());
        num_due += 1;
    }
    socket.write_all(&out).await.map_err(OpenError::Login)?;
    socket.flush().await.map_err(OpenError::Login)?;
    let mut buffer = BytesMut::with_capacity(512);
    while num_due > 0 {
        let nonsense = |_| OpenError::Login(io::ErrorKind::InvalidData.into());
        let Some((said, end)) = resp::next(&buffer, 0).map_err(nonsense)? else {
            let num_read = socket.read_buf(&mut buffer).await;
            if num_read.map_err(OpenError::Login)? == 0 {
                return Err(OpenError::Login(io::ErrorKind::UnexpectedEof.into()));
            }
            continue;
        };
        if let Said::Error(text) = said {
            let code = code_of(&buffer[text]);
            return Err(OpenError::Refused(code.into()));
        }
        let _ = buffer.split_to(end);
        num_due -= 1;
    }
    Ok(())
}

/// The first word of an error, which holds no names and no secrets.
pub(super) fn code_of(error: &[u8]) -> &str {
    let error = std::str::from_utf8(error).unwrap_or_default();
    error.split(' ').next().unwrap_or_default()
}
