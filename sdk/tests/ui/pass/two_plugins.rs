//! Several types may share a crate, as long as each hook is exported once.

use tidegate_sdk::{Filtering, Message, Refusal, Routing, filtering, plugin, routing};

struct One;

impl Filtering for One {
    fn filter(_: Message) -> Result<filtering::Verdict, Refusal> {
        Ok(filtering::Verdict::Pass)
    }
}

struct Other;

impl Routing for Other {
    fn route(_: Message) -> Result<routing::Verdict, Refusal> {
        Ok(routing::Verdict::Keep)
    }
}

plugin!(One: filtering,);
plugin!(Other: routing);

fn main() {}
