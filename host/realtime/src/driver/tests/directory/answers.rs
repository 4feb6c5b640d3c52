//! Answers of the directory that are lost on their way: what it did is told all the same, and once.

use super::*;

/// In which what was not answered is tried again at least twice.
const SOME_TRIES: Duration = Duration::from_secs(3);

impl Nodes {
    fn statuses_of(&self, user: &str) -> Vec<EventKind> {
        let mut kinds = self.board.kinds_of(user);
        kinds.retain(|kind| matches!(kind, EventKind::Online | EventKind::Offline));
        kinds
    }

    /// The ids and times of a user's comings and goings.
    fn marks_of(&self, user: &str) -> Vec<(crate::events::EventId, u64)> {
        let events = self.board.events.lock();
        let statuses = events.iter().filter(|event| {
            &*event.user == user && matches!(event.kind, EventKind::Online | EventKind::Offline)
        });
        statuses.map(|event| (event.id, event.at_ms)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_coming_and_a_going_that_were_not_answered_are_told() {
    let nodes = Nodes::new(2).await;
    nodes.ends[0].set_deaf(true);
    let ann = nodes.join(0, "ann").await;
    tokio::time::sleep(SOME_TRIES).await;
    assert_eq!(nodes.statuses_of("ann"), []);
    nodes.ends[0].set_deaf(false);
    tokio::time::sleep(SOME_TRIES).await;
    assert_eq!(nodes.statuses_of("ann"), [EventKind::Online]);
    nodes.ends[0].set_deaf(true);
    drop(ann);
    tokio::time::sleep(SOME_TRIES).await;
    assert_eq!(nodes.statuses_of("ann"), [EventKind::Online]);
    nodes.ends[0].set_deaf(false);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(
        nodes.statuses_of("ann"),
        [EventKind::Online, EventKind::Offline]
    );
    assert_eq!(nodes.ends[0].num_lines_and_users(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_grace_whose_end_was_not_answered_is_told() {
    let nodes = Nodes::new(2).await;
    let ann = nodes.join(0, "ann").await;
    tokio::time::sleep(SOME_TRIES).await;
    drop(ann);
    // The going is answered, the end of the grace is not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes.ends[0].set_deaf(true);
    tokio::time::sleep(SOME_TRIES).await;
    nodes.ends[0].set_deaf(false);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(
        nodes.statuses_of("ann"),
        [EventKind::Online, EventKind::Offline]
    );
    assert_eq!(nodes.ends[0].num_lines_and_users(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_survivor_tells_again_has_the_same_id_and_later_things_a_later_time() {
    let nodes = Nodes::new(2).await;
    let ann = nodes.join(0, "ann").await;
    tokio::time::sleep(SOME_TRIES).await;
    // The node that the session was on tells that the user went, and dies before it can take that down.
    let (bus, end) = (nodes.bus.clone(), nodes.ends[0].clone());
    let uid = nodes.node(0).uid().to_owned();
    let dies = move || {
        end.set_cut(true);
        bus.cut(&uid);
    };
    drop(ann);
    // Of the end of the session it has told by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    *nodes.board.when_told.lock() = Some((0, Box::new(dies)));
    tokio::time::sleep(A_WHILE).await;
    let _back = nodes.join(1, "ann").await;
    tokio::time::sleep(SOME_TRIES).await;
    let marks = nodes.marks_of("ann");
    let times: Vec<_> = marks.iter().map(|(_, at)| *at).collect();
    assert!(times.is_sorted(), "{marks:?}");
    let mut ids: Vec<_> = marks.iter().map(|(id, _)| *id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "here, gone, and here again: {marks:?}");
}
