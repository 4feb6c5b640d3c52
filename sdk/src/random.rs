//! Random numbers from the node's operating system, fit for secrets.
//!
//! In tests they come from the seed that the test gives, and are the same in every run.

use crate::host;

/// At most so many bytes come with one question to the node.
const MAX_BYTES_A_CALL: usize = 1024;

/// A random number, each as likely as any other.
pub fn number() -> u64 {
    host::random_number()
}

/// Fills `bytes` with random ones.
///
/// ```
/// use tidegate_sdk::{Refusal, Rpc, random, rpc, testing::Host};
///
/// struct Dice;
///
/// impl Rpc for Dice {
///     fn call(_: rpc::Request) -> Result<rpc::Verdict, Refusal> {
///         let mut nonce = [0; 16];
///         random::fill(&mut nonce);
///         rpc::Verdict::json(&nonce)
///     }
/// }
///
/// let (mut one, mut other) = (Host::new().seed(7), Host::new().seed(7));
/// assert_eq!(one.call::<Dice>("roll", ""), other.call::<Dice>("roll", ""));
/// ```
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(MAX_BYTES_A_CALL) {
        let len = u32::try_from(chunk.len()).expect("a chunk has at most 1,024 bytes");
        chunk.copy_from_slice(&host::random_bytes(len));
    }
}
