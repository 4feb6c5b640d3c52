use serde_json::{Value, json};
use tidegate_sdk::{rpc::Verdict, testing::Host};

use super::*;

const NOON: u64 = 1_767_268_800_000;

fn event(kind: Kind, user: &str, after_ms: u64) -> Event {
    Event::new(kind)
        .with_user(user)
        .with_time_ms(NOON + after_ms)
}

/// What was published, as channel and status.
fn published(host: &Host) -> Vec<(String, String)> {
    let published = host.publications().into_iter().map(|publication| {
        let status: Status = serde_json::from_slice(&publication.data).unwrap();
        assert_eq!(publication.channel, format!("status:{}", status.user));
        (status.user, status.status)
    });
    published.collect()
}

/// The board of somebody who is a friend of this user and nobody else.
fn board(host: &mut Host, of: &str) -> Value {
    let settings = json!({ "circles": [[of, "friend"]] });
    let mut friend = std::mem::take(host).config(&settings).user("friend");
    let Ok(Verdict::Reply(reply)) = friend.call::<PresenceBoard>(METHOD, "") else {
        panic!("the method is known");
    };
    *host = friend;
    serde_json::from_slice(&reply).unwrap()
}

fn pair(user: &str, status: &str) -> (String, String) {
    (user.to_owned(), status.to_owned())
}

#[test]
fn who_comes_and_goes_is_told_in_their_own_channel() {
    let mut host = Host::new();
    let batch = vec![
        event(Kind::Online, "ann", 0),
        event(Kind::Online, "bob", 10),
        event(Kind::Offline, "ann", 20),
    ];
    host.handle::<PresenceBoard>(batch).unwrap();
    assert_eq!(
        published(&host),
        [pair("ann", "offline"), pair("bob", "online")]
    );
}

#[test]
fn what_is_told_twice_or_late_replaces_nothing_newer() {
    let mut host = Host::new();
    let offline = event(Kind::Offline, "ann", 10);
    let online = event(Kind::Online, "ann", 20);
    for (told, version) in [
        (&offline, 10),
        (&offline, 10),
        (&online, 20),
        (&offline, 10),
    ] {
        host.handle::<PresenceBoard>(vec![told.clone()]).unwrap();
        // The channel takes what is newer than what it has.
        assert_eq!(host.publications()[0].version, NOON + version);
    }
    assert_eq!(
        board(&mut host, "ann")[0]["status"],
        "online",
        "she is back"
    );
    // Within a batch, too.
    let batch = vec![
        event(Kind::Online, "bob", 5),
        event(Kind::Offline, "bob", 4),
    ];
    host.handle::<PresenceBoard>(batch).unwrap();
    assert_eq!(published(&host), [pair("bob", "online")]);
}

#[test]
fn words_of_two_nodes_that_have_not_heard_of_each_other_are_told_apart_by_their_times() {
    // What either wrote arrives here; of each key the last writer won.
    let mut host = Host::new();
    let online = event(Kind::Online, "ann", 20);
    let offline = event(Kind::Offline, "ann", 10);
    for words in [[&online, &offline], [&offline, &online]] {
        for word in words {
            host.handle::<PresenceBoard>(vec![word.clone()]).unwrap();
        }
        let known = board(&mut host, "ann");
        assert_eq!(
            known,
            json!([{ "user": "ann", "status": "online", "since_ms": NOON + 20 }])
        );
    }
}

#[test]
fn the_board_can_be_left_out() {
    let online = || vec![event(Kind::Online, "ann", 0)];
    let mut host = Host::new();
    host.handle::<PresenceBoard>(online()).unwrap();
    assert!(host.state(&key(Kind::Online, "ann")).is_some());
    let mut host = Host::new().config(json!({ "remember_hours": 0 }));
    host.handle::<PresenceBoard>(online()).unwrap();
    assert_eq!(published(&host), [pair("ann", "online")]);
    assert_eq!(host.state(&key(Kind::Online, "ann")), None);
}

#[test]
fn a_user_whose_name_no_channel_can_have_takes_nobody_elses_status_away() {
    let mut host = Host::new();
    let batch = vec![
        event(Kind::Online, "jos\u{e9}", 0),
        event(Kind::Online, "zoe", 0),
    ];
    host.handle::<PresenceBoard>(batch).unwrap();
    assert_eq!(published(&host), [pair("zoe", "online")]);
}

#[test]
fn friends_see_a_status_and_nobody_else() {
    let settings = json!({ "circles": [["ann", "bob"], ["cy", "dan"]] });
    let sees = |user: &str, meta: Value, owner: &str| {
        let mut host = Host::new().config(&settings).user(user).meta(meta);
        host.authorize::<PresenceBoard>(&format!("status:{owner}"), "")
            .is_ok()
    };
    assert!(sees("ann", json!({}), "bob"), "of one circle");
    assert!(sees("ann", json!({}), "ann"), "herself");
    assert!(
        sees("eve", json!({ "friends": ["ann"] }), "ann"),
        "her token says so"
    );
    assert!(!sees("ann", json!({}), "cy"));
    assert!(!sees("eve", json!({}), "ann"));
    assert!(!sees("", json!({ "friends": ["ann"] }), "ann"), "nobody");
    let mut host = Host::new().user("ann");
    assert_eq!(
        host.authorize::<PresenceBoard>("chat:ann", ""),
        Ok(authorization::Verdict::NotMine)
    );
}

#[test]
fn the_board_shows_all_friends_at_once() {
    let mut host = Host::new().config(json!({ "circles": [["ann", "bob", "cy"]] }));
    host.handle::<PresenceBoard>(vec![event(Kind::Online, "bob", 0)])
        .unwrap();
    let mut host = host.user("ann");
    let Ok(Verdict::Reply(reply)) = host.call::<PresenceBoard>(METHOD, "") else {
        panic!("the method is known");
    };
    let board: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(
        board,
        json!([
            { "user": "bob", "status": "online", "since_ms": NOON },
            { "user": "cy", "status": "unknown", "since_ms": 0 },
        ])
    );
    assert_eq!(
        host.call::<PresenceBoard>("other", ""),
        Ok(Verdict::NotMine)
    );
}

#[test]
fn a_full_batch_of_different_users_fits_into_one_call() {
    let users: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
    let batch = users.iter().map(|user| event(Kind::Online, user, 0));
    let mut host = Host::new();
    host.handle::<PresenceBoard>(batch.collect()).unwrap();
    assert_eq!(published(&host).len(), 16);
}
