//! Guest of the tests: writes the version that judged a message into it, as `"v"`.
//!
//! Data that is not a JSON object passes as it is. To upload it twice with different bytes, append a custom section.

use serde_json::{Map, Value};
use tidegate_sdk::{Filtering, Message, Refusal, context, filtering::Verdict, plugin};

struct Stamp;

impl Filtering for Stamp {
    fn filter(message: Message) -> Result<Verdict, Refusal> {
        let Ok(mut data) = message.json::<Map<String, Value>>() else {
            return Ok(Verdict::Pass);
        };
        data.insert("v".to_owned(), context::version().into());
        Verdict::json(&data)
    }
}

plugin!(Stamp: filtering);
