//! Guest of the benches: parses the whole message into types of its own and looks at one field.

mod order;

use order::Order;
use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, plugin};

struct TypedJson;

impl Filtering for TypedJson {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        let order: Order<'_> = message
            .json()
            .map_err(|error| Refusal::error(400, error.to_string()))?;
        if !order.is_whole() {
            return Err(Refusal::error(499, "not an order"));
        }
        Ok(Verdict::Pass)
    }
}

plugin!(TypedJson: filtering);
