use std::time::Duration;

use serde_json::{Value, json};
use tidegate_sdk::{sessions::Target, testing::Host};

use super::*;

const ROOM: &str = "chat:lobby";

fn settings() -> Value {
    json!({
        "tiers": {
            "free": { "rate": 1, "per": "1s", "burst": 3 },
            "gold": { "rate": 10, "per": "1s" },
        },
        "default_tier": "free",
        "users": { "gina": "gold" },
        "roles": { "operator": "gold" },
        "ban": { "after": 4, "within": "1m", "for": "10m" },
    })
}

fn host(user: &str) -> Host {
    Host::new()
        .user(user)
        .remote_address("192.0.2.1")
        .config(settings())
}

/// How many of these messages pass until one is refused.
fn burst(host: &mut Host) -> usize {
    (0..100)
        .take_while(|_| host.filter::<RateTier>(ROOM, "{}") == Ok(Verdict::Pass))
        .count()
}

#[track_caller]
fn refused(host: &mut Host) -> (Option<u32>, String) {
    let refusal = host.filter::<RateTier>(ROOM, "{}").unwrap_err();
    (refusal.code(), refusal.reason().to_owned())
}

/// Sends until the ban.
fn ban(host: &mut Host) {
    burst(host);
    for _ in 0..2 {
        assert_eq!(refused(host).0, Some(TOO_MANY_CODE));
    }
    assert_eq!(host.filter::<RateTier>(ROOM, "{}"), Ok(Verdict::Drop));
}

#[test]
fn a_tier_gives_its_burst_and_says_when_there_is_more() {
    let mut ann = host("ann");
    assert_eq!(burst(&mut ann), 3);
    let reason = "too many messages: tier `free` has 1 in 1s, 3 at once; retry after 1000 ms";
    assert_eq!(refused(&mut ann), (Some(429), reason.to_owned()));
    let mut ann = ann.advance(Duration::from_millis(600));
    assert!(refused(&mut ann).1.ends_with("retry after 400 ms"));
    let mut ann = ann.advance(Duration::from_millis(400));
    assert_eq!(burst(&mut ann), 1, "what it said is so");
    assert_eq!(ann.metric("refused", &[("tier", "free")]), Some(4.0));
}

#[test]
fn nobody_uses_up_what_is_another_ones() {
    let mut ann = host("ann");
    assert_eq!(burst(&mut ann), 3);
    let mut bob = ann.user("bob");
    assert_eq!(burst(&mut bob), 3);
    let mut nobody = bob.user("");
    assert_eq!(burst(&mut nobody), 3);
    // A user who is called like an address is not it, and a new connection is not a new bucket.
    let mut odd = nobody.user("192.0.2.1");
    assert_eq!(burst(&mut odd), 3);
    let mut again = odd
        .user("")
        .client_id("11111111-1111-4111-8111-111111111111");
    assert_eq!(burst(&mut again), 0);
    let mut elsewhere = again.remote_address("192.0.2.2");
    assert_eq!(burst(&mut elsewhere), 3);
}

#[test]
fn the_tier_comes_from_settings_then_from_what_authentication_said() {
    for (host, expected) in [
        (host("ann"), 3),
        (host("gina"), 10),
        (host("ann").meta(json!({ "role": "operator" })), 10),
        (host("ann").meta(json!({ "role": "member" })), 3),
        (
            host("ann").meta(json!({ "tier": "gold", "role": "member" })),
            10,
        ),
        (
            host("ann").meta(json!({ "tier": "free", "role": "operator" })),
            3,
        ),
        (host("gina").meta(json!({ "tier": "free" })), 10),
        (host("ann").meta(json!({ "tier": "platinum" })), 3),
        (host("ann").meta("operator"), 3),
    ] {
        assert_eq!(burst(&mut host.clone()), expected, "{host:?}");
    }
}

#[test]
fn the_back_end_and_plugins_are_not_limited() {
    for origin in [Origin::ServerApi, Origin::Plugin] {
        assert_eq!(burst(&mut host("ann").origin(origin)), 100);
    }
}

#[test]
fn who_does_not_stop_is_banned_and_disconnected_on_every_device() {
    let mut ann = host("ann");
    ban(&mut ann);
    let disconnects = ann.disconnects();
    assert_eq!(disconnects.len(), 1);
    assert_eq!(disconnects[0].target, Target::User("ann".to_owned()));
    assert_eq!(disconnects[0].code, BANNED_CODE);
    assert_eq!(
        disconnects[0].reason,
        "banned for sending too much; retry after 600 s"
    );
    assert_eq!(
        ann.log()[0].text,
        "user:ann is banned for 10m after 4 refusals"
    );
    assert_eq!(ann.metric("bans", &[("tier", "free")]), Some(1.0));
}

#[test]
fn the_connection_of_an_anonymous_client_is_named_by_its_id() {
    let id = "11111111-1111-4111-8111-111111111111";
    let mut nobody = host("").client_id(id);
    ban(&mut nobody);
    assert_eq!(
        nobody.disconnects()[0].target,
        Target::Client(id.to_owned())
    );
    // Others from there end with their next message.
    let mut other = nobody.client_id("22222222-2222-4222-8222-222222222222");
    assert_eq!(refused(&mut other).0, Some(BANNED_CODE));
}

#[test]
fn a_ban_closes_every_door_for_as_long_as_it_lasts() {
    let mut ann = host("ann");
    ban(&mut ann);
    let mut ann = ann.advance(Duration::from_secs(599));
    let reason = "banned for sending too much; retry after 1 s".to_owned();
    assert_eq!(refused(&mut ann), (Some(BANNED_CODE), reason.clone()));
    let refusal = ann.authorize::<RateTier>(ROOM, "").unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.reason()),
        (Some(BANNED_CODE), &*reason)
    );
    let mut ann = ann.claims(json!({ "sub": "ann" }));
    let refusal = ann.authenticate::<RateTier>("a token", "").unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.reason()),
        (Some(BANNED_CODE), &*reason)
    );
    assert!(ann.reauthenticate::<RateTier>().is_err());

    let mut ann = ann.advance(Duration::from_secs(1));
    assert!(ann.authorize::<RateTier>(ROOM, "").is_ok());
    assert!(ann.authenticate::<RateTier>("a token", "").is_ok());
    assert!(ann.reauthenticate::<RateTier>().is_ok());
    assert_eq!(burst(&mut ann), 3);
    assert_eq!(refused(&mut ann).0, Some(429), "and begins anew");
}

#[test]
fn others_come_in_while_one_is_banned() {
    let mut ann = host("ann");
    ban(&mut ann);
    let mut bob = ann.user("bob").claims(json!({ "sub": "bob" }));
    let not_mine = authentication::Verdict::NotMine;
    assert_eq!(
        bob.authenticate::<RateTier>("a token", ""),
        Ok(not_mine.clone())
    );
    assert_eq!(
        bob.authorize::<RateTier>(ROOM, ""),
        Ok(authorization::Verdict::NotMine)
    );
    assert_eq!(burst(&mut bob), 3);
    // Without a token that names somebody, connecting is not its business.
    let mut unknown = host("").with_state("ban:user:", r#"{"until":1}"#, Duration::from_secs(9));
    assert_eq!(unknown.authenticate::<RateTier>("", ""), Ok(not_mine));
}

#[test]
fn refusals_that_lie_far_apart_are_forgiven() {
    let mut ann = host("ann");
    for _ in 0..4 {
        burst(&mut ann);
        for _ in 0..2 {
            assert_eq!(refused(&mut ann).0, Some(429));
        }
        ann = ann.advance(Duration::from_secs(61));
    }
}

#[test]
fn nobody_is_banned_without_a_rule() {
    let mut settings = settings();
    settings["ban"] = Value::Null;
    let mut ann = host("ann").config(settings);
    burst(&mut ann);
    for _ in 0..50 {
        assert_eq!(refused(&mut ann).0, Some(429));
    }
}

#[test]
fn what_cannot_be_counted_is_refused() {
    let mut ann = host("ann").with_count("bucket:free:user:ann", 1, Duration::from_secs(60));
    assert_eq!(refused(&mut ann).0, Some(503));
}

#[test]
fn settings_that_cannot_be_used_say_what_is_wrong() {
    let with = |place: &str, value: Value| {
        let mut settings = settings();
        *settings.pointer_mut(place).unwrap() = value;
        settings
    };
    for (settings, says) in [
        (json!({}), "missing field `tiers`"),
        (
            with("/default_tier", "silver".into()),
            "`default_tier`: `silver` is none of the tiers: free, gold",
        ),
        (
            with("/users/gina", "silver".into()),
            "`users.gina`: `silver` is none of the tiers",
        ),
        (
            with("/roles/operator", "silver".into()),
            "`roles.operator`: `silver` is none of the tiers",
        ),
        (with("/tiers/free/rate", 0.into()), "expected a nonzero u32"),
        (with("/tiers/free/per", "1w".into()), "`1w` is not a period"),
        (
            with("/tiers/free/per", "8d".into()),
            "`tiers.free`: `per`: 8d is longer than 7d",
        ),
        (
            with("/tiers/free/burst", 1_000_000.into()),
            "`tiers.free`: a burst of 1000000 takes longer than 7d to grow at 1 in 1s",
        ),
        (
            with(
                "/tiers/free",
                json!({ "rate": 4_000_000_000_u32, "per": "1ms" }),
            ),
            "more than one in a microsecond",
        ),
        (
            with("/ban/for", "8d".into()),
            "`ban.for`: 8d is longer than 7d",
        ),
        (with("/ban/after", 0.into()), "expected a nonzero u32"),
        (
            with("/ban", json!({ "after": 3 })),
            "missing field `within`",
        ),
        (json!({ "tier": {} }), "unknown field `tier`"),
    ] {
        let host = Host::new().config(settings);
        let error = host.check_settings::<RateTier>("filtering");
        let error = error.expect_err("they cannot be used").to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(host.check_settings::<RateTier>("authentication"), Ok(()));
    }
    let host = Host::new().config(settings());
    assert_eq!(host.check_settings::<RateTier>("filtering"), Ok(()));
}
