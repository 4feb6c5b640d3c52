tidegate_sdk::plugin!();

fn main() {}
