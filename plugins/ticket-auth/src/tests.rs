use std::time::{Duration, SystemTime};

use serde_json::json;
use tidegate_sdk::testing::Host;

use super::*;
use crate::ticket::sign;

const NOW: u64 = 1_800_000_000;
const OLD: &str = "the secret of last year, long enough";
const NEW: &str = "the secret of this year, long enough";

fn host() -> Host {
    Host::new()
        .now(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
        .config(
            json!({ "secrets": [{ "id": "new", "secret": NEW }, { "id": "old", "secret": OLD }] }),
        )
}

fn connect(ticket: &str) -> Result<Verdict, Refusal> {
    host().authenticate::<TicketAuth>("", json!({ "ticket": ticket }).to_string())
}

#[track_caller]
fn check_refused(ticket: &str, code: u32, reason: &str) {
    let refusal = connect(ticket).unwrap_err();
    assert_eq!(refusal.code(), Some(code), "{refusal}");
    assert!(refusal.reason().contains(reason), "{refusal}");
}

#[test]
fn a_good_ticket_gives_identity_role_and_channels() {
    let payload = json!({
        "kid": "new", "user": "ann", "exp": NOW + 60, "role": "operator", "name": "Ann", "channels": ["lobby", "ops"],
    });
    let shown = json!({ "name": "Ann", "role": "operator" });
    let expected = Identity::new("ann")
        .expires_at(NOW + 60)
        .info(&shown)
        .meta(&shown)
        .subscribe("lobby")
        .subscribe("ops");
    assert_eq!(
        connect(&sign(&payload.to_string(), NEW)).unwrap(),
        expected.into()
    );
}

#[test]
fn keys_are_rotated_by_id() {
    let with = |kid: &str| json!({ "kid": kid, "user": "ann", "exp": NOW + 60 }).to_string();
    assert!(connect(&sign(&with("old"), OLD)).is_ok());
    assert!(connect(&sign(&with("new"), NEW)).is_ok());
    // A key that was taken out, and one that hides behind another's name.
    check_refused(
        &sign(&with("older"), OLD),
        INVALID_CODE,
        "not signed with a key",
    );
    check_refused(
        &sign(&with("new"), OLD),
        INVALID_CODE,
        "not signed with a key",
    );

    let nameless = json!({ "user": "ann", "exp": NOW + 60 }).to_string();
    assert!(connect(&sign(&nameless, OLD)).is_ok());
    check_refused(
        &sign(&nameless, "a secret of somebody else"),
        INVALID_CODE,
        "not signed",
    );
}

#[test]
fn an_expired_ticket_has_a_code_of_its_own() {
    let ticket = |exp: u64| sign(&json!({ "user": "ann", "exp": exp }).to_string(), NEW);
    check_refused(&ticket(NOW - 90), EXPIRED_CODE, "expired 90 seconds ago");
    check_refused(&ticket(NOW), EXPIRED_CODE, "expired 0 seconds ago");
    assert!(connect(&ticket(NOW + 1)).is_ok());
}

#[test]
fn a_changed_ticket_is_refused() {
    let ticket = sign(&json!({ "user": "ann", "exp": NOW + 60 }).to_string(), NEW);
    let (payload, mac) = ticket.split_once('.').unwrap();
    let other = sign(&json!({ "user": "bob", "exp": NOW + 60 }).to_string(), OLD);
    let (other_payload, _) = other.split_once('.').unwrap();
    check_refused(
        &format!("{other_payload}.{mac}"),
        INVALID_CODE,
        "not signed",
    );
    // A MAC that is cut short is not one.
    check_refused(
        &format!("{payload}.{}", &mac[..20]),
        INVALID_CODE,
        "not signed",
    );
    check_refused(&format!("{payload}."), INVALID_CODE, "not signed");
}

#[test]
fn malformed_and_senseless_tickets_are_refused() {
    check_refused("", INVALID_CODE, "malformed");
    check_refused("no dot", INVALID_CODE, "malformed");
    check_refused("e30.!!", INVALID_CODE, "malformed");
    check_refused("!!.e30", INVALID_CODE, "malformed");
    check_refused(&sign("[]", NEW), INVALID_CODE, "malformed");
    check_refused(&"a".repeat(9000), INVALID_CODE, "malformed");
    check_refused(&sign("{}", NEW), INVALID_CODE, "missing field `user`");
    let nobody = json!({ "user": "", "exp": NOW + 60 }).to_string();
    check_refused(&sign(&nobody, NEW), INVALID_CODE, "its user is empty");
}

#[test]
fn clients_without_ticket_are_left_to_others() {
    let mut host = host();
    for data in ["", "{}", "[]", r#"{"ticket":null}"#, r#"{"token":"x"}"#] {
        assert_eq!(
            host.authenticate::<TicketAuth>("", data),
            Ok(Verdict::NotMine),
            "{data}"
        );
    }
}

#[test]
fn no_ticket_is_renewed() {
    let verdict = host().reauthenticate::<TicketAuth>();
    assert_eq!(verdict, Ok(Verdict::NotMine));
}

#[test]
fn secrets_never_reach_the_log() {
    let mut host = host();
    let ticket = sign(
        &json!({ "kid": "gone", "user": "ann", "exp": NOW }).to_string(),
        NEW,
    );
    let data = json!({ "ticket": ticket }).to_string();
    assert!(host.authenticate::<TicketAuth>("", data).is_err());
    let [line] = &host.log()[..] else {
        panic!("one line is written");
    };
    assert_eq!(
        line.text,
        "ticket refused: no secret in use made its MAC; it names key `gone`"
    );
}

#[test]
fn weak_settings_are_refused() {
    for (settings, problem) in [
        (json!({ "secrets": [] }), "empty"),
        (
            json!({ "secrets": [{ "id": "a", "secret": "short" }] }),
            "at least 32",
        ),
        (
            json!({ "secrets": [{ "id": "a", "secret": NEW }, { "id": "a", "secret": OLD }] }),
            "two secrets",
        ),
    ] {
        let host = Host::new().config(settings);
        let error = host
            .check_settings::<TicketAuth>("authentication")
            .unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}
