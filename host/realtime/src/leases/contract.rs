//! What all leases are held to, wherever they are kept.
//!
//! One function per promise of [`Leases`]; an implementation's tests call [`check_all`] with two holders of the same
//! leases. Compiled for tests and with the feature `testing`.

use std::sync::Arc;

use tokio::time::Duration;

use super::{Fence, LeaseName, Leases};
use crate::{cluster::NodeUid, ids::AppId};

/// Longer than any check takes.
const LONG: Duration = Duration::from_secs(600);

struct Subject<'a> {
    one: &'a dyn Leases,
    other: &'a dyn Leases,
    short: Duration,
}

/// Runs every check. `short` is a lease that the checks wait to end, twice; long enough for a few answers to come
/// within it. Leaves no lease behind.
pub async fn check_all(one: &dyn Leases, other: &dyn Leases, short: Duration) {
    let subject = Subject { one, other, short };
    subject.one_holder_at_a_time().await;
    subject.taking_again_renews().await;
    subject.only_the_holder_gives_back().await;
    subject.names_are_apart().await;
    subject.of_many_who_ask_at_once_one_is_given_it().await;
}

async fn take(leases: &dyn Leases, name: &LeaseName, for_: Duration) -> Option<Fence> {
    leases.take(name, for_).wait().await.expect("take")
}

async fn give_back(leases: &dyn Leases, name: &LeaseName, fence: Fence) {
    let given = leases.give_back(name, fence).wait().await;
    given.expect("give back");
}

fn dead_node() -> LeaseName {
    LeaseName::DeadNode(NodeUid::random())
}

impl Subject<'_> {
    async fn one_holder_at_a_time(&self) {
        let name = dead_node();
        let first = take(self.one, &name, LONG).await.expect("it is free");
        assert_eq!(take(self.other, &name, LONG).await, None);
        give_back(self.one, &name, first).await;
        let second = take(self.other, &name, LONG).await.expect("given back");
        assert!(second > first, "{second:?} after {first:?}");
        assert_eq!(take(self.one, &name, LONG).await, None);
        give_back(self.other, &name, second).await;
    }

    /// Also that one which was not renewed ends, and that its end is by the last renewal.
    async fn taking_again_renews(&self) {
        let name = dead_node();
        let first = take(self.one, &name, self.short).await.expect("free");
        assert_eq!(take(self.one, &name, LONG).await, Some(first));
        tokio::time::sleep(self.short + self.short / 4).await;
        assert_eq!(take(self.other, &name, LONG).await, None);
        assert_eq!(take(self.one, &name, self.short).await, Some(first));
        tokio::time::sleep(self.short + self.short / 4).await;
        let second = take(self.other, &name, LONG).await.expect("it has ended");
        assert!(second > first, "{second:?} after {first:?}");
        // Who held it and slept takes nothing away.
        give_back(self.one, &name, first).await;
        assert_eq!(take(self.one, &name, LONG).await, None);
        give_back(self.other, &name, second).await;
    }

    async fn only_the_holder_gives_back(&self) {
        let name = dead_node();
        let fence = take(self.one, &name, LONG).await.expect("it is free");
        give_back(self.other, &name, fence).await;
        give_back(self.one, &name, Fence::new(fence.number() + 1)).await;
        assert_eq!(take(self.other, &name, LONG).await, None);
        give_back(self.one, &name, fence).await;
        give_back(self.one, &name, fence).await;
        let again = take(self.one, &name, LONG).await.expect("free again");
        assert!(again > fence, "{again:?} after {fence:?}");
        give_back(self.one, &name, again).await;
    }

    async fn names_are_apart(&self) {
        let app = |id: &str| AppId::parse(id).expect("an app id");
        let plugin: Arc<str> = "a{b}c/d".into();
        let schedule = |app, period| LeaseName::Schedule {
            app,
            plugin: Arc::clone(&plugin),
            period,
        };
        let names = [
            schedule(app("one"), Duration::from_secs(60)),
            schedule(app("two"), Duration::from_secs(60)),
            schedule(app("one"), Duration::from_secs(1)),
            dead_node(),
        ];
        let mut fences = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let holder = if index % 2 == 0 { self.one } else { self.other };
            fences.push(take(holder, name, LONG).await.expect("it is free"));
        }
        for (index, (name, fence)) in names.iter().zip(fences).enumerate() {
            let holder = if index % 2 == 0 { self.one } else { self.other };
            give_back(holder, name, fence).await;
        }
    }

    async fn of_many_who_ask_at_once_one_is_given_it(&self) {
        for _ in 0..50 {
            let name = dead_node();
            let (one, other) = futures_util::future::join(
                take(self.one, &name, LONG),
                take(self.other, &name, LONG),
            )
            .await;
            match (one, other) {
                (Some(fence), None) => give_back(self.one, &name, fence).await,
                (None, Some(fence)) => give_back(self.other, &name, fence).await,
                both => panic!("one of them: {both:?}"),
            }
        }
    }
}
