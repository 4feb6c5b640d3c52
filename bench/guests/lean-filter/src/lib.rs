//! Guest of the benches: the least that a filter can do. It looks at the message and lets it pass, so that what is
//! measured is the way into the sandbox and back.

use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, plugin};

/// Refused, so that a measurement can prove that the filter is asked.
const PROBE: &[u8] = br#"{"probe":true}"#;

struct Lean;

impl Filtering for Lean {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        if message.data() == PROBE {
            return Err(Refusal::error(499, "the filter was asked"));
        }
        Ok(Verdict::Pass)
    }
}

plugin!(Lean: filtering);
