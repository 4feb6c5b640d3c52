//! When a user comes and goes: who is the first, who the last, and what a change is answered that is made again.

use bytes::Bytes;

use super::{Answer, Change, ClientId, Subject, Turn, came, value};

fn left(client: ClientId) -> Change {
    Change::Left { client }
}

fn away(client: ClientId) -> Change {
    Change::Away { client }
}

fn settle(client: ClientId) -> Change {
    Change::Settle { client }
}

fn lost(client: ClientId, text: &str) -> Change {
    let value = value(text);
    Change::Lost { client, value }
}

/// The change that is made when the answer to this one did not come.
fn again(change: Change) -> Change {
    match change {
        Change::Came { client, value, .. } => Change::Came {
            client,
            value,
            answer: Answer::Missing,
        },
        Change::Left { .. } | Change::Away { .. } | Change::Settle { .. } | Change::Lost { .. } => {
            change
        }
    }
}

impl Subject<'_> {
    pub(super) async fn the_first_and_the_last_session_are_told(&self) {
        let ann = self.user("ann");
        let (one, two) = (ClientId::random(), ClientId::random());
        self.first(&ann, came(one)).await;
        self.neither(&ann, came(two)).await;
        // Entered anew, it is not another one.
        self.neither(&ann, came(one)).await;
        self.neither(&ann, left(one)).await;
        self.last(&ann, left(two)).await;
        // Several in one call, in their order.
        let changes = [came(one), left(one), came(two), left(one), left(two)];
        let changes = changes.map(|change| (ann.clone(), change));
        let turns = self.directory.change(changes.into()).wait().await;
        let turns: Vec<_> = turns.into_iter().map(Result::unwrap).collect();
        assert!(
            matches!(
                turns[..],
                [
                    Turn::First(_),
                    Turn::Last(_),
                    Turn::First(_),
                    Turn::Neither,
                    Turn::Last(_)
                ]
            ),
            "{turns:?}"
        );
    }

    pub(super) async fn who_is_away_for_a_moment_is_still_there(&self) {
        let ann = self.user("moment");
        let (one, two) = (ClientId::random(), ClientId::random());
        self.first(&ann, came(one)).await;
        self.last(&ann, away(one)).await;
        assert_eq!(self.sessions(&ann).await, Vec::<Bytes>::new());
        self.neither(&ann, came(two)).await;
        self.neither(&ann, settle(one)).await;
        self.last(&ann, away(two)).await;
        // Whoever was away before has nothing to end any more.
        self.neither(&ann, settle(one)).await;
        self.last(&ann, settle(two)).await;
        self.first(&ann, came(one)).await;
        self.last(&ann, left(one)).await;
    }

    /// A store that did what it was asked, and whose answer was lost on the way, must not be why nobody is told.
    pub(super) async fn a_change_made_again_is_answered_as_before(&self) {
        let ann = self.user("again");
        let (one, two) = (ClientId::random(), ClientId::random());
        let steps = [
            came(one),
            came(two),
            left(one),
            left(two),
            came(one),
            away(one),
            settle(one),
            came(two),
            lost(two, "elsewhere"),
            lost(two, "somewhere"),
            came(one),
            away(one),
            lost(one, "somewhere"),
            settle(one),
        ];
        let mut num_told = 0;
        for step in steps {
            let turn = self.change(&ann, step.clone()).await;
            num_told += usize::from(turn != Turn::Neither);
            for _ in 0..2 {
                let answer = self.change(&ann, again(step.clone())).await;
                assert_eq!(answer, turn, "{step:?}");
            }
        }
        assert_eq!(num_told, 11);
        assert_eq!(self.sessions(&ann).await, Vec::<Bytes>::new());
        // Of a user of whom nothing is known any more it is told, too: that they came was.
        let bob = self.user("forgotten");
        self.last(&bob, left(one)).await;
        let cleo = self.user("settled");
        self.last(&cleo, settle(one)).await;
    }

    pub(super) async fn what_is_made_again_late_undoes_nothing(&self) {
        let ann = self.user("late");
        let (one, two) = (ClientId::random(), ClientId::random());
        self.first(&ann, came(one)).await;
        let gone = self.last(&ann, left(one)).await;
        let back = self.first(&ann, came(two)).await;
        for late in [left(one), away(one), settle(one), lost(one, "somewhere")] {
            self.neither(&ann, late).await;
        }
        assert_eq!(self.sessions(&ann).await.len(), 1);
        let gone_again = self.last(&ann, left(two)).await;
        assert!(gone < back && back < gone_again);
        // It is another's end that was told.
        for late in [left(one), away(one), settle(one), lost(one, "somewhere")] {
            self.neither(&ann, late).await;
        }
    }

    pub(super) async fn moments_rise_with_each_coming_and_going(&self) {
        let ann = self.user("rising");
        let mut before = None;
        for _ in 0..20 {
            let client = ClientId::random();
            let came = self.first(&ann, came(client)).await;
            let gone = self.last(&ann, left(client)).await;
            assert!(before < Some(came) && came < gone);
            before = Some(gone);
        }
        let before = before.expect("a moment");
        assert!(
            before.unix_millis() > 1_600_000_000_000,
            "it is a time: {before:?}"
        );
    }

    pub(super) async fn what_a_dead_node_lost_is_told_until_it_was_heard(&self) {
        let ann = self.user("lost");
        let (one, two) = (ClientId::random(), ClientId::random());
        self.first(&ann, came(one)).await;
        self.neither(&ann, came(two)).await;
        self.neither(&ann, lost(one, "somewhere")).await;
        assert_eq!(self.sessions(&ann).await.len(), 1);
        // Entered anew meanwhile, it is not lost.
        self.neither(&ann, lost(two, "before")).await;
        assert_eq!(self.sessions(&ann).await.len(), 1);
        let gone = self.last(&ann, lost(two, "somewhere")).await;
        // Whoever was told of it first may have died.
        assert_eq!(self.last(&ann, lost(two, "somewhere")).await, gone);
        self.neither(&ann, lost(one, "somewhere")).await;
        // Away when its node died.
        self.first(&ann, came(one)).await;
        self.last(&ann, away(one)).await;
        self.last(&ann, lost(one, "somewhere")).await;
    }
}
