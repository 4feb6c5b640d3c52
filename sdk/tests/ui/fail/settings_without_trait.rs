struct Wall;

impl tidegate_sdk::Filtering for Wall {
    fn filter(_: tidegate_sdk::Message) -> Result<tidegate_sdk::filtering::Verdict, tidegate_sdk::Refusal> {
        Ok(tidegate_sdk::filtering::Verdict::Pass)
    }
}

tidegate_sdk::plugin!(Wall: filtering, settings);

fn main() {}
