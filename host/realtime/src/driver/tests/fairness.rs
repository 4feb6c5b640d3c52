//! A client that pipelines takes the worker for a bounded number of commands at once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::Wake,
};

use super::*;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ids of the replies, in order.
fn ids_of(client: &Client) -> Vec<u64> {
    client.driver.link().flush();
    let id_of = |text: &String| {
        let reply: serde_json::Value = serde_json::from_str(text).unwrap();
        reply["id"].as_u64()
    };
    client.messages().iter().filter_map(id_of).collect()
}

#[tokio::test]
async fn a_frame_of_many_commands_gives_way_to_others_and_keeps_its_order() {
    /// At least three polls and a bit; more where the machine is slow.
    const COMMANDS: usize = 200;
    let world = World::new(NoHooks);
    let mut client = world.join().await;
    let before = ids_of(&client).len();
    let frame: Vec<String> = (0..COMMANDS)
        .map(|id| format!(r#"{{"id":{},"unsubscribe":{{"channel":"x"}}}}"#, id + 2))
        .collect();
    let turn = client
        .driver
        .on_frame(frame.join("\n").as_bytes(), &mut Budget::default());
    assert_eq!(turn, Turn::Wait);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut context = task::Context::from_waker(&waker);
    let mut counts = vec![ids_of(&client).len() - before];
    loop {
        let mut budget = Budget::default();
        // A signal meanwhile does not make the session read on before its commands are done.
        assert_eq!(client.driver.on_signals(), Turn::Wait);
        let polled = client.driver.poll_answer(&mut context, &mut budget);
        let done = ids_of(&client).len() - before;
        counts.push(done - counts.iter().sum::<usize>());
        match polled {
            Poll::Pending => {
                assert!(budget.is_spent());
                let asked = wakes.0.load(Ordering::Relaxed);
                assert_eq!(asked, counts.len() - 1, "it asks for its next turn");
            }
            Poll::Ready(turn) => {
                assert_eq!(turn, Turn::Read);
                break;
            }
        }
    }
    assert!(
        counts.iter().all(|count| (1..=64).contains(count)),
        "{counts:?}"
    );
    let ids: Vec<_> = ids_of(&client)[before..].to_vec();
    let expected: Vec<_> = (2..2 + COMMANDS as u64).collect();
    assert_eq!(ids, expected);
}
