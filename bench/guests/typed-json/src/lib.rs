//! Guest of the benches: parses the whole message into types of its own and looks at one field.

use serde::Deserialize;
use tidegate_sdk::{Filtering, Message, Refusal, filtering::Verdict, plugin};

#[derive(Deserialize)]
struct Order<'m> {
    #[serde(rename = "type")]
    kind: &'m str,
    items: Vec<Item<'m>>,
}

#[derive(Deserialize)]
struct Item<'m> {
    name: &'m str,
    price: f64,
    count: u32,
}

struct TypedJson;

impl Filtering for TypedJson {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        let order: Order<'_> = message
            .json()
            .map_err(|error| Refusal::error(400, error.to_string()))?;
        let is_whole = order
            .items
            .iter()
            .all(|item| item.count > 0 && item.price >= 0.0 && !item.name.is_empty());
        if order.kind == "probe" || !is_whole {
            return Err(Refusal::error(499, "not an order"));
        }
        Ok(Verdict::Pass)
    }
}

plugin!(TypedJson: filtering);
