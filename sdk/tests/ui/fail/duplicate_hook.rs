use tidegate_sdk::{Filtering, Message, Refusal, filtering};

struct Wall;

impl Filtering for Wall {
    fn filter(_: Message) -> Result<filtering::Verdict, Refusal> {
        Ok(filtering::Verdict::Pass)
    }
}

tidegate_sdk::plugin!(Wall: filtering, filtering, Routing);

fn main() {}
