struct Wall;

tidegate_sdk::plugin!(Wall: filterng);

fn main() {}
