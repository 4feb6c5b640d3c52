mod inner {
    pub struct Wall;
}

tidegate_sdk::plugin!(inner::Wall: filtering);

fn main() {}
