//! Who calls, what they may do, and how often they may guess.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::{
    extract::ConnectInfo,
    http::{header, request},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;
use tidegate_control::{Actor, AppName, KeyRole};
use tokio::time::Instant;

use super::{Admin, keys::CONFIGURED, problem::Problem};

/// Failed authentications per address and [`WINDOW`] (threat model M3's number, for keys as well).
pub(super) const MAX_FAILURES: u32 = 10;

/// How long failures count.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Addresses remembered. Beyond it, newcomers share one count: under a flood of addresses guessing gets
/// slower, and memory stays as it is.
const MAX_ADDRESSES: usize = 10_000;

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) actor: Actor,
    pub(super) role: KeyRole,
    /// `None` for operators, who reach every app.
    pub(super) app: Option<AppName>,
}

/// Counts failed authentications by address.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_address: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Admin {
    /// Answers who calls, or the one problem that all failures share.
    pub(super) fn authenticate(&self, parts: &request::Parts) -> Result<Caller, Problem> {
        let ip = address(parts);
        if self.attempts.is_exhausted(ip, Instant::now()) {
            return Err(Problem::new(
                "too-many-attempts",
                "too many requests without a valid key came from this address",
            )
            .help("wait a minute"));
        }
        let caller = bearer(parts).and_then(|key| self.verify(key, ip));
        caller.ok_or_else(|| {
            self.attempts.fail(ip, Instant::now());
            if let Some(suppressed) = self.notices.due("admin_key") {
                let address = ip.map(|ip| ip.to_string());
                tracing::info!(
                    client.addr = address,
                    suppressed,
                    "a call of the admin API without a valid key was refused"
                );
            }
            Problem::unauthorized()
        })
    }

    fn verify(&self, presented: &str, ip: Option<IpAddr>) -> Option<Caller> {
        if let Some(configured) = &self.configured_key {
            let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
            if bool::from(configured.ct_eq(&presented)) {
                return Some(Caller {
                    actor: Actor {
                        who: format!("{CONFIGURED}admin_api.key"),
                        ip,
                    },
                    role: KeyRole::Operator,
                    app: None,
                });
            }
        }
        let verified = self.store.verify(presented)?;
        match verified.role {
            KeyRole::Api => None,
            KeyRole::Deploy | KeyRole::AppAdmin | KeyRole::Operator => Some(Caller {
                actor: Actor {
                    who: verified.id.to_string(),
                    ip,
                },
                role: verified.role,
                app: verified.app.clone(),
            }),
        }
    }
}

impl Caller {
    pub(super) fn reaches(&self, app: &AppName) -> bool {
        self.app.as_ref().is_none_or(|own| own == app)
    }
}

impl Attempts {
    /// Whether the address has used up its tries. Loopback has no limit: whoever is there can read the files.
    fn is_exhausted(&self, ip: Option<IpAddr>, now: Instant) -> bool {
        let Some(slot) = slot(ip) else {
            return false;
        };
        let by_address = self.by_address.lock();
        let found = by_address.get(&slot).or_else(|| {
            (by_address.len() >= MAX_ADDRESSES)
                .then(|| by_address.get(&SHARED))
                .flatten()
        });
        found.is_some_and(|failures| failures.count >= MAX_FAILURES && !failures.is_over(now))
    }

    fn fail(&self, ip: Option<IpAddr>, now: Instant) {
        let Some(mut slot) = slot(ip) else {
            return;
        };
        let mut by_address = self.by_address.lock();
        if by_address.len() >= MAX_ADDRESSES && !by_address.contains_key(&slot) {
            by_address.retain(|_, failures| !failures.is_over(now));
            if by_address.len() >= MAX_ADDRESSES {
                slot = SHARED;
            }
        }
        let failures = by_address.entry(slot).or_insert(Failures {
            since: now,
            count: 0,
        });
        if failures.is_over(now) {
            *failures = Failures {
                since: now,
                count: 0,
            };
        }
        failures.count += 1;
    }
}

impl Failures {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= WINDOW
    }
}

/// The count of callers whose address is not known, or that found the table full.
const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Where failures of an address are counted: its /64 for IPv6, which is what one customer gets.
fn slot(ip: Option<IpAddr>) -> Option<IpAddr> {
    match ip.map(|ip| ip.to_canonical()) {
        None => Some(SHARED),
        Some(ip) if ip.is_loopback() => None,
        Some(ip @ IpAddr::V4(_)) => Some(ip),
        Some(IpAddr::V6(ip)) => {
            let [a, b, c, d, ..] = ip.segments();
            Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
        }
    }
}

fn address(parts: &request::Parts) -> Option<IpAddr> {
    let ConnectInfo(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(peer.ip().to_canonical())
}

fn bearer(parts: &request::Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn ten_failures_close_an_address_for_a_minute_and_no_other() {
        let attempts = Attempts::default();
        let start = Instant::now();
        for _ in 0..MAX_FAILURES {
            assert!(!attempts.is_exhausted(ip("192.0.2.1"), start));
            attempts.fail(ip("192.0.2.1"), start);
        }
        assert!(attempts.is_exhausted(ip("192.0.2.1"), start));
        assert!(!attempts.is_exhausted(ip("192.0.2.2"), start));
        assert!(!attempts.is_exhausted(ip("192.0.2.1"), start + WINDOW));
    }

    #[test]
    fn loopback_has_no_limit_and_ipv6_counts_by_network() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for _ in 0..=MAX_FAILURES {
            attempts.fail(ip("127.0.0.1"), now);
            attempts.fail(ip("::1"), now);
            attempts.fail(ip("2001:db8::1"), now);
        }
        assert!(!attempts.is_exhausted(ip("127.0.0.1"), now));
        assert!(!attempts.is_exhausted(ip("::1"), now));
        assert!(attempts.is_exhausted(ip("2001:db8::ffff"), now));
        assert!(!attempts.is_exhausted(ip("2001:db8:0:1::1"), now));
    }

    #[test]
    fn a_flood_of_addresses_does_not_grow_the_table() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() + 100 {
            attempts.fail(
                Some(std::net::Ipv4Addr::from(number + 0x0b00_0000).into()),
                now,
            );
        }
        assert!(attempts.by_address.lock().len() <= MAX_ADDRESSES + 1);
        assert!(attempts.is_exhausted(ip("203.0.113.9"), now));
    }
}
