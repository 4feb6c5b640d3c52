//! Admission: how many connections there may be, and how fast new ones may come.
//!
//! Owns the counts per node and per client address (threat model, section 2). Invariants: every count is a
//! guard's, so it falls whatever ends the connection; the map of addresses holds no more entries than there are
//! connections and addresses seen within a second.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::address::is_loopback;

/// Limits of the client listener.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// `client.connection_limit`: sessions on this node.
    pub max_connections: usize,
    /// Connections from one address; loopback is exempt.
    pub max_connections_per_address: u32,
    /// `client.connection_rate_limit`: new sessions a second on this node.
    pub handshakes_per_second: NonZeroU32,
    /// New sessions a second from one address; loopback is exempt.
    pub handshakes_per_address: u32,
}

/// Default of `client.connection_limit`.
pub const DEFAULT_MAX_CONNECTIONS: usize = 50_000;

/// Clients behind one household or office address share it; a botnet's member has no need for more.
pub const DEFAULT_CONNECTIONS_PER_ADDRESS: u32 = 200;

/// Reconnects of everybody behind one address still pass within seconds.
pub const DEFAULT_HANDSHAKES_PER_ADDRESS: u32 = 20;

/// New sessions a second that one core can take on and still serve the others.
pub const HANDSHAKES_PER_CORE: u32 = 5_000;

/// How long a handshake waits for its turn before it is refused: the bound of the waiting queue, in time.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// TCP connections beyond the session limit, for the API, health checks and handshakes under way.
const EXTRA_CONNECTIONS: usize = 1024;

impl Default for AdmissionConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Self {
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_per_address: DEFAULT_CONNECTIONS_PER_ADDRESS,
            handshakes_per_second: NonZeroU32::MIN
                .saturating_add(HANDSHAKES_PER_CORE.saturating_mul(cores) - 1),
            handshakes_per_address: DEFAULT_HANDSHAKES_PER_ADDRESS,
        }
    }
}

/// Why a connection or handshake was refused. Each is answered 503 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the node is shutting down")]
    Draining,
    #[error("the node has as many connections as it may")]
    NodeFull,
    #[error("too many connections from this address")]
    AddressFull,
    #[error("too many new connections from this address")]
    AddressRate,
    #[error("too many new connections")]
    NodeRate,
}

/// The counts. Shared by the accept loop and the handshakes.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    is_draining: AtomicBool,
    /// TCP connections of this listener.
    num_sockets: AtomicUsize,
    num_sessions: AtomicUsize,
    num_refused: AtomicUsize,
    by_address: Mutex<Addresses>,
    /// When the next handshake may start, by the node's rate.
    next_turn: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Addresses {
    entries: HashMap<IpAddr, AddressUse>,
    /// When entries without connections were last looked for.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct AddressUse {
    connections: u32,
    handshakes: u32,
    /// Start of the second in which `handshakes` are counted.
    since: Instant,
}

/// What a connection is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Socket,
    Session,
}

/// A place taken; dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct Permit {
    admission: Arc<Admission>,
    counted: Counted,
    /// The address that is counted, if it is.
    address: Option<IpAddr>,
}

impl Admission {
    pub fn new(config: AdmissionConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            is_draining: AtomicBool::new(false),
            num_sockets: AtomicUsize::new(0),
            num_sessions: AtomicUsize::new(0),
            num_refused: AtomicUsize::new(0),
            by_address: Mutex::default(),
            next_turn: Mutex::new(Instant::now()),
        })
    }

    /// Refuses everything from now on.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub fn num_sessions(&self) -> usize {
        self.num_sessions.load(Ordering::Relaxed)
    }

    /// Connections and handshakes refused so far.
    pub fn num_refused(&self) -> usize {
        self.num_refused.load(Ordering::Relaxed)
    }

    /// Counts a TCP connection. `address` is `None` for a trusted proxy, whose clients are counted one by one
    /// when they start a session.
    ///
    /// # Errors
    /// When the node or the address has too many, or the node is draining.
    pub fn admit_socket(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Refused> {
        self.counting_refusals(|| {
            self.check_draining()?;
            let limit = self
                .config
                .max_connections
                .saturating_add(EXTRA_CONNECTIONS);
            take_place(&self.num_sockets, limit.saturating_sub(self.num_sessions()))?;
            let most = self.config.max_connections_per_address;
            self.with_address(Counted::Socket, address, most)
        })
    }

    /// Counts a session that is about to begin. Its socket is still counted for its own address, unless that
    /// is a proxy's.
    ///
    /// # Errors
    /// When a limit or a rate is exceeded, or the node is draining.
    pub fn admit_session(
        self: &Arc<Self>,
        address: IpAddr,
        through_proxy: bool,
    ) -> Result<Permit, Refused> {
        self.counting_refusals(|| {
            self.check_draining()?;
            if !is_loopback(address) {
                self.take_handshake(key_of(address))?;
            }
            take_place(&self.num_sessions, self.config.max_connections)?;
            let own_socket = u32::from(!through_proxy);
            let most = self
                .config
                .max_connections_per_address
                .saturating_add(own_socket);
            self.with_address(Counted::Session, Some(address), most)
        })
    }

    /// Waits for this handshake's turn by the node's rate.
    ///
    /// # Errors
    /// [`Refused::NodeRate`] when the turn would come too late.
    ///
    /// # Cancel safety
    /// A dropped wait leaves its turn unused.
    pub async fn wait_turn(&self) -> Result<(), Refused> {
        let now = Instant::now();
        let turn = {
            let mut next = self.next_turn.lock();
            // One second's worth may come at once; what is unused beyond that is lost.
            let earliest = now.checked_sub(MAX_WAIT).unwrap_or(now);
            let turn = (*next).max(earliest);
            if turn > now + MAX_WAIT {
                drop(next);
                self.num_refused.fetch_add(1, Ordering::Relaxed);
                return Err(Refused::NodeRate);
            }
            *next = turn + Duration::from_secs(1) / self.config.handshakes_per_second.get();
            turn
        };
        if turn > now {
            tokio::time::sleep_until(turn).await;
        }
        Ok(())
    }

    fn counting_refusals(
        &self,
        admit: impl FnOnce() -> Result<Permit, Refused>,
    ) -> Result<Permit, Refused> {
        admit().inspect_err(|_| {
            self.num_refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    fn check_draining(&self) -> Result<(), Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        Ok(())
    }

    /// Makes the permit for a place that was taken, and counts the address where there is one.
    fn with_address(
        self: &Arc<Self>,
        counted: Counted,
        address: Option<IpAddr>,
        most: u32,
    ) -> Result<Permit, Refused> {
        let mut permit = Permit {
            admission: Arc::clone(self),
            counted,
            address: None,
        };
        let Some(address) = address.filter(|address| !is_loopback(*address)) else {
            return Ok(permit);
        };
        let address = key_of(address);
        let mut addresses = self.by_address.lock();
        let entry = addresses.entry(address, Instant::now());
        if entry.connections >= most {
            drop(addresses);
            return Err(Refused::AddressFull); // The permit gives the node's place back.
        }
        entry.connections += 1;
        permit.address = Some(address);
        Ok(permit)
    }

    fn take_handshake(&self, address: IpAddr) -> Result<(), Refused> {
        let now = Instant::now();
        let mut addresses = self.by_address.lock();
        let entry = addresses.entry(address, now);
        if now.duration_since(entry.since) >= Duration::from_secs(1) {
            entry.since = now;
            entry.handshakes = 0;
        }
        if entry.handshakes >= self.config.handshakes_per_address {
            return Err(Refused::AddressRate);
        }
        entry.handshakes += 1;
        Ok(())
    }
}

fn take_place(count: &AtomicUsize, limit: usize) -> Result<(), Refused> {
    if count.fetch_add(1, Ordering::Relaxed) >= limit {
        count.fetch_sub(1, Ordering::Relaxed);
        return Err(Refused::NodeFull);
    }
    Ok(())
}

/// What counts as one address: a whole /64 of IPv6, because one customer has that many.
fn key_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

impl Addresses {
    fn entry(&mut self, address: IpAddr, now: Instant) -> &mut AddressUse {
        self.sweep(now);
        self.entries.entry(address).or_insert_with(|| AddressUse {
            connections: 0,
            handshakes: 0,
            since: now,
        })
    }

    /// Once a second at most, forgets addresses without connections.
    fn sweep(&mut self, now: Instant) {
        const SWEEP: Duration = Duration::from_secs(1);
        if self
            .swept
            .is_some_and(|swept| now.duration_since(swept) < SWEEP)
        {
            return;
        }
        self.swept = Some(now);
        self.entries
            .retain(|_, entry| entry.connections > 0 || now.duration_since(entry.since) < SWEEP);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = match self.counted {
            Counted::Socket => &self.admission.num_sockets,
            Counted::Session => &self.admission.num_sessions,
        };
        count.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        if let Some(entry) = self.admission.by_address.lock().entries.get_mut(&address) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn admission(max: usize, per_address: u32, rate: u32, address_rate: u32) -> Arc<Admission> {
        Admission::new(AdmissionConfig {
            max_connections: max,
            max_connections_per_address: per_address,
            handshakes_per_second: NonZeroU32::new(rate).unwrap(),
            handshakes_per_address: address_rate,
        })
    }

    #[test]
    fn a_full_node_refuses_until_a_session_ends() {
        let admission = admission(2, 10, 100, 100);
        let first = admission.admit_session(ADDRESS, true).unwrap();
        let _second = admission.admit_session(ADDRESS, true).unwrap();
        let refused = admission.admit_session(ADDRESS, true).unwrap_err();
        assert_eq!(refused, Refused::NodeFull);
        drop(first);
        let _third = admission.admit_session(ADDRESS, true).unwrap();
        assert_eq!((admission.num_sessions(), admission.num_refused()), (2, 1));
    }

    #[test]
    fn an_address_has_its_share_and_loopback_has_no_bound() {
        let admission = admission(1_000, 3, 100, 100);
        let sockets: Vec<_> = (0..3)
            .map(|_| admission.admit_socket(Some(ADDRESS)).unwrap())
            .collect();
        let refused = admission.admit_socket(Some(ADDRESS)).unwrap_err();
        assert_eq!(refused, Refused::AddressFull);
        assert!(
            admission.admit_session(ADDRESS, false).is_ok(),
            "its socket is counted"
        );
        drop(sockets);
        let local = IpAddr::from([127, 0, 0, 1]);
        let many: Vec<_> = (0..50)
            .map(|_| admission.admit_socket(Some(local)).unwrap())
            .collect();
        assert_eq!(many.len(), 50);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let admission = admission(1_000, 1, 100, 100);
        let _first = admission
            .admit_socket(Some("2001:db8::1".parse().unwrap()))
            .unwrap();
        let second = admission.admit_socket(Some("2001:db8::2".parse().unwrap()));
        assert_eq!(second.unwrap_err(), Refused::AddressFull);
        assert!(
            admission
                .admit_socket(Some("2001:db8:0:1::2".parse().unwrap()))
                .is_ok()
        );
    }

    #[test]
    fn new_sessions_of_one_address_are_rated() {
        let admission = admission(1_000, 100, 100, 2);
        assert!(admission.admit_session(ADDRESS, true).is_ok());
        assert!(admission.admit_session(ADDRESS, true).is_ok());
        let refused = admission.admit_session(ADDRESS, true).unwrap_err();
        assert_eq!(refused, Refused::AddressRate);
    }

    #[tokio::test]
    async fn handshakes_over_the_nodes_rate_wait_and_then_are_refused() {
        let admission = admission(1_000, 100, 10, 100);
        let mut waits: Vec<_> = (0..30).map(|_| Box::pin(admission.wait_turn())).collect();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut counts = (0, 0, 0);
        for wait in &mut waits {
            match wait.as_mut().poll(&mut context) {
                std::task::Poll::Ready(Ok(())) => counts.0 += 1,
                std::task::Poll::Pending => counts.1 += 1,
                std::task::Poll::Ready(Err(_)) => counts.2 += 1,
            }
        }
        let (at_once, waiting, refused) = counts;
        assert!(at_once >= 1, "{counts:?}");
        assert!((9..=11).contains(&waiting), "{counts:?}");
        assert!(refused >= 8, "{counts:?}");
    }

    #[test]
    fn o3_a_draining_node_refuses_everything() {
        let admission = admission(1_000, 100, 100, 100);
        admission.drain();
        assert_eq!(admission.admit_socket(None).unwrap_err(), Refused::Draining);
        assert_eq!(
            admission.admit_session(ADDRESS, true).unwrap_err(),
            Refused::Draining
        );
    }
}
