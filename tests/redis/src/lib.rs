//! Real Redis servers for tests: standalone, Sentinel and Cluster, on free ports of the loopback.
//!
//! Owns starting, stopping, killing and pausing them, a temporary directory for each, and a small blocking client
//! for what a test asks or does behind the back of the product; and what tests of other servers need as well: certificates,
//! ports, waiting. Knows nothing of Tidegate.
//! Every process is ended by its own id when its value is dropped, also when the test panics.

mod certificates;
mod cluster;
mod ports;
mod resp;
mod sentinel;
mod server;
mod wait;

pub use certificates::{Authority, Pair};
pub use cluster::{ClusterOptions, RedisCluster};
pub use ports::free_port;
pub use resp::{Connection, Reply};
pub use sentinel::{SentinelOptions, Sentinels};
pub use server::{FREE_PORT, MinReplicas, RedisOptions, RedisServer};
pub use wait::{PATIENCE, until};
