//! Ports that nobody listens on.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the range from which the kernel takes the ports of outgoing connections (32768 and up on Linux): a server
/// that is killed and started again finds its port as it left it.
const LOWEST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// How many ports this process has tried.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// A port of the loopback that nobody listens on now. Another process may take it before it is used; a caller that
/// cannot bind it asks for the next one.
///
/// # Panics
/// When every port is taken.
pub fn free_port() -> u16 {
    // Processes start at different places, so that two tests rarely try the same port.
    let start = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT {
        let tried = u32::from(TRIED.fetch_add(1, Ordering::Relaxed));
        let place = start.wrapping_add(tried) % u32::from(COUNT);
        let port = LOWEST + u16::try_from(place).expect("the rest is below COUNT");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {LOWEST} on");
}
