//! Ends that somebody was not told of in their time: they stand in the book until they are, whoever tells them.

use super::*;
use crate::{
    directory::{Answer, Change, Directory as _, Record, Slot, User, entry::encode_session},
    hooks::Peer,
};

/// In which comings and goings are written, and nobody is taken for dead.
const A_MOMENT: Duration = Duration::from_secs(3);

/// In which a node goes through its own book at the latest.
const A_ROUND: Duration = Duration::from_secs(1_500);

impl Nodes {
    fn num_told(&self) -> [usize; 3] {
        [
            EventKind::Unsubscribed,
            EventKind::Disconnected,
            EventKind::Offline,
        ]
        .map(|kind| self.board.count(kind))
    }

    /// The witness is on the second node, ann on the first.
    async fn with_ann_and_eve() -> (Self, Client, Client) {
        let nodes = Self::new(2).await;
        let mut eve = nodes.join(1, "eve").await;
        eve.say(IN_ROOM).await;
        let mut ann = nodes.join(0, "ann").await;
        ann.say(IN_ROOM).await;
        tokio::time::sleep(A_MOMENT).await;
        (nodes, ann, eve)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_plugin_was_not_told_when_its_node_died_a_survivor_tells() {
    let (nodes, ann, eve) = Nodes::with_ann_and_eve().await;
    *nodes.board.fails_at.lock() = Some(0);
    drop(ann);
    tokio::time::sleep(A_MOMENT).await;
    assert_eq!(left(&eve), ["ann"]);
    assert_eq!(nodes.num_told(), [0, 0, 0]);
    nodes.cut(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(nodes.num_told(), [1, 1, 1]);
    assert_eq!(
        left(&eve),
        ["ann"],
        "of what was told before nothing is told again"
    );
    let lines_and_users = nodes.ends[1].num_lines_and_users();
    // The witness, and her seat.
    assert_eq!(lines_and_users, (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_plugin_takes_is_told_once_and_its_lines_go() {
    let (nodes, mut ann, eve) = Nodes::with_ann_and_eve().await;
    *nodes.board.takes.lock() = Duration::from_secs(10);
    ann.say(r#"{"id":3,"unsubscribe":{"channel":"seen:room"}}"#)
        .await;
    tokio::time::sleep(A_MOMENT).await;
    // Her session, and the seat that the plugin has not heard of; and the witness'.
    assert_eq!(nodes.ends[0].num_lines_and_users(), (4, 2));
    // She takes it again: it is another one.
    ann.say(IN_ROOM).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(nodes.ends[0].num_lines_and_users(), (4, 2));
    drop(ann);
    tokio::time::sleep(A_ROUND).await;
    assert_eq!(nodes.num_told(), [2, 1, 1]);
    assert_eq!(left(&eve), ["ann", "ann"]);
    assert_eq!(nodes.ends[0].num_lines_and_users(), (2, 1));
    let events = nodes.board.events.lock();
    let mut ids: Vec<_> = events.iter().map(|event| event.id.to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "each is an event of its own");
}

#[tokio::test(start_paused = true)]
async fn a_leave_that_could_not_be_published_is_told_when_it_can() {
    let (nodes, ann, eve) = Nodes::with_ann_and_eve().await;
    nodes.board.leaves_fail.store(true, Ordering::Relaxed);
    drop(ann);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&eve), Vec::<String>::new());
    nodes.board.leaves_fail.store(false, Ordering::Relaxed);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&eve), ["ann"]);
    assert_eq!(nodes.ends[0].num_lines_and_users(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_leave_that_a_node_could_not_publish_before_it_died_a_survivor_tells() {
    let (nodes, ann, eve) = Nodes::with_ann_and_eve().await;
    nodes.board.leaves_fail.store(true, Ordering::Relaxed);
    drop(ann);
    tokio::time::sleep(A_MOMENT).await;
    nodes.cut(0);
    nodes.board.leaves_fail.store(false, Ordering::Relaxed);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&eve), ["ann"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_only_the_directory_has_is_ended() {
    let nodes = Nodes::new(2).await;
    let (end, node) = (&nodes.ends[0], nodes.node(0));
    let peer = Peer {
        user: "ghost".into(),
        ..Peer::clone(&crate::test_wire::peer())
    };
    let app = AppId::default_app();
    let value = encode_session(&app, (&peer, 1), node.uid(), 1);
    let user = User {
        app,
        name: "ghost".into(),
    };
    let came = Change::Came {
        client: peer.client,
        value: value.clone(),
        answer: Answer::Known,
    };
    let record = Record {
        slot: Slot::Session(peer.client),
        value,
    };
    let uid = NodeUid::parse(node.uid()).unwrap();
    end.write(&uid, vec![record]).wait().await.unwrap();
    end.change(vec![(user, came)]).wait().await;
    assert_eq!(nodes.sessions(1, "ghost").await.sessions.len(), 1);
    let _ann = nodes.join(0, "ann").await;
    tokio::time::sleep(A_ROUND).await;
    assert_eq!(nodes.sessions(1, "ghost").await.sessions.len(), 0);
    assert_eq!(
        nodes.board.kinds_of("ghost"),
        [EventKind::Disconnected, EventKind::Offline]
    );
    assert_eq!(nodes.ends[0].num_lines_and_users(), (1, 1));
    assert_eq!(nodes.board.kinds_of("ann"), [EventKind::Online]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_lost_a_part_unseen_gets_it_again() {
    let nodes = Nodes::new(2).await;
    let _ann = nodes.join(0, "ann").await;
    let bob = nodes.join(0, "bob").await;
    tokio::time::sleep(A_MOMENT).await;
    drop(bob);
    tokio::time::sleep(A_MOMENT).await;
    // A replica that lags takes over: it does not know of ann yet, nor that bob has gone.
    let directory = &nodes.ends[0];
    let user = User {
        app: AppId::default_app(),
        name: "bob".into(),
    };
    let gone = nodes.board.events.lock().iter().find_map(|event| {
        let is_end = event.kind == EventKind::Disconnected && &*event.user == "bob";
        event.client.filter(|_| is_end)
    });
    let ghost = Change::Came {
        client: gone.unwrap(),
        value: "{}".into(),
        answer: Answer::Known,
    };
    directory.clear_users();
    directory.change(vec![(user, ghost)]).wait().await;
    directory.lapse();
    tokio::time::sleep(A_MOMENT * 4).await;
    assert_eq!(nodes.sessions(1, "ann").await.sessions.len(), 1);
    assert_eq!(directory.num_lines_and_users(), (1, 1), "ann alone");
}

#[tokio::test(start_paused = true)]
async fn a_survivor_whose_plugins_take_long_is_the_only_one() {
    let nodes = Nodes::new(3).await;
    let mut dead = Vec::new();
    for user in ["ann", "bob", "cleo"] {
        dead.push(nodes.join(0, user).await);
    }
    tokio::time::sleep(A_MOMENT).await;
    // Much longer than the lease is taken for.
    *nodes.board.takes.lock() = Duration::from_secs(50);
    nodes.cut(0);
    tokio::time::sleep(A_WHILE * 4).await;
    assert_eq!(nodes.num_told(), [0, 3, 3]);
    assert_eq!(nodes.ends[1].num_lines_and_users(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_slept_is_heard_of_before_it_writes() {
    // Whatever comes first, its heartbeat or the next try to write.
    for phase in 0..6 {
        let nodes = Nodes::new(2).await;
        nodes.cut(0);
        // Condemned, and its empty book closed.
        tokio::time::sleep(A_WHILE).await;
        let _ann = nodes.join(0, "ann").await;
        tokio::time::sleep(phase * Duration::from_millis(500)).await;
        let directory = &nodes.ends[1];
        let uid = NodeUid::parse(nodes.node(0).uid()).unwrap();
        nodes.mend(0);
        // The first line finds the book of a node that is known again.
        while directory.num_lines_and_users().0 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let retired = directory.retire(&uid).wait().await;
        assert_eq!(retired, Ok(false), "it was heard of: phase {phase}");
    }
}
