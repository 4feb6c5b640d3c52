//! What every store is held to, whatever it keeps its keys in.
//!
//! One function per promise of [`Store`]; an implementation's tests call [`check_all`] with a store that has
//! [`QUOTAS`]. Compiled for tests and with the feature `testing`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    COUNTER_BYTES, KEY_BYTES, KEY_OVERHEAD, Life, Owner, Store, StoreError, StoreKey, StoreQuota,
    StoreQuotas, StoreValue, Swap, VALUE_BYTES,
};
use crate::ids::AppId;

/// The quotas that the store has to have: few keys, and room for three of the largest values.
pub const QUOTAS: StoreQuotas = StoreQuotas {
    keys: 40,
    bytes: 3 * (VALUE_BYTES + KEY_OVERHEAD + KEY_BYTES),
};

/// Who meets at one key.
const CROWD: usize = 50;

/// A key that no quota of a test meets.
const KEY: &str = "key";

struct Subject<'a> {
    store: &'a dyn Store,
    life: Duration,
    prefix: &'a str,
}

/// The keys of one check.
struct Place<'a> {
    store: &'a dyn Store,
    owner: Owner,
}

/// Runs every check. `life` is long enough for a few operations and short enough to wait for; `prefix` keeps runs on
/// a shared store apart. Leaves nothing behind.
pub async fn check_all(store: &dyn Store, life: Duration, prefix: &str) {
    let subject = Subject {
        store,
        life,
        prefix,
    };
    subject.what_is_not_there_is_nothing().await;
    subject.values_come_back_as_they_are().await;
    subject.a_change_depends_on_what_is_there().await;
    subject.of_many_who_expect_the_same_one_changes_it().await;
    subject
        .no_increment_is_lost_and_every_answer_is_its_own()
        .await;
    subject.counts_are_exact_and_stay_in_range().await;
    subject.a_key_holds_what_it_began_with().await;
    subject
        .what_is_over_is_gone_and_what_is_endless_is_not()
        .await;
    subject.a_counter_lives_from_its_beginning_on().await;
    subject.a_plugin_has_so_many_keys_and_no_more().await;
    subject.a_plugin_has_so_many_bytes_and_no_more().await;
    subject.what_is_over_makes_room().await;
    subject.owners_are_apart().await;
}

fn key(text: &str) -> StoreKey {
    StoreKey::parse(text).expect("a key")
}

fn value(bytes: impl Into<Bytes>) -> StoreValue {
    StoreValue::parse(bytes).expect("a value")
}

impl<'a> Subject<'a> {
    fn place(&self, plugin: &str) -> Place<'a> {
        self.place_in("default", plugin)
    }

    fn place_in(&self, app: &str, plugin: &str) -> Place<'a> {
        let app = AppId::parse(app).expect("an app id");
        Place {
            store: self.store,
            owner: Owner::new(&app, &format!("{}{plugin}", self.prefix)),
        }
    }

    fn short(&self) -> Life {
        Life::from_duration(self.life).expect("a life")
    }

    /// Until everything that has a short life is over.
    async fn outlive(&self) {
        tokio::time::sleep(self.life + self.life / 8).await;
    }
}

impl Place<'_> {
    async fn get(&self, name: &str) -> Option<Bytes> {
        self.try_get(name).await.expect("get")
    }

    async fn try_get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.store.get(&self.owner, &key(name)).wait().await
    }

    async fn set(&self, name: &str, bytes: impl Into<Bytes>, life: Life) {
        self.try_set(name, bytes, life).await.expect("set");
    }

    async fn try_set(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
        life: Life,
    ) -> Result<(), StoreError> {
        let set = self.store.set(&self.owner, &key(name), value(bytes), life);
        set.wait().await
    }

    async fn swap(&self, name: &str, expected: Option<&str>, bytes: &str) -> bool {
        let swapped = self.try_swap(name, expected, bytes, Life::Endless).await;
        swapped.expect("compare and set")
    }

    async fn try_swap(
        &self,
        name: &str,
        expected: Option<&str>,
        bytes: &str,
        life: Life,
    ) -> Result<bool, StoreError> {
        let swap = Swap {
            expected: expected.map(|expected| value(expected.to_owned())),
            value: value(bytes.to_owned()),
            life,
        };
        let swapped = self.store.compare_and_set(&self.owner, &key(name), swap);
        swapped.wait().await
    }

    async fn increment(&self, name: &str, by: i64) -> i64 {
        let count = self.try_increment(name, by, Life::Endless).await;
        count.expect("increment")
    }

    async fn try_increment(&self, name: &str, by: i64, life: Life) -> Result<i64, StoreError> {
        let count = self.store.increment(&self.owner, &key(name), by, life);
        count.wait().await
    }

    async fn count(&self, name: &str) -> i64 {
        self.try_count(name).await.expect("count")
    }

    async fn try_count(&self, name: &str) -> Result<i64, StoreError> {
        self.store.count(&self.owner, &key(name)).wait().await
    }

    async fn delete(&self, name: &str) -> bool {
        let deleted = self.store.delete(&self.owner, &key(name)).wait().await;
        deleted.expect("delete")
    }

    /// Takes everything away, and proves it by one key.
    async fn forget(&self, name: &str) {
        self.store.forget(&self.owner).wait().await.expect("forget");
        assert_eq!(self.get(name).await, None);
    }
}

impl Subject<'_> {
    async fn what_is_not_there_is_nothing(&self) {
        let place = self.place("nothing");
        assert_eq!(place.get(KEY).await, None);
        assert_eq!(place.count(KEY).await, 0);
        assert!(!place.delete(KEY).await);
        place.forget(KEY).await;
    }

    async fn values_come_back_as_they_are(&self) {
        let place = self.place("values");
        let largest = vec![0xff; VALUE_BYTES];
        let longest = "k".repeat(KEY_BYTES);
        for (name, bytes) in [
            (KEY, &b"text"[..]),
            ("{", b"\0\r\n v 1"),
            ("}:{a}", b"17"),
            ("ключ", b""),
            (" ", &largest),
            (&longest, b"v"),
        ] {
            place
                .set(name, Bytes::copy_from_slice(bytes), self.short())
                .await;
            let found = place.get(name).await;
            assert_eq!(found.as_deref(), Some(bytes), "{name}");
            place.set(name, "other", Life::Endless).await;
            assert_eq!(place.get(name).await.as_deref(), Some(&b"other"[..]));
            assert!(place.delete(name).await);
            assert_eq!(place.get(name).await, None);
            assert!(!place.delete(name).await);
        }
        place.forget(KEY).await;
    }

    async fn a_change_depends_on_what_is_there(&self) {
        let place = self.place("swap");
        assert!(!place.swap(KEY, Some("one"), "two").await);
        assert!(
            !place.swap(KEY, Some(""), "two").await,
            "nothing is not empty"
        );
        assert_eq!(place.get(KEY).await, None);
        assert!(place.swap(KEY, None, "").await);
        assert!(!place.swap(KEY, None, "two").await, "empty is not nothing");
        assert!(place.swap(KEY, Some(""), "two").await);
        assert!(!place.swap(KEY, Some("tw"), "three").await);
        assert!(!place.swap(KEY, Some("two "), "three").await);
        assert_eq!(place.get(KEY).await.as_deref(), Some(&b"two"[..]));
        assert!(place.swap(KEY, Some("two"), "three").await);
        assert_eq!(place.get(KEY).await.as_deref(), Some(&b"three"[..]));
        place.forget(KEY).await;
    }

    async fn of_many_who_expect_the_same_one_changes_it(&self) {
        let place = self.place("race");
        for expected in [None, Some("0")] {
            if expected.is_some() {
                place.set(KEY, "0", Life::Endless).await;
            }
            let names: Vec<_> = (1..=CROWD).map(|number| number.to_string()).collect();
            let swaps = names.iter().map(|name| place.swap(KEY, expected, name));
            let swapped = join_all(swaps).await;
            let winners: Vec<_> = swapped
                .iter()
                .zip(&names)
                .filter(|(won, _)| **won)
                .collect();
            assert_eq!(winners.len(), 1, "{expected:?}");
            let found = place.get(KEY).await.expect("the winner's");
            assert_eq!(&found[..], winners[0].1.as_bytes());
        }
        place.forget(KEY).await;
    }

    async fn no_increment_is_lost_and_every_answer_is_its_own(&self) {
        let place = self.place("count");
        let mut counts = join_all((0..CROWD).map(|_| place.increment(KEY, 2))).await;
        counts.sort_unstable();
        let expected: Vec<_> = (1..=CROWD).map(|number| 2 * number as i64).collect();
        assert_eq!(counts, expected);
        assert_eq!(place.count(KEY).await, 2 * CROWD as i64);
        assert!(place.delete(KEY).await);
        assert_eq!(place.count(KEY).await, 0);
        assert_eq!(place.increment(KEY, -3).await, -3);
        place.forget(KEY).await;
    }

    async fn counts_are_exact_and_stay_in_range(&self) {
        let place = self.place("exact");
        let large = (1_i64 << 53) + 1;
        assert_eq!(place.increment(KEY, large).await, large);
        assert_eq!(place.increment(KEY, 1).await, large + 1);
        assert_eq!(place.count(KEY).await, large + 1);
        assert_eq!(place.increment(KEY, i64::MAX).await, i64::MAX);
        assert_eq!(place.increment(KEY, 1).await, i64::MAX);
        assert_eq!(place.increment(KEY, i64::MIN).await, -1);
        assert_eq!(place.increment(KEY, i64::MIN).await, i64::MIN);
        assert_eq!(place.increment(KEY, 0).await, i64::MIN);
        assert_eq!(place.count(KEY).await, i64::MIN);
        place.forget(KEY).await;
    }

    async fn a_key_holds_what_it_began_with(&self) {
        let place = self.place("kind");
        let endless = Life::Endless;
        place.increment("counter", 1).await;
        let holds_counter = StoreError::HoldsCounter;
        assert_eq!(place.try_get("counter").await, Err(holds_counter));
        assert_eq!(
            place.try_set("counter", "1", endless).await,
            Err(holds_counter)
        );
        for expected in [None, Some("1")] {
            let swapped = place.try_swap("counter", expected, "2", endless).await;
            assert_eq!(swapped, Err(holds_counter));
        }
        assert_eq!(place.count("counter").await, 1);
        place.set("value", "1", endless).await;
        let holds_value = StoreError::HoldsValue;
        assert_eq!(place.try_count("value").await, Err(holds_value));
        assert_eq!(
            place.try_increment("value", 1, endless).await,
            Err(holds_value)
        );
        assert_eq!(place.get("value").await.as_deref(), Some(&b"1"[..]));
        assert!(place.delete("value").await && place.delete("counter").await);
        assert_eq!(place.increment("value", 1).await, 1);
        place.set("counter", "1", endless).await;
        place.forget("counter").await;
    }

    async fn what_is_over_is_gone_and_what_is_endless_is_not(&self) {
        let place = self.place("ends");
        let short = self.short();
        place.set("goes", "1", short).await;
        assert!(place.try_swap("swapped", None, "1", short).await == Ok(true));
        assert_eq!(place.try_increment("counter", 7, short).await, Ok(7));
        place.set("stays", "1", Life::Endless).await;
        place.set("prolonged", "1", short).await;
        place.set("prolonged", "2", Life::Endless).await;
        place.set("shortened", "1", Life::Endless).await;
        place.set("shortened", "2", short).await;
        self.outlive().await;
        for name in ["goes", "swapped", "shortened"] {
            assert_eq!(place.get(name).await, None, "{name}");
            assert!(!place.delete(name).await, "{name}");
        }
        assert_eq!(place.count("counter").await, 0);
        assert_eq!(place.increment("counter", 1).await, 1);
        assert!(place.swap("goes", None, "again").await);
        assert_eq!(place.get("stays").await.as_deref(), Some(&b"1"[..]));
        assert_eq!(place.get("prolonged").await.as_deref(), Some(&b"2"[..]));
        place.forget("stays").await;
    }

    async fn a_counter_lives_from_its_beginning_on(&self) {
        let place = self.place("begins");
        let short = self.short();
        assert_eq!(place.try_increment(KEY, 1, short).await, Ok(1));
        let begun = tokio::time::Instant::now();
        let mut count = 1;
        // It ends although it is counted on without a pause longer than a part of its life.
        while place.try_increment(KEY, 1, short).await == Ok(count + 1) {
            count += 1;
            assert!(begun.elapsed() < 100 * self.life, "it does not end");
            tokio::time::sleep(self.life / 8).await;
        }
        assert!(begun.elapsed() >= self.life - self.life / 8);
        place.forget(KEY).await;
    }

    async fn a_plugin_has_so_many_keys_and_no_more(&self) {
        let place = self.place("keys");
        for number in 0..QUOTAS.keys {
            place.set(&format!("k{number}"), "1", Life::Endless).await;
        }
        let full = StoreError::Quota(StoreQuota::Keys);
        let endless = Life::Endless;
        assert_eq!(place.try_set("more", "1", endless).await, Err(full));
        assert_eq!(place.try_swap("more", None, "1", endless).await, Err(full));
        assert_eq!(place.try_increment("more", 1, endless).await, Err(full));
        assert_eq!(place.get("more").await, None);
        place.set("k0", "2", Life::Endless).await;
        assert!(place.delete("k1").await);
        assert_eq!(place.increment("more", 1).await, 1);
        assert_eq!(place.increment("more", 1).await, 2);
        place.forget("k0").await;
        place.set("more", "1", Life::Endless).await;
        place.forget("more").await;
    }

    async fn a_plugin_has_so_many_bytes_and_no_more(&self) {
        let place = self.place("bytes");
        let endless = Life::Endless;
        let largest = Bytes::from(vec![1; VALUE_BYTES]);
        for name in ["a", "b"] {
            place.set(name, largest.clone(), endless).await;
        }
        let used = 2 * (KEY_OVERHEAD + 1 + VALUE_BYTES);
        let left = QUOTAS.bytes - used;
        // One of exactly what is left fits, and one byte more does not.
        let fitting = left - 2 * KEY_OVERHEAD - 2 - COUNTER_BYTES;
        let fitting = fitting.min(VALUE_BYTES);
        let rest = left - (KEY_OVERHEAD + 1 + fitting);
        place.set("c", vec![2; fitting], endless).await;
        let filler = rest - KEY_OVERHEAD - 1;
        let full = StoreError::Quota(StoreQuota::Bytes);
        assert_eq!(
            place.try_set("d", vec![3; filler + 1], endless).await,
            Err(full)
        );
        place.set("d", vec![3; filler], endless).await;
        assert_eq!(place.try_increment("e", 1, endless).await, Err(full));
        assert_eq!(
            place.try_set("d", vec![4; filler + 1], endless).await,
            Err(full)
        );
        assert_eq!(place.get("d").await, Some(vec![3; filler].into()));
        place.set("d", vec![5; filler], endless).await;
        assert!(place.delete("c").await);
        assert_eq!(place.increment("e", 1).await, 1);
        place.forget("a").await;
    }

    async fn what_is_over_makes_room(&self) {
        let place = self.place("room");
        for number in 0..QUOTAS.keys {
            place.set(&format!("k{number}"), "1", self.short()).await;
        }
        self.outlive().await;
        for number in 0..QUOTAS.keys {
            place.set(&format!("n{number}"), "1", Life::Endless).await;
        }
        let full = StoreError::Quota(StoreQuota::Keys);
        let refused = place.try_set("more", "1", Life::Endless).await;
        assert_eq!(refused, Err(full));
        place.forget("n0").await;
    }

    async fn owners_are_apart(&self) {
        let places = [
            self.place_in("one", "same"),
            self.place_in("two", "same"),
            self.place_in("one", "other"),
        ];
        places[0].set(KEY, "0", Life::Endless).await;
        assert_eq!(places[1].get(KEY).await, None);
        assert_eq!(places[2].increment(KEY, 1).await, 1);
        places[1].set(KEY, "1", Life::Endless).await;
        places[0].forget(KEY).await;
        assert_eq!(places[1].get(KEY).await.as_deref(), Some(&b"1"[..]));
        assert_eq!(places[2].count(KEY).await, 1);
        places[1].forget(KEY).await;
        places[2].forget(KEY).await;
    }
}
