//! Who a client is on the network: the peer, or what a trusted proxy says (threat model T8).
//!
//! Owns the reading of forwarded headers. Invariant: an address that was not written by a trusted proxy is
//! never believed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
};

use http::HeaderMap;
use ipnet::IpNet;

/// The setting that names trusted proxies, for the warning.
const SETTING: &str = "http_server.trusted_proxies";

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Addresses of one request. Put into the request's extensions by the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The client itself: the peer, unless a trusted proxy forwarded for somebody else.
    pub client: IpAddr,
}

/// Networks whose forwarded headers are believed.
#[derive(Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    has_warned: AtomicBool,
}

impl TrustedProxies {
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks,
            has_warned: AtomicBool::new(false),
        }
    }

    /// Whether no proxy is configured.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Works out the client's address. Reads `X-Forwarded-For` from the right, past trusted proxies, to the
    /// first address that is not one; an entry that is no address ends the walk.
    pub fn client_address(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = peer.ip().to_canonical();
        if !self.trusts(client) {
            self.warn_once(client, headers);
            return ClientAddress { peer, client };
        }
        let values: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let entries = values.iter().rev().flat_map(|value| value.rsplit(','));
        for entry in entries {
            let Some(address) = parse_entry(entry.trim()) else {
                break;
            };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        ClientAddress { peer, client }
    }

    /// A proxy on a private network that nobody named would make all its clients one address: say so.
    fn warn_once(&self, peer: IpAddr, headers: &HeaderMap) {
        if !headers.contains_key(FORWARDED_FOR) || !is_private(peer) {
            return;
        }
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                client.addr = %peer,
                setting = SETTING,
                "a private peer sends forwarded headers but is not a trusted proxy; if it is one, name its network in the setting"
            );
        }
    }
}

/// Loopback is exempt from limits per address.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// An address, with or without port and brackets.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    let bare = entry.strip_prefix('[')?.strip_suffix(']')?;
    Some(bare.parse::<IpAddr>().ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, forwarded: &[&str], expected: &str) {
        let proxies = TrustedProxies::new(vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00::/8".parse().unwrap(),
        ]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, value.parse().unwrap());
        }
        let found = proxies.client_address(peer.parse().unwrap(), &headers);
        assert_eq!(found.client, expected.parse::<IpAddr>().unwrap());
    }

    #[test]
    fn t8_forwarded_addresses_count_only_from_trusted_proxies() {
        check("198.51.100.7:1", &["203.0.113.9"], "198.51.100.7");
        check("10.1.1.1:1", &["203.0.113.9"], "203.0.113.9");
        check("10.1.1.1:1", &[], "10.1.1.1");
        check("[::ffff:10.1.1.1]:1", &["203.0.113.9"], "203.0.113.9");
    }

    #[test]
    fn t8_the_rightmost_address_that_no_trusted_proxy_has_is_the_client() {
        check(
            "10.1.1.1:1",
            &["1.1.1.1, 203.0.113.9, 10.2.2.2"],
            "203.0.113.9",
        );
        check("10.1.1.1:1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9");
        check("10.1.1.1:1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3");
        check("10.1.1.1:1", &["203.0.113.9:4711"], "203.0.113.9");
        check("10.1.1.1:1", &["[2001:db8::1]:4711"], "2001:db8::1");
        check("10.1.1.1:1", &["[2001:db8::1]"], "2001:db8::1");
    }

    #[test]
    fn t8_an_entry_that_is_no_address_ends_the_walk() {
        check(
            "10.1.1.1:1",
            &["203.0.113.9, unknown, 10.2.2.2"],
            "10.2.2.2",
        );
        check("10.1.1.1:1", &["<script>"], "10.1.1.1");
    }

    #[test]
    fn t8_a_private_peer_that_forwards_untrusted_is_warned_about_once() {
        let proxies = TrustedProxies::default();
        let mut headers = HeaderMap::new();
        let peer = "192.168.0.1:1".parse().unwrap();
        proxies.client_address(peer, &headers);
        assert!(!proxies.has_warned.load(Ordering::Relaxed));
        headers.append(FORWARDED_FOR, "203.0.113.9".parse().unwrap());
        proxies.client_address("203.0.113.7:1".parse().unwrap(), &headers);
        assert!(!proxies.has_warned.load(Ordering::Relaxed));
        proxies.client_address(peer, &headers);
        assert!(proxies.has_warned.load(Ordering::Relaxed));
    }
}
