//! What a publication carries: who sent it, in which order, when, and a hash of all that.

use std::time::Duration;

use serde_json::Value;

use crate::record::Body;

/// Makes a message of about this size.
const PAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The message as it is published.
pub(super) fn compose(publisher: u32, sequence: u64, sent_at: Duration) -> (Body, Value) {
    let nanos = u64::try_from(sent_at.as_nanos()).unwrap_or(u64::MAX);
    let hash = hash(publisher, sequence, nanos, PAD);
    let body = Body {
        publisher,
        sequence,
        sent_at: Duration::from_nanos(nanos),
        hash,
    };
    let message = serde_json::json!({
        "p": publisher, "s": sequence, "t": nanos, "h": format!("{hash:016x}"), "x": PAD,
    });
    (body, message)
}

/// Reads a message; its hash is that of what arrived, whatever it says itself.
pub fn parse(bytes: &[u8]) -> Option<Body> {
    let message: Value = serde_json::from_slice(bytes).ok()?;
    let publisher = u32::try_from(message["p"].as_u64()?).ok()?;
    let sequence = message["s"].as_u64()?;
    let nanos = message["t"].as_u64()?;
    Some(Body {
        publisher,
        sequence,
        sent_at: Duration::from_nanos(nanos),
        hash: hash(publisher, sequence, nanos, message["x"].as_str()?),
    })
}

/// FNV-1a: a message that was mixed up has another one.
fn hash(publisher: u32, sequence: u64, nanos: u64, pad: &str) -> u64 {
    let numbers = publisher.to_le_bytes().into_iter();
    let numbers = numbers.chain(sequence.to_le_bytes());
    let bytes = numbers.chain(nanos.to_le_bytes()).chain(pad.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_changed_on_the_way_has_another_hash() {
        let (body, message) = compose(3, 9, Duration::from_millis(5));
        assert_eq!(parse(message.to_string().as_bytes()), Some(body));
        let changed = message.to_string().replace("0123", "0124");
        assert_ne!(parse(changed.as_bytes()).unwrap().hash, body.hash);
        assert_eq!(parse(b"\"something else\""), None);
    }
}
