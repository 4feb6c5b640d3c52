struct Wall;

tidegate_sdk::plugin!(Wall: filtering);

fn main() {}
