struct Wall;

tidegate_sdk::plugin!(Wall);

fn main() {}
