//! Asks the sentinels who the primary is.
//!
//! All at the same time, and more than half of those configured decide: one that was cut off for a while still names
//! the primary of former times.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::Value;

use super::{ConnectError, Connector};
use crate::{
    commands::value::text,
    config::{Address, Login},
};

/// What the sentinels say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) primary: Address,
    /// More than half of all say so.
    pub(super) is_agreed: bool,
}

/// Ends with the answer that makes a majority, or when all have answered or had `connect_timeout`; then most of those
/// who did decide, so that one sentinel is enough to find a primary when the others are dead.
pub(super) async fn primary(
    connector: &Connector,
    sentinels: &[Address],
    login: &Login,
    master_name: &str,
) -> Result<Word, ConnectError> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("get-master-addr-by-name").arg(master_name);
    let asked = sentinels
        .iter()
        .map(|sentinel| connector.ask(sentinel, login, &command));
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut poll = Poll::of(sentinels.len());
    let mut last = None;
    while let Some(answer) = asked.next().await {
        match answer {
            // One that does not know the name is as good as none.
            Ok(answer) => {
                if let Some(address) = parse_address(&answer)
                    && let Some(word) = poll.add(address)
                {
                    return Ok(word);
                }
            }
            Err(error) => last = Some(Box::new(error)),
        }
    }
    poll.end().ok_or_else(|| ConnectError::NoPrimary {
        master_name: master_name.into(),
        source: last,
    })
}

/// Votes, in the order in which servers were first named.
#[derive(Debug)]
struct Poll {
    num_voters: usize,
    votes: Vec<(Address, usize)>,
}

impl Poll {
    fn of(num_voters: usize) -> Self {
        Self {
            num_voters,
            votes: Vec::new(),
        }
    }

    /// Answers the word when this vote has made it.
    fn add(&mut self, address: Address) -> Option<Word> {
        let known = self.votes.iter().position(|(named, _)| *named == address);
        let index = known.unwrap_or_else(|| {
            self.votes.push((address, 0));
            self.votes.len() - 1
        });
        let (primary, votes) = &mut self.votes[index];
        *votes += 1;
        (*votes * 2 > self.num_voters).then(|| Word {
            primary: primary.clone(),
            is_agreed: true,
        })
    }

    /// Nobody agreed: the one that most have named, the first of equals.
    fn end(self) -> Option<Word> {
        let votes = self.votes.into_iter().rev();
        let (primary, _) = votes.max_by_key(|(_, votes)| *votes)?;
        Some(Word {
            primary,
            is_agreed: false,
        })
    }
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

    /// Sentinels of `num_voters` that answer with these ports; what comes of it.
    #[track_caller]
    fn check(num_voters: usize, ports: &[u16], expected: Option<(u16, bool)>) {
        let mut poll = Poll::of(num_voters);
        let agreed = ports
            .iter()
            .find_map(|port| poll.add(Address::new("h", *port)));
        let word = agreed.or_else(|| poll.end());
        let word = word.map(|word| (word.primary.port, word.is_agreed));
        assert_eq!(word, expected, "{ports:?} of {num_voters}");
    }

    #[test]
    fn r4_a_stale_sentinel_is_outvoted_and_a_lone_one_is_enough_to_start() {
        check(3, &[1, 2, 2], Some((2, true)));
        check(3, &[2, 1, 2], Some((2, true)));
        check(1, &[1], Some((1, true)));
        check(3, &[1], Some((1, false)));
        check(3, &[1, 2], Some((1, false)));
        check(5, &[1, 2, 2], Some((2, false)));
        check(4, &[1, 1], Some((1, false)));
        check(3, &[], None);
    }
}
