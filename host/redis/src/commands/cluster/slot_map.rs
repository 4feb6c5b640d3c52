//! Which server has which slot: a value, made anew when something moves.

use std::sync::Arc;

use redis::Value;

use super::Link;
use crate::{
    commands::value::{number, text},
    config::Address,
    keys::NUM_SLOTS,
};

/// Where a command that a server refused belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Moved(Address),
    /// Only this one command: the slot is on its way.
    Ask(Address),
}

/// Slots of one primary, both ends included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: Address,
}

#[derive(Debug, Default)]
pub(super) struct SlotMap {
    /// Index into `servers` for each slot; empty before the first reading.
    owners: Vec<Option<usize>>,
    /// Those with slots, then those that a redirect named.
    servers: Vec<(Address, Arc<Link>)>,
    num_owners: usize,
}

impl SlotMap {
    /// The map as just read. Links to servers that stay are kept, links to others end with the old map.
    pub(super) fn updated(
        &self,
        slots: &[SlotRange],
        start: impl Fn(&Address) -> Arc<Link>,
    ) -> Arc<Self> {
        let mut servers: Vec<(Address, Arc<Link>)> = Vec::new();
        let mut owners = vec![None; usize::from(NUM_SLOTS)];
        for range in slots {
            let known = servers
                .iter()
                .position(|(address, _)| *address == range.primary);
            let index = known.unwrap_or_else(|| {
                let link = self.link_to(&range.primary);
                let link = link.unwrap_or_else(|| start(&range.primary));
                servers.push((range.primary.clone(), link));
                servers.len() - 1
            });
            owners[usize::from(range.first)..=usize::from(range.last)].fill(Some(index));
        }
        Arc::new(Self {
            num_owners: servers.len(),
            owners,
            servers,
        })
    }

    /// Whether every slot is where it is in the other map.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        fn owner(map: &SlotMap, slot: usize) -> Option<&Address> {
            let index = (*map.owners.get(slot)?)?;
            Some(&map.servers[index].0)
        }
        (0..usize::from(NUM_SLOTS)).all(|slot| owner(self, slot) == owner(other, slot))
    }

    /// Whether a server has any slots.
    pub(super) fn has_slots(&self, address: &Address) -> bool {
        let mut owners = self.servers[..self.num_owners].iter();
        owners.any(|(owner, _)| owner == address)
    }

    /// The same with one server more, which has no slot yet.
    pub(super) fn with_link(&self, address: &Address, link: &Arc<Link>) -> Arc<Self> {
        let mut servers = self.servers.clone();
        if self.link_to(address).is_none() {
            servers.push((address.clone(), Arc::clone(link)));
        }
        Arc::new(Self {
            owners: self.owners.clone(),
            servers,
            num_owners: self.num_owners,
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.owners.is_empty() && self.owners.iter().all(Option::is_some)
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.servers.iter().map(|(_, link)| &**link)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.servers.iter().map(|(address, _)| address)
    }

    pub(super) fn live_addresses(&self) -> impl Iterator<Item = &Address> {
        let live = self.servers.iter().filter(|(_, link)| link.is_live());
        live.map(|(address, _)| address)
    }

    pub(super) fn address_of(&self, slot: u16) -> Option<Address> {
        let index = (*self.owners.get(usize::from(slot))?)?;
        Some(self.servers[index].0.clone())
    }

    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Link>> {
        let index = (*self.owners.get(usize::from(slot))?)?;
        Some(Arc::clone(&self.servers[index].1))
    }

    pub(super) fn any_live(&self) -> Option<Arc<Link>> {
        let live = self.servers.iter().find(|(_, link)| link.is_live());
        live.map(|(_, link)| Arc::clone(link))
    }

    pub(super) fn link_to(&self, address: &Address) -> Option<Arc<Link>> {
        let found = self.servers.iter().find(|(known, _)| known == address);
        found.map(|(_, link)| Arc::clone(link))
    }
}

/// Reads the answer of `CLUSTER SLOTS`; `None` for nonsense. `host` is the host of who answered, for servers that do
/// not know their own.
pub(super) fn parse_slots(answer: &Value, host: &str) -> Option<Vec<SlotRange>> {
    let Value::Array(ranges) = answer else {
        return None;
    };
    ranges
        .iter()
        .map(|range| parse_range(range, host))
        .collect()
}

/// The servers that the answer of `CLUSTER NODES` holds for dead, under each of their names. Whoever has not been reached
/// for long by the one that was asked counts, as much as who has not by most.
pub(super) fn parse_dead(answer: &Value, host: &str) -> Vec<Address> {
    let lines = text(answer).unwrap_or_default().lines();
    lines.flat_map(|line| parse_dead_line(line, host)).collect()
}

/// `ID HOST:PORT@BUS[,NAME] FLAGS …`.
fn parse_dead_line(line: &str, host: &str) -> Vec<Address> {
    let mut words = line.split(' ').skip(1);
    let (Some(address), Some(flags)) = (words.next(), words.next()) else {
        return Vec::new();
    };
    if !flags
        .split(',')
        .any(|flag| flag == "fail" || flag == "fail?")
    {
        return Vec::new();
    }
    let (address, rest) = address.split_once('@').unwrap_or((address, ""));
    let Some((own_host, port)) = address.rsplit_once(':') else {
        return Vec::new();
    };
    let Ok(port) = port.parse() else {
        return Vec::new();
    };
    let own_host = if own_host.is_empty() { host } else { own_host };
    // Where servers have names, the map of slots may call them by these.
    let name = rest.split(',').nth(1).filter(|name| !name.is_empty());
    let names = [Some(own_host), name];
    let names = names.into_iter().flatten();
    names.map(|name| Address::new(name, port)).collect()
}

fn parse_range(range: &Value, host: &str) -> Option<SlotRange> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [first, last, primary, ..] = parts.as_slice() else {
        return None;
    };
    let Value::Array(primary) = primary else {
        return None;
    };
    let [primary_host, port, ..] = primary.as_slice() else {
        return None;
    };
    let primary_host = match text(primary_host) {
        Some("" | "?") | None => host,
        Some(named) => named,
    };
    let slot = |value| {
        let slot = u16::try_from(number(value)?).ok()?;
        (slot < NUM_SLOTS).then_some(slot)
    };
    let (first, last) = (slot(first)?, slot(last)?);
    let port = u16::try_from(number(port)?).ok()?;
    (first <= last).then(|| SlotRange {
        first,
        last,
        primary: Address::new(primary_host, port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let primary = Value::Array(vec![host, Value::Int(port), Value::Nil]);
        Value::Array(vec![Value::Int(first), Value::Int(last), primary])
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn ranges_name_their_primary_and_unnamed_hosts_are_the_one_asked() {
        let answer = Value::Array(vec![
            range(0, 99, bulk("10.0.0.1"), 7000),
            range(100, 16_383, Value::Nil, 7001),
        ]);
        let ranges = parse_slots(&answer, "asked").unwrap();
        assert_eq!(ranges[0].primary, Address::new("10.0.0.1", 7000));
        assert_eq!(ranges[1].primary, Address::new("asked", 7001));
        assert_eq!((ranges[1].first, ranges[1].last), (100, 16_383));
    }

    #[test]
    fn the_dead_are_those_with_the_flag_under_all_their_names() {
        let answer = bulk(
            "a1 10.0.0.1:7000@17000,one.test master,fail - 1 2 3 connected 0-5\n\
             b2 10.0.0.2:7000@17000,two.test,shard-id=x myself,master - 0 0 1 connected 6-9\n\
             c3 :7002@17002 slave,fail? b2 1 2 3 connected\n\
             d4 10.0.0.4:7000@17000 master,nofailover - 1 2 3 connected\n",
        );
        let expected = [
            Address::new("10.0.0.1", 7000),
            Address::new("one.test", 7000),
            Address::new("asked", 7002),
        ];
        assert_eq!(parse_dead(&answer, "asked"), expected);
        for nonsense in [
            Value::Nil,
            bulk("fail"),
            bulk("a b fail"),
            bulk("a b:x@1 fail"),
        ] {
            assert_eq!(parse_dead(&nonsense, "asked"), [], "{nonsense:?}");
        }
    }

    #[test]
    fn nonsense_is_no_map() {
        for nonsense in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![range(5, 4, bulk("a"), 1)]),
            Value::Array(vec![range(0, 16_384, bulk("a"), 1)]),
            Value::Array(vec![range(-1, 3, bulk("a"), 1)]),
            Value::Array(vec![range(0, 3, bulk("a"), 70_000)]),
        ] {
            assert_eq!(parse_slots(&nonsense, "asked"), None, "{nonsense:?}");
        }
    }
}
