//! Guest of the benches: has the host look up one field of the message, and parses nothing itself.

use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, json, plugin};

struct HostJson;

impl Filtering for HostJson {
    fn filter(_: Message) -> Result<Verdict, Refusal> {
        match json::text("/type") {
            Ok(Some(kind)) if kind != "probe" => Ok(Verdict::Pass),
            _ => Err(Refusal::error(499, "not an order")),
        }
    }
}

plugin!(HostJson: filtering);
