//! Asks the sentinels who the primary is.

use redis::Value;

use super::{ConnectError, Connector};
use crate::{
    commands::value::text,
    config::{Address, Login},
};

/// The first answer wins; the sentinels are asked in turn, each within `connect_timeout`.
pub(super) async fn primary(
    connector: &Connector,
    sentinels: &[Address],
    login: &Login,
    master_name: &str,
) -> Result<Address, ConnectError> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("get-master-addr-by-name").arg(master_name);
    let mut last = None;
    for sentinel in sentinels {
        match connector.ask(sentinel, login, &command).await {
            // One that does not know the name is as good as none.
            Ok(answer) => {
                if let Some(address) = parse_address(&answer) {
                    return Ok(address);
                }
            }
            Err(error) => last = Some(Box::new(error)),
        }
    }
    Err(ConnectError::NoPrimary {
        master_name: master_name.into(),
        source: last,
    })
}

/// `None` for a name that the sentinel does not know, and for nonsense.
fn parse_address(answer: &Value) -> Option<Address> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [host, port] = parts.as_slice() else {
        return None;
    };
    Some(Address::new(text(host)?, text(port)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_address_or_nothing() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![bulk("10.0.0.1"), bulk("6379")]);
        assert_eq!(parse_address(&answer), Some(Address::new("10.0.0.1", 6379)));
        for nonsense in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![bulk("a"), bulk("70000")]),
            Value::Array(vec![bulk("a"), Value::Nil]),
        ] {
            assert_eq!(parse_address(&nonsense), None, "{nonsense:?}");
        }
    }
}
