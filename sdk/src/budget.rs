//! What is left of the call in hand.

use std::time::Duration;

use crate::host;

/// The time until the call's deadline, in whole milliseconds; zero means that any moment may be the last.
///
/// The time that the call waited before it began is taken off already. A plugin that has much to do looks now and
/// then and answers with what it has: a call that is late fails, whatever it found.
///
/// ```
/// use std::time::Duration;
/// use tidegate_sdk::{Refusal, Rpc, budget, rpc, testing::Host};
///
/// struct Search;
///
/// impl Rpc for Search {
///     fn call(_: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         let mut found = 0;
///         while found < 1_000 && budget::remaining() > Duration::from_millis(2) {
///             found += 1;
///         }
///         rpc::Verdict::json(&found)
///     }
/// }
///
/// let mut host = Host::new().remaining(Duration::from_millis(1));
/// assert_eq!(host.call::<Search>("find", "").unwrap(), rpc::Verdict::Reply(b"0".to_vec()));
/// let mut host = Host::new();
/// assert_eq!(host.call::<Search>("find", "").unwrap(), rpc::Verdict::Reply(b"1000".to_vec()));
/// ```
pub fn remaining() -> Duration {
    Duration::from_millis(host::remaining_ms().into())
}
