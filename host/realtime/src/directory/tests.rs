use std::time::Duration;

use super::{contract, memory::MemoryDirectory};

#[tokio::test(start_paused = true)]
async fn a_directory_in_memory_keeps_the_contract() {
    let directory = MemoryDirectory::default();
    contract::check_all(&directory, Duration::from_secs(2), "one").await;
    assert_eq!(directory.num_lines_and_users(), (0, 0));
}
