//! What every directory is held to, wherever it keeps its books.
//!
//! One function per promise of [`Directory`]; an implementation's tests call [`check_all`]. Compiled for tests and with
//! the feature `testing`.

mod users;

use std::time::Duration;

use bytes::Bytes;

use super::{
    Answer, BATCH, Beat, Change, Directory, Moment, Page, Record, Slot, Standing, Turn, User,
};
use crate::{
    cluster::NodeUid,
    ids::{AppId, ChannelKey, ClientId},
};

/// Lines of a book that no store may lose any of.
const THICK: usize = 2_000;

struct Subject<'a> {
    directory: &'a dyn Directory,
    silent_for: Duration,
    prefix: &'a str,
}

/// Runs every check. `silent_for` is a silence that the checks wait for, long enough for some answers to come within
/// it; `prefix` keeps runs on a shared store apart. Leaves no book and no user behind.
pub async fn check_all(directory: &dyn Directory, silent_for: Duration, prefix: &str) {
    let subject = Subject {
        directory,
        silent_for,
        prefix,
    };
    subject.the_first_and_the_last_session_are_told().await;
    subject.who_is_away_for_a_moment_is_still_there().await;
    subject.a_change_made_again_is_answered_as_before().await;
    subject.what_is_made_again_late_undoes_nothing().await;
    subject.moments_rise_with_each_coming_and_going().await;
    subject
        .what_a_dead_node_lost_is_told_until_it_was_heard()
        .await;
    subject.sessions_are_as_they_were_entered().await;
    subject.users_and_apps_are_apart().await;
    subject.a_book_has_what_was_written().await;
    subject.a_thick_book_is_read_to_the_last_line().await;
    subject.what_was_written_anew_is_not_erased().await;
    subject.a_silent_node_is_condemned_and_hears_of_it().await;
    subject.a_node_that_comes_back_is_condemned_no_more().await;
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn came(client: ClientId) -> Change {
    Change::Came {
        client,
        value: value("somewhere"),
        answer: Answer::Known,
    }
}

impl Subject<'_> {
    fn user(&self, name: &str) -> User {
        self.user_in("default", name)
    }

    fn user_in(&self, app: &str, name: &str) -> User {
        User {
            app: AppId::parse(app).expect("an app id"),
            name: format!("{}{name}", self.prefix).into(),
        }
    }

    async fn change(&self, user: &User, change: Change) -> Turn {
        let turns = self.directory.change(vec![(user.clone(), change)]).wait();
        let turns = turns.await;
        assert_eq!(turns.len(), 1);
        turns[0].clone().expect("a change")
    }

    async fn first(&self, user: &User, change: Change) -> Moment {
        match self.change(user, change.clone()).await {
            Turn::First(moment) => moment,
            turn @ (Turn::Neither | Turn::Last(_)) => panic!("the first, not {turn:?}: {change:?}"),
        }
    }

    async fn last(&self, user: &User, change: Change) -> Moment {
        match self.change(user, change.clone()).await {
            Turn::Last(moment) => moment,
            turn @ (Turn::Neither | Turn::First(_)) => panic!("the last, not {turn:?}: {change:?}"),
        }
    }

    async fn neither(&self, user: &User, change: Change) {
        let turn = self.change(user, change.clone()).await;
        assert_eq!(turn, Turn::Neither, "{change:?}");
    }

    async fn sessions(&self, user: &User) -> Vec<Bytes> {
        let found = self.directory.sessions(user, 100).wait().await;
        let mut found = found.expect("sessions");
        found.sort();
        found
    }

    async fn beat(&self, node: &NodeUid) -> Beat {
        let beat = self.directory.beat(node, self.silent_for).wait().await;
        beat.expect("beat")
    }

    async fn condemn(&self, node: &NodeUid, silent_for: Duration) -> bool {
        let condemned = self.directory.condemn(node, silent_for).wait().await;
        condemned.expect("condemn")
    }

    async fn retire(&self, node: &NodeUid) -> bool {
        self.directory.retire(node).wait().await.expect("retire")
    }

    async fn write(&self, node: &NodeUid, records: &[Record]) {
        for some in records.chunks(BATCH) {
            let written = self.directory.write(node, some.to_vec()).wait().await;
            written.expect("write");
        }
    }

    async fn strike(&self, node: &NodeUid, slots: Vec<Slot>) {
        let struck = self.directory.strike(node, slots).wait().await;
        struck.expect("strike");
    }

    async fn erase(&self, node: &NodeUid, records: &[Record]) {
        let page = Page {
            records: records.to_vec(),
            ..Page::default()
        };
        let erased = self.directory.erase(node, page).wait().await;
        erased.expect("erase");
    }

    /// The whole book; what is named twice is there once.
    async fn book(&self, node: &NodeUid) -> Vec<Record> {
        let mut found = Vec::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let page = self.directory.read(node, at).wait().await;
            let page = page.expect("a page");
            assert_eq!(page.foreign, Vec::<Bytes>::new());
            found.extend(page.records);
            from = page.next;
        }
        found.sort_by(|one, other| one.slot.cmp(&other.slot));
        found.dedup();
        found
    }

    async fn sessions_are_as_they_were_entered(&self) {
        let ann = self.user("entered");
        assert_eq!(self.sessions(&ann).await, Vec::<Bytes>::new());
        let texts = ["{\"a\":1}", "", "\u{0}\r\n%"];
        let clients = texts.map(|text| {
            let client = ClientId::random();
            (client, value(text))
        });
        for (client, value) in clients.clone() {
            let answer = Answer::Known;
            let came = Change::Came {
                client,
                value,
                answer,
            };
            self.change(&ann, came).await;
        }
        let mut expected = texts.map(value);
        expected.sort();
        assert_eq!(self.sessions(&ann).await, expected);
        let some = self.directory.sessions(&ann, 2).wait().await;
        assert_eq!(some.expect("sessions").len(), 2);
        for (client, _) in clients {
            self.change(&ann, Change::Left { client }).await;
        }
        // More than are read at once.
        let crowd: Vec<_> = (0..700).map(|_| ClientId::random()).collect();
        for some in crowd.chunks(BATCH) {
            let changes = some.iter().map(|client| {
                let value = Bytes::from(client.to_string());
                let came = Change::Came {
                    client: *client,
                    value,
                    answer: Answer::Known,
                };
                (ann.clone(), came)
            });
            self.directory.change(changes.collect()).wait().await;
        }
        let found = self.directory.sessions(&ann, 1_000).wait().await;
        let mut found = found.expect("sessions");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), crowd.len());
        for some in crowd.chunks(BATCH) {
            let changes = some
                .iter()
                .map(|client| (ann.clone(), Change::Left { client: *client }));
            self.directory.change(changes.collect()).wait().await;
        }
        assert_eq!(self.sessions(&ann).await, Vec::<Bytes>::new());
    }

    async fn users_and_apps_are_apart(&self) {
        let users = [
            self.user_in("one", "same"),
            self.user_in("two", "same"),
            self.user_in("one", "{same}"),
        ];
        let client = ClientId::random();
        for user in &users {
            self.first(user, came(client)).await;
        }
        for user in &users {
            let left = Change::Left { client };
            self.last(user, left).await;
        }
    }

    async fn a_book_has_what_was_written(&self) {
        let (node, other) = (NodeUid::random(), NodeUid::random());
        let client = ClientId::random();
        let key = ChannelKey::new(&AppId::default_app(), "a{/}b");
        let record = |slot: &Slot, text: &str| Record {
            slot: slot.clone(),
            value: value(text),
        };
        let (session, seat) = (Slot::Session(client), Slot::Seat(key, client));
        self.write(&node, &[record(&session, "here"), record(&seat, "")])
            .await;
        self.write(&other, &[record(&session, "there")]).await;
        assert_eq!(
            self.book(&node).await,
            [record(&session, "here"), record(&seat, "")]
        );
        self.write(&node, &[record(&seat, "new")]).await;
        self.strike(&node, vec![session.clone()]).await;
        assert_eq!(self.book(&node).await, [record(&seat, "new")]);
        assert_eq!(self.book(&other).await, [record(&session, "there")]);
        self.strike(&node, vec![seat, session.clone()]).await;
        self.strike(&other, vec![session]).await;
        assert_eq!(self.book(&node).await, []);
        assert_eq!(self.book(&other).await, []);
    }

    async fn a_thick_book_is_read_to_the_last_line(&self) {
        let node = NodeUid::random();
        let mut records: Vec<_> = (0..THICK)
            .map(|index| Record {
                slot: Slot::Session(ClientId::random()),
                value: Bytes::from(format!("a value of more than a few bytes: {index:0100}")),
            })
            .collect();
        self.write(&node, &records).await;
        records.sort_by(|one, other| one.slot.cmp(&other.slot));
        assert_eq!(self.book(&node).await, records);
        // Erased page by page while it is read, nothing stays.
        loop {
            let page = self.directory.read(&node, 0).wait().await;
            let page = page.expect("a page");
            if page.records.is_empty() && page.next.is_none() {
                break;
            }
            self.erase(&node, &page.records).await;
            let mut from = page.next;
            while let Some(at) = from {
                let page = self.directory.read(&node, at).wait().await;
                let page = page.expect("a page");
                self.erase(&node, &page.records).await;
                from = page.next;
            }
        }
        assert_eq!(self.book(&node).await, []);
    }

    async fn what_was_written_anew_is_not_erased(&self) {
        let node = NodeUid::random();
        let slot = Slot::Session(ClientId::random());
        let record = |text: &str| Record {
            slot: slot.clone(),
            value: value(text),
        };
        self.write(&node, &[record("before")]).await;
        self.write(&node, &[record("after")]).await;
        self.erase(&node, &[record("before")]).await;
        assert_eq!(self.book(&node).await, [record("after")]);
        self.erase(&node, &[record("after")]).await;
        assert_eq!(self.book(&node).await, []);
        self.erase(&node, &[record("after")]).await;
    }

    async fn a_silent_node_is_condemned_and_hears_of_it(&self) {
        let (dead, alive) = (NodeUid::random(), NodeUid::random());
        assert!(!self.condemn(&dead, Duration::ZERO).await, "not known");
        assert_eq!(self.beat(&dead).await.standing, Standing::Unknown);
        assert_eq!(self.beat(&dead).await.standing, Standing::Known);
        assert!(!self.condemn(&dead, Duration::from_secs(600)).await);
        assert!(!self.retire(&dead).await, "it lives");
        let record = Record {
            slot: Slot::Session(ClientId::random()),
            value: value("x"),
        };
        self.write(&dead, std::slice::from_ref(&record)).await;
        assert!(!self.beat(&alive).await.overdue.contains(&dead));
        tokio::time::sleep(self.silent_for + self.silent_for / 4).await;
        let beat = self.beat(&alive).await;
        assert!(beat.overdue.contains(&dead) && !beat.overdue.contains(&alive));
        for _ in 0..2 {
            assert!(self.condemn(&dead, self.silent_for).await);
            assert!(self.beat(&alive).await.overdue.contains(&dead));
        }
        assert!(!self.retire(&dead).await, "its book is not empty");
        self.erase(&dead, &[record]).await;
        assert!(self.retire(&dead).await);
        assert!(self.retire(&dead).await);
        assert!(!self.beat(&alive).await.overdue.contains(&dead));
        // It was not dead after all.
        assert_eq!(self.beat(&dead).await.standing, Standing::Condemned);
        assert_eq!(self.beat(&dead).await.standing, Standing::Known);
        for node in [&dead, &alive] {
            // One that stops takes leave so.
            assert!(self.condemn(node, Duration::ZERO).await);
            assert!(self.retire(node).await);
        }
    }

    async fn a_node_that_comes_back_is_condemned_no_more(&self) {
        let node = NodeUid::random();
        self.beat(&node).await;
        assert!(self.condemn(&node, Duration::ZERO).await);
        assert_eq!(self.beat(&node).await.standing, Standing::Condemned);
        assert!(!self.condemn(&node, Duration::from_secs(600)).await);
        assert!(!self.retire(&node).await);
        assert!(self.condemn(&node, Duration::ZERO).await);
        assert!(self.retire(&node).await);
    }
}
