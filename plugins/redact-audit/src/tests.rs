use serde_json::{Value, json};
use tidegate_sdk::testing::Host;

use super::*;

const WARD: &str = "clinic:ward7";
const NOTE: &str = r#"{"patient":{"name":"Ann","bed":3},"note":"call +49 30 901820"}"#;

fn settings() -> Value {
    json!({
        "channels": "clinic:*",
        "fields": ["/patient/name"],
        "full_channel": "{channel}:full",
        "audit_channel": "audit:clinic",
        "entitled": { "roles": ["doctor"], "users": ["carol"] },
        "auditors": { "roles": ["auditor"] },
    })
}

fn host() -> Host {
    Host::new()
        .user("ann")
        .client_id("11111111-1111-4111-8111-111111111111")
        .remote_address("192.0.2.1")
        .trace_id("t-1")
        .config(settings())
}

fn with(changes: &Value) -> Value {
    let mut settings = settings();
    for (name, value) in changes.as_object().unwrap() {
        settings[name] = value.clone();
    }
    settings
}

/// Where the message goes and with what; `None` is the message's own data.
#[track_caller]
fn routed(host: &mut Host, channel: &str, data: &str) -> Vec<(Target, Option<Value>)> {
    let verdict = host.route::<RedactAudit>(channel, data);
    let Ok(Verdict::Routed(destinations)) = verdict else {
        panic!("{data}: {verdict:?}");
    };
    let list = destinations.iter().map(|destination| {
        let data = destination.data.as_deref();
        let data = data.map(|data| serde_json::from_slice(data).unwrap());
        (destination.target.clone(), data)
    });
    list.collect()
}

fn channel(name: &str) -> Target {
    Target::Channel(name.to_owned())
}

#[test]
fn everybody_gets_the_form_that_is_theirs() {
    let redacted =
        json!({ "patient": { "name": "[redacted]", "bed": 3 }, "note": "call [redacted]" });
    let record = json!({
        "channel": WARD, "user": "ann", "client": "11111111-1111-4111-8111-111111111111", "address": "192.0.2.1",
        "origin": "client", "at": 1_767_225_600_000_u64, "trace_id": "t-1", "masked": ["/patient/name", "phone"],
        "original": serde_json::from_str::<Value>(NOTE).unwrap(),
    });
    assert_eq!(
        routed(&mut host(), WARD, NOTE),
        [
            (channel("audit:clinic"), Some(record)),
            (channel("clinic:ward7:full"), None),
            (Target::Origin, Some(redacted)),
        ]
    );
}

#[test]
fn a_message_in_which_nothing_was_found_is_recorded_only_where_all_are() {
    let plain = r#"{"text":"all beds taken"}"#;
    let both = [(channel("clinic:ward7:full"), None), (Target::Origin, None)];
    assert_eq!(routed(&mut host(), WARD, plain), both);
    let mut all = host().config(with(&json!({ "audit": "all" })));
    let three = routed(&mut all, WARD, plain);
    assert_eq!(three[0].0, channel("audit:clinic"));
    assert_eq!(three[0].1.as_ref().unwrap()["masked"], json!([]));
    assert_eq!(three[1..], both);
    let mut without = host().config(with(&json!({ "full_channel": null })));
    assert_eq!(without.route::<RedactAudit>(WARD, plain), Ok(Verdict::Keep));
    assert_eq!(routed(&mut without, WARD, NOTE).len(), 2);
}

#[test]
fn records_say_where_a_message_came_from() {
    for (origin, name) in [
        (Origin::ServerApi, "server_api"),
        (Origin::Plugin, "plugin"),
    ] {
        let record = routed(&mut host().origin(origin), WARD, NOTE)[0].1.clone();
        let record = record.unwrap();
        assert_eq!(record["origin"], name);
        assert_eq!(
            (&record["user"], &record["client"]),
            (&json!(""), &Value::Null)
        );
    }
    let mut each = host().config(with(&json!({ "audit_channel": "audit:{channel}" })));
    assert_eq!(
        routed(&mut each, WARD, NOTE)[0].0,
        channel("audit:clinic:ward7")
    );
}

#[test]
fn originals_keep_their_digits_in_the_record() {
    let data = r#"{"patient":{"name":"Ann"},"dose":0.10}"#;
    let verdict = host().route::<RedactAudit>(WARD, data).unwrap();
    let Verdict::Routed(destinations) = verdict else {
        panic!("not routed");
    };
    let record = destinations.iter().next().unwrap().data.clone().unwrap();
    let record = String::from_utf8(record).unwrap();
    assert!(
        record.ends_with(&format!(r#""original":{data}}}"#)),
        "{record}"
    );
}

#[test]
fn what_cannot_be_redacted_or_recorded_goes_nowhere() {
    for (data, code) in [
        ("not json", 400),
        ("", 400),
        (r#"{"patient":{"name":"Ann"}"#, 400),
        (r#"["\ud800"]"#, 400),
    ] {
        let refusal = host().route::<RedactAudit>(WARD, data).unwrap_err();
        assert_eq!(refusal.code(), Some(code), "{data}");
    }
    let refusal = host().route::<RedactAudit>(WARD, b"\"\xff\"").unwrap_err();
    assert_eq!(refusal.code(), Some(400));
    let mut small = host().config(with(&json!({ "max_bytes": 20 })));
    let refusal = small.route::<RedactAudit>(WARD, NOTE).unwrap_err();
    assert_eq!(refusal.code(), Some(TOO_LARGE_CODE));
    assert!(
        refusal.reason().contains("at most 20 are allowed"),
        "{refusal}"
    );
    // Masks are longer than what they stand for.
    let mut grown = host().config(with(&json!({ "fields": ["/*"], "max_bytes": 200 })));
    let refusal = grown.route::<RedactAudit>(WARD, format!("[{}0]", "0,".repeat(50)));
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code(), Some(TOO_LARGE_CODE));
    assert!(
        refusal.reason().starts_with("the redacted message has"),
        "{refusal}"
    );
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert!(host().route::<RedactAudit>(WARD, deep).is_err());
}

#[test]
fn other_channels_are_left_alone() {
    assert_eq!(
        host().route::<RedactAudit>("chat:lobby", NOTE),
        Ok(Verdict::Keep)
    );
}

#[test]
fn nobody_but_the_back_end_writes_originals_by_hand() {
    for place in ["clinic:ward7:full", "audit:clinic"] {
        let refusal = host().route::<RedactAudit>(place, NOTE).unwrap_err();
        assert!(refusal.reason().contains("only the node writes"), "{place}");
        let mut back_end = host().origin(Origin::ServerApi);
        assert_eq!(
            back_end.route::<RedactAudit>(place, NOTE),
            Ok(Verdict::Keep)
        );
    }
}

#[test]
fn only_who_is_entitled_reads_originals() {
    let doctor = || host().meta(json!({ "role": "doctor" }));
    let auditor = || host().meta(json!({ "role": "auditor" }));
    for (mut host, place, is_allowed) in [
        (doctor(), "clinic:ward7:full", true),
        (host().user("carol"), "clinic:ward7:full", true),
        (host(), "clinic:ward7:full", false),
        (auditor(), "clinic:ward7:full", false),
        (
            host().user("").meta(json!({ "role": "doctor" })),
            "clinic:ward7:full",
            false,
        ),
        (host().meta("doctor"), "clinic:ward7:full", false),
        (auditor(), "audit:clinic", true),
        (doctor(), "audit:clinic", false),
        (host().user("carol"), "audit:clinic", false),
    ] {
        let answer = host.authorize::<RedactAudit>(place, "");
        assert_eq!(answer.is_ok(), is_allowed, "{place}: {host:?}");
        if is_allowed {
            assert_eq!(answer, Ok(Grant::new().into()));
        }
    }
    // Who may read the redacted form is not its business.
    let answer = host().authorize::<RedactAudit>(WARD, "");
    assert_eq!(answer, Ok(authorization::Verdict::NotMine));
}

#[test]
fn settings_that_cannot_be_used_say_what_is_wrong() {
    for (changes, says) in [
        (
            json!({ "fields": ["patient"] }),
            "`patient` does not begin with `/`",
        ),
        (json!({ "ids": ["#"] }), "a form has 3 to 64"),
        (
            json!({ "patterns": ["name"] }),
            "`patterns[0]`: unknown variant `name`",
        ),
        (
            json!({ "fields": [], "patterns": [] }),
            "nothing would be masked",
        ),
        (
            json!({ "full_channel": "originals" }),
            "`full_channel`: `originals` has no {channel}",
        ),
        (
            json!({ "full_channel": "{channel}" }),
            "`full_channel`: it is the channel itself",
        ),
        (
            json!({ "audit_channel": "{channel}" }),
            "`audit_channel`: it is the channel itself",
        ),
        (
            json!({ "full_channel": "x:{channel}", "audit_channel": "x:{channel}" }),
            "`full_channel`: it is `audit_channel` too",
        ),
        (
            json!({ "audit_channel": "audit:{user}" }),
            "`audit_channel`: `{user}` in `audit:{user}` is not known; there is {channel}",
        ),
        (
            json!({ "audit_channel": null }),
            "`audit_channel`: invalid type: null",
        ),
        (
            json!({ "mask": "x".repeat(65) }),
            "`mask`: a mask has at most 64 bytes",
        ),
        (
            json!({ "fields": vec!["/a"; 65] }),
            "`fields`: there are 65 of them",
        ),
        (json!({ "entitled": "doctor" }), "`entitled`: invalid type"),
        (
            json!({ "auditors": { "roles": "auditor" } }),
            "`auditors.roles`: invalid type",
        ),
        (json!({ "max_bytes": "64KiB" }), "`max_bytes`: invalid type"),
        (json!({ "feilds": [] }), "unknown field `feilds`"),
    ] {
        let offered = Host::new().config(with(&changes));
        for hook in ["routing", "authorization"] {
            let error = offered.check_settings::<RedactAudit>(hook);
            let error = error.expect_err("they cannot be used").to_string();
            assert!(error.contains(says), "{error}");
        }
    }
    let nothing = Host::new().check_settings::<RedactAudit>("routing");
    let error = nothing.expect_err("records have nowhere to go").to_string();
    assert!(error.contains("missing field `audit_channel`"), "{error}");
    let example: Value = serde_json::from_str(include_str!("../example/settings.json")).unwrap();
    for good in [example, settings()] {
        let checked = Host::new()
            .config(good)
            .check_settings::<RedactAudit>("routing");
        assert_eq!(checked, Ok(()));
    }
}
