//! Time. It stands still during a call and has a resolution of one millisecond.

use std::time::{Duration, SystemTime};

use crate::host;

/// Now.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tidegate_sdk::{Refusal, Rpc, clock, rpc, testing::Host};
///
/// struct Watch;
///
/// impl Rpc for Watch {
///     fn call(_: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         let age = clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
///         rpc::Verdict::json(&age.as_secs())
///     }
/// }
///
/// let mut host = Host::new().now(SystemTime::UNIX_EPOCH + Duration::from_secs(90));
/// assert_eq!(host.call::<Watch>("time", "").unwrap(), rpc::Verdict::Reply(b"90".to_vec()));
/// ```
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(host::now_ms())
}

/// Seconds since 1970 UTC, the unit of `expires_at`.
pub fn unix_seconds() -> u64 {
    host::now_ms() / 1000
}

/// Milliseconds since 1970 UTC, the finest that the node tells.
pub fn unix_millis() -> u64 {
    host::now_ms()
}
