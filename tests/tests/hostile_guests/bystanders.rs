//! A hundred sockets of an app that has done nothing: they talk while hostile guests run elsewhere on the node.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use tidegate_sandbox::Hook;
use tidegate_tests::{Client, Node};
use tokio::task::JoinSet;

use crate::{
    stage::Stage,
    wat::{self, Guest},
};

const ROOMS: usize = 10;
const MEMBERS: usize = 10;
/// Messages that a room must at least have seen for the rest to mean anything.
const FEWEST: u64 = 20;

pub(crate) struct Bystanders {
    rooms: JoinSet<u64>,
    is_over: Arc<AtomicBool>,
}

impl Bystanders {
    /// Lets them talk in rooms of ten.
    pub(crate) async fn gather(node: &Node) -> Self {
        let stage = Stage::open(node, "bystanders").await;
        // Their messages pass a plugin as well, which shares the node's plugin threads with the hostile ones.
        let filter = Guest::new(Hook::Filtering, wat::answer()).wasm();
        let answer = stage.upload("filter", filter).await;
        assert_eq!(answer.status, 201, "{}", answer.json());
        stage.bind("filter", Hook::Filtering).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let mut rooms = JoinSet::new();
        for room in 0..ROOMS {
            let channel = format!("open:room-{room}");
            let mut members = Vec::new();
            for member in 0..MEMBERS {
                let mut client = stage.connect(&format!("user-{room}-{member}")).await;
                let reply = client.subscribe(&channel).await;
                assert!(reply.subscribe.is_some(), "{reply:?}");
                members.push(client);
            }
            rooms.spawn(talk(members, channel, Arc::clone(&is_over)));
        }
        Self { rooms, is_over }
    }

    /// Ends the talk; none of it failed or was lost.
    pub(crate) async fn leave(mut self) {
        self.is_over.store(true, Ordering::Release);
        while let Some(room) = self.rooms.join_next().await {
            let said = room.expect("no bystander was hurt");
            assert!(said >= FEWEST, "only {said} messages were exchanged");
        }
    }
}

/// The members speak in turn, and everybody hears everything, in order.
async fn talk(mut members: Vec<Client>, channel: String, is_over: Arc<AtomicBool>) -> u64 {
    let mut said = 0;
    while !is_over.load(Ordering::Acquire) {
        said += 1;
        let speaker = usize::try_from(said).unwrap_or_default() % MEMBERS;
        let reply = members[speaker]
            .publish(&channel, &json!({ "s": said }))
            .await;
        assert!(reply.publish.is_some(), "{channel}: {reply:?}");
        for member in &mut members {
            let (data, offset) = member.publication().await;
            assert_eq!((&data["s"], offset), (&json!(said), said), "{channel}");
        }
    }
    said
}
