//! What a server says of itself: whether it is a primary, and of which generation.

use std::{fmt, sync::Arc};

use redis::{RedisError, Value, aio::MultiplexedConnection};

use crate::commands::value::text;

/// The incarnation of a primary's contents (threat model R3): the beginning of its `master_replid`, which changes when
/// a replica is promoted and when a server starts. Streams of another generation get a new epoch before their
/// offsets count.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Generation(Arc<str>);

/// Digits of the 40 that we keep: 64 bits do not meet by chance, and every publish carries them.
const GENERATION_DIGITS: usize = 16;

impl Generation {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation:{}", self.0)
    }
}

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerRole {
    Primary(Generation),
    Replica,
}

/// Asks the server.
///
/// # Errors
/// The connection's, the server's, or an answer that is not `INFO`'s.
pub(crate) async fn role(connection: &mut MultiplexedConnection) -> Result<ServerRole, RedisError> {
    let answer = info(connection, "replication").await?;
    parse_info(&answer).ok_or_else(|| {
        let kind = redis::ErrorKind::UnexpectedReturnType;
        (kind, "INFO replication lacks role or master_replid").into()
    })
}

/// Whether the server still reads its data and refuses to serve until it has them.
///
/// # Errors
/// As [`role`]. A server that does not say is taken to have them.
pub(crate) async fn is_loading(connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
    let answer = info(connection, "persistence").await?;
    Ok(field(text(&answer).unwrap_or_default(), "loading") == Some("1"))
}

async fn info(connection: &mut MultiplexedConnection, section: &str) -> Result<Value, RedisError> {
    let mut command = redis::cmd("INFO");
    command.arg(section);
    let answer = connection.send_packed_command(&command).await?;
    answer.extract_error()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn parse_info(answer: &Value) -> Option<ServerRole> {
    let info = text(answer)?;
    if field(info, "role")? != "master" {
        return Some(ServerRole::Replica);
    }
    let generation = field(info, "master_replid")?.get(..GENERATION_DIGITS)?;
    Some(ServerRole::Primary(Generation(generation.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(info: &str, expected: Option<&ServerRole>) {
        let answer = Value::BulkString(info.as_bytes().to_vec());
        assert_eq!(parse_info(&answer).as_ref(), expected, "{info:?}");
    }

    #[test]
    fn a_primary_is_known_by_its_replication_id() {
        let primary = ServerRole::Primary(Generation("0123456789abcdef".into()));
        check(
            "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:0123456789abcdef0123456789abcdef01234567\r\nmaster_replid2:00\r\n",
            Some(&primary),
        );
        check("role:slave\r\nmaster_replid:01", Some(&ServerRole::Replica));
        for nonsense in [
            "",
            "role:master\r\n",
            "role:master\r\nmaster_replid:ab\r\n",
            "role",
        ] {
            check(nonsense, None);
        }
        assert_eq!(parse_info(&Value::Nil), None);
    }
}
