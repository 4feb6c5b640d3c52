//! What every presence store is held to, whatever it keeps its members in.
//!
//! One function per promise of [`Presence`]; an implementation's tests call [`check_all`] with the store and its
//! TTL. Compiled for tests and with the feature `testing`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Member, Members, Presence, PresenceStats, Present};
use crate::ids::{AppId, ChannelKey, ClientId};

/// Members of the crowd that no store may lose anybody of.
const CROWD: usize = 3_000;

struct Subject<'a> {
    presence: &'a dyn Presence,
    ttl: Duration,
    prefix: &'a str,
}

/// Runs every check. `ttl` is the store's, short enough to wait for; `prefix` keeps runs on a shared store apart.
/// Leaves nobody behind.
pub async fn check_all(presence: &dyn Presence, ttl: Duration, prefix: &str) {
    let subject = Subject {
        presence,
        ttl,
        prefix,
    };
    subject.an_empty_channel_has_nobody().await;
    subject.members_come_and_go_as_they_are().await;
    subject
        .users_are_counted_once_and_the_anonymous_are_one()
        .await;
    subject.adding_again_replaces().await;
    subject.a_limit_leaves_out_and_says_so().await;
    subject.channels_and_apps_are_apart().await;
    subject.a_crowd_is_there_to_the_last().await;
    subject
        .who_is_not_refreshed_ends_and_who_is_does_not()
        .await;
    subject.a_refresh_brings_back_what_was_lost().await;
}

fn member(user: &str) -> Arc<Member> {
    Arc::new(Member {
        client: ClientId::random(),
        user: user.into(),
        conn_info: "{\"name\":\"Ann\"}".into(),
        chan_info: "".into(),
    })
}

fn stats(num_clients: usize, num_users: usize) -> PresenceStats {
    PresenceStats {
        num_clients,
        num_users,
    }
}

impl Subject<'_> {
    fn key(&self, name: &str) -> ChannelKey {
        self.key_in("default", name)
    }

    fn key_in(&self, app: &str, name: &str) -> ChannelKey {
        let app = AppId::parse(app).expect("an app id");
        ChannelKey::new(&app, &format!("{}{name}", self.prefix))
    }

    async fn add(&self, key: &ChannelKey, member: &Arc<Member>) {
        let answer = self.presence.add(key, member).wait().await;
        answer.expect("add");
    }

    async fn remove(&self, key: &ChannelKey, member: &Member) {
        let answer = self.presence.remove(key, member.client).wait().await;
        answer.expect("remove");
    }

    async fn refresh(&self, key: &ChannelKey, members: &[Arc<Member>]) {
        let members = members.iter().map(|member| Present {
            key: key.clone(),
            member: Arc::clone(member),
        });
        let answer = self.presence.refresh(members.collect()).wait().await;
        answer.expect("refresh");
    }

    async fn members(&self, key: &ChannelKey, limit: usize) -> Members {
        let answer = self.presence.members(key, limit).wait().await;
        answer.expect("members")
    }

    async fn stats(&self, key: &ChannelKey) -> PresenceStats {
        self.presence.stats(key).wait().await.expect("stats")
    }

    /// That these are in the channel and nobody else, by both ways of asking.
    async fn check(&self, key: &ChannelKey, expected: &[Arc<Member>]) {
        let found = self.members(key, expected.len() + 10).await;
        assert!(found.is_whole);
        assert_eq!(found.members.len(), expected.len(), "nobody is there twice");
        let by_client = |members: &[Arc<Member>]| -> BTreeMap<ClientId, Member> {
            let members = members.iter().map(|member| Member::clone(member));
            members.map(|member| (member.client, member)).collect()
        };
        assert_eq!(by_client(&found.members), by_client(expected));
        let users: BTreeSet<_> = expected.iter().map(|member| &member.user).collect();
        assert_eq!(self.stats(key).await, stats(expected.len(), users.len()));
    }

    async fn an_empty_channel_has_nobody(&self) {
        let key = self.key("empty");
        self.check(&key, &[]).await;
        self.remove(&key, &member("ann")).await;
        self.check(&key, &[]).await;
    }

    async fn members_come_and_go_as_they_are(&self) {
        let key = self.key("go");
        let plain = Arc::new(Member {
            conn_info: "".into(),
            chan_info: "{\"role\":\"host\"}".into(),
            ..Member::clone(&member("bob"))
        });
        let ann = member("ann");
        self.add(&key, &ann).await;
        self.check(&key, &[Arc::clone(&ann)]).await;
        self.add(&key, &plain).await;
        self.check(&key, &[Arc::clone(&ann), Arc::clone(&plain)])
            .await;
        self.remove(&key, &ann).await;
        self.check(&key, &[Arc::clone(&plain)]).await;
        self.remove(&key, &ann).await;
        self.check(&key, &[Arc::clone(&plain)]).await;
        self.remove(&key, &plain).await;
        self.check(&key, &[]).await;
    }

    async fn users_are_counted_once_and_the_anonymous_are_one(&self) {
        let key = self.key("users");
        let members = ["ann", "ann", "bob", "", ""].map(member);
        for member in &members {
            self.add(&key, member).await;
        }
        assert_eq!(self.stats(&key).await, stats(5, 3));
        self.remove(&key, &members[0]).await;
        assert_eq!(self.stats(&key).await, stats(4, 3));
        self.remove(&key, &members[1]).await;
        assert_eq!(self.stats(&key).await, stats(3, 2));
        self.remove(&key, &members[3]).await;
        self.remove(&key, &members[4]).await;
        self.check(&key, &[Arc::clone(&members[2])]).await;
        self.remove(&key, &members[2]).await;
    }

    async fn adding_again_replaces(&self) {
        let key = self.key("again");
        let ann = member("ann");
        self.add(&key, &ann).await;
        self.add(&key, &ann).await;
        self.check(&key, &[Arc::clone(&ann)]).await;
        let renamed = Arc::new(Member {
            conn_info: "{\"name\":\"Anna\"}".into(),
            ..Member::clone(&ann)
        });
        self.add(&key, &renamed).await;
        self.check(&key, &[Arc::clone(&renamed)]).await;
        self.refresh(&key, &[Arc::clone(&ann)]).await;
        self.check(&key, &[Arc::clone(&ann)]).await;
        self.remove(&key, &ann).await;
        self.check(&key, &[]).await;
    }

    async fn a_limit_leaves_out_and_says_so(&self) {
        let key = self.key("limit");
        let members = ["a", "b", "c"].map(member);
        for member in &members {
            self.add(&key, member).await;
        }
        for (limit, is_whole) in [(1, false), (2, false), (3, true), (4, true)] {
            let found = self.members(&key, limit).await;
            assert_eq!(found.members.len(), limit.min(3));
            assert_eq!(found.is_whole, is_whole, "limit {limit}");
        }
        for member in &members {
            self.remove(&key, member).await;
        }
    }

    async fn channels_and_apps_are_apart(&self) {
        let keys = [
            self.key_in("one", "same"),
            self.key_in("two", "same"),
            self.key_in("one", "other"),
        ];
        let ann = member("ann");
        self.add(&keys[0], &ann).await;
        self.check(&keys[0], &[Arc::clone(&ann)]).await;
        self.check(&keys[1], &[]).await;
        self.check(&keys[2], &[]).await;
        self.add(&keys[2], &ann).await;
        self.remove(&keys[0], &ann).await;
        self.check(&keys[0], &[]).await;
        self.check(&keys[2], &[Arc::clone(&ann)]).await;
        self.remove(&keys[2], &ann).await;
    }

    async fn a_crowd_is_there_to_the_last(&self) {
        let key = self.key("crowd");
        let crowd: Vec<_> = (0..CROWD)
            .map(|index| member(&format!("u{}", index % 1000)))
            .collect();
        for some in crowd.chunks(super::roster::BATCH) {
            self.refresh(&key, some).await;
        }
        self.check(&key, &crowd).await;
        assert_eq!(self.stats(&key).await, stats(CROWD, 1000));
        for member in &crowd {
            self.remove(&key, member).await;
        }
        self.check(&key, &[]).await;
    }

    async fn who_is_not_refreshed_ends_and_who_is_does_not(&self) {
        let key = self.key("ends");
        let (stays, goes) = (member("stays"), member("goes"));
        self.add(&key, &stays).await;
        self.add(&key, &goes).await;
        let until = tokio::time::Instant::now() + self.ttl + self.ttl / 4;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(self.ttl / 8).await;
            self.refresh(&key, &[Arc::clone(&stays)]).await;
        }
        self.check(&key, &[Arc::clone(&stays)]).await;
        self.remove(&key, &stays).await;
    }

    async fn a_refresh_brings_back_what_was_lost(&self) {
        let key = self.key("back");
        let ann = member("ann");
        self.add(&key, &ann).await;
        self.remove(&key, &ann).await;
        self.refresh(&key, &[Arc::clone(&ann)]).await;
        self.check(&key, &[Arc::clone(&ann)]).await;
        self.remove(&key, &ann).await;
    }
}
