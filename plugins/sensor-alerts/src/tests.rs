use std::time::Duration;

use serde_json::{Value, json, value::RawValue};
use tidegate_sdk::testing::Host;

use super::*;

const CHANNEL: &str = "sensors:hall";

fn rule() -> Value {
    json!({ "name": "overheat", "field": "/temp", "high": 80, "low": 75, "alert_channel": "alerts:heat" })
}

fn with(changes: &Value) -> Value {
    let mut rule = rule();
    for (name, value) in changes.as_object().unwrap() {
        rule[name] = value.clone();
    }
    json!({ "rules": [rule] })
}

fn host(changes: &Value) -> Host {
    Host::new().user("gateway").config(with(changes))
}

/// What the message made known, as `state value`, or `channel state value` for several channels.
#[track_caller]
fn told(host: &mut Host, data: &str) -> Vec<String> {
    assert_eq!(
        host.route::<SensorAlerts>(CHANNEL, data),
        Ok(Verdict::Keep),
        "{data}"
    );
    #[derive(serde::Deserialize)]
    struct Alert<'a> {
        state: &'a str,
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let publications = host.publications();
    let told = publications.iter().map(|publication| {
        let Alert { state, value } = serde_json::from_slice(&publication.data).unwrap();
        format!("{} {state} {value}", publication.channel)
    });
    told.collect()
}

#[track_caller]
fn check(host: &mut Host, steps: &[(&str, &[&str])]) {
    for (data, expected) in steps {
        assert_eq!(told(host, data), *expected, "at {data}");
    }
}

#[test]
fn one_alert_tells_of_the_beginning_and_one_of_the_end() {
    check(
        &mut host(&json!({})),
        &[
            (r#"{"temp":70}"#, &[]),
            (r#"{"temp":79.9}"#, &[]),
            (r#"{"temp":80}"#, &["alerts:heat entered 80"]),
            (r#"{"temp":95}"#, &[]),
            // Between the thresholds an alarm stays …
            (r#"{"temp":76}"#, &[]),
            (r#"{"temp":81}"#, &[]),
            (r#"{"temp":75.0}"#, &["alerts:heat recovered 75.0"]),
            // … and none begins.
            (r#"{"temp":79}"#, &[]),
            (r#"{"temp":1e400}"#, &["alerts:heat entered 1e400"]),
        ],
    );
}

#[test]
fn an_alert_says_everything_about_it() {
    let mut host = host(&json!({ "device": "/id" }));
    let at = 1_767_225_600_000_u64;
    host.route::<SensorAlerts>(CHANNEL, r#"{"temp":80.50,"id":"t-7"}"#)
        .unwrap();
    let alert: Value = serde_json::from_slice(&host.publications()[0].data).unwrap();
    assert_eq!(
        alert,
        json!({
            "alert": "overheat", "state": "entered", "channel": CHANNEL, "device": "t-7", "field": "/temp",
            "value": 80.5, "threshold": 80.0, "at": at, "since": at,
        })
    );
    let mut host = host.advance(Duration::from_secs(5));
    host.route::<SensorAlerts>(CHANNEL, r#"{"temp":70,"id":"t-7"}"#)
        .unwrap();
    let alert: Value = serde_json::from_slice(&host.publications()[0].data).unwrap();
    assert_eq!(alert["state"], "recovered");
    assert_eq!(alert["threshold"], 75.0);
    assert_eq!(alert["since"], at);
    assert_eq!(alert["at"], at + 5_000);
}

#[test]
fn values_can_be_too_low_as_well() {
    let settings = json!({ "direction": "below", "high": 4, "low": 2 });
    check(
        &mut host(&settings),
        &[
            (r#"{"temp":3}"#, &[]),
            (r#"{"temp":2}"#, &["alerts:heat entered 2"]),
            (r#"{"temp":-1e400}"#, &[]),
            (r#"{"temp":3.9}"#, &[]),
            (r#"{"temp":4}"#, &["alerts:heat recovered 4"]),
        ],
    );
}

#[test]
fn each_device_and_each_channel_has_an_alarm_of_its_own() {
    let mut host = host(&json!({ "device": "/id", "alert_channel": "alerts:{device}" }));
    check(
        &mut host,
        &[
            (r#"{"temp":80,"id":"a"}"#, &["alerts:a entered 80"]),
            (r#"{"temp":80,"id":7}"#, &["alerts:7 entered 80"]),
            (r#"{"temp":70,"id":"a"}"#, &["alerts:a recovered 70"]),
            (r#"{"temp":90,"id":7}"#, &[]),
        ],
    );
    host.route::<SensorAlerts>("sensors:roof", r#"{"temp":90,"id":7}"#)
        .unwrap();
    assert_eq!(host.publications().len(), 1);
}

#[test]
fn a_device_cannot_choose_the_channel() {
    let settings = json!({ "device": "/id", "alert_channel": "{device}" });
    check(
        &mut host(&settings),
        &[(
            r#"{"temp":80,"id":"boss:salaries"}"#,
            &["boss_salaries entered 80"],
        )],
    );
}

#[test]
fn several_rules_judge_one_message() {
    let mut humid = rule();
    humid["name"] = "humid".into();
    humid["field"] = "/air/humidity".into();
    humid["alert_channel"] = "alerts:{rule}:{channel}".into();
    let mut elsewhere = rule();
    elsewhere["name"] = "elsewhere".into();
    elsewhere["channels"] = "cellar:*".into();
    let mut host = Host::new().config(json!({ "rules": [rule(), humid, elsewhere] }));
    assert_eq!(
        told(&mut host, r#"{"temp":80,"air":{"humidity":91}}"#),
        [
            "alerts:heat entered 80",
            "alerts:humid:sensors:hall entered 91"
        ]
    );
    assert_eq!(told(&mut host, r#"{"air":{"humidity":70}}"#).len(), 1);
}

#[test]
fn what_has_no_number_goes_by_policy() {
    let without = [r#"{"id":1}"#, r#"{"temp":null}"#, "no json", "[]"];
    let not_numbers = [r#"{"temp":"85"}"#, r#"{"temp":[85]}"#, r#"{"temp":true}"#];
    for data in without.iter().chain(&not_numbers) {
        check(&mut host(&json!({})), &[(data, &[])]);
    }
    for (policy, list, what) in [
        ("missing", &without[..], "is missing"),
        ("not_a_number", &not_numbers[..], "is not a number"),
    ] {
        for data in list {
            let mut refusing = host(&json!({ policy: "refuse" }));
            let refusal = refusing.route::<SensorAlerts>(CHANNEL, data).unwrap_err();
            assert_eq!(refusal.code(), Some(400), "{data}");
            assert_eq!(
                refusal.reason(),
                format!("`/temp` {what}, and `overheat` needs it")
            );
            let mut alarmed = host(&json!({ policy: "alarm" }));
            let value = serde_json::from_str::<Value>(data).ok();
            let value = value.and_then(|value| value.get("temp").cloned());
            let alert = format!("alerts:heat entered {}", value.unwrap_or(Value::Null));
            check(&mut alarmed, &[(data, &[&alert]), (data, &[])]);
            check(
                &mut alarmed,
                &[(r#"{"temp":1}"#, &["alerts:heat recovered 1"])],
            );
        }
    }
}

#[test]
fn an_alert_is_short_whatever_was_sent() {
    let digits = format!(r#"{{"temp":{}}}"#, "9".repeat(10_000));
    check(
        &mut host(&json!({})),
        &[(&digits, &["alerts:heat entered null"])],
    );
}

#[test]
fn a_refused_message_leaves_no_alarm_behind() {
    let mut second = rule();
    second["name"] = "strict".into();
    second["field"] = "/needed".into();
    second["missing"] = "refuse".into();
    let mut host = Host::new().config(json!({ "rules": [rule(), second] }));
    assert!(
        host.route::<SensorAlerts>(CHANNEL, r#"{"temp":90}"#)
            .is_err()
    );
    let told = told(&mut host, r#"{"temp":90,"needed":1}"#);
    assert_eq!(told, ["alerts:heat entered 90"], "nobody had been told");
}

#[test]
fn an_alarm_that_goes_on_is_remembered_and_one_that_is_silent_is_not() {
    let hour = Duration::from_secs(3_600);
    let mut host = host(&json!({ "remember": "2h" }));
    assert_eq!(told(&mut host, r#"{"temp":90}"#).len(), 1);
    for _ in 0..5 {
        host = host.advance(hour + Duration::from_secs(1));
        assert_eq!(told(&mut host, r#"{"temp":90}"#), [] as [&str; 0]);
    }
    host = host.advance(2 * hour);
    assert_eq!(told(&mut host, r#"{"temp":90}"#).len(), 1);
}

#[test]
fn an_alert_that_cannot_be_made_is_tried_again() {
    // Plugins made this message twice in a row, so nothing can follow it.
    let mut host = host(&json!({})).origin(Origin::Plugin).hops(2);
    assert_eq!(told(&mut host, r#"{"temp":90}"#), [] as [&str; 0]);
    assert!(host.log()[0].text.contains("was not told to alerts:heat"));
    let mut host = host.hops(0);
    assert_eq!(told(&mut host, r#"{"temp":90}"#).len(), 1);
}

#[test]
fn alerts_raise_no_alerts() {
    let settings = json!({ "alert_channel": "sensors:alerts", "missing": "refuse" });
    let alert = r#"{"alert":"overheat","value":90}"#;
    let mut by_plugin = host(&settings).origin(Origin::Plugin);
    let kept = by_plugin.route::<SensorAlerts>("sensors:alerts", alert);
    assert_eq!(kept, Ok(Verdict::Keep));
    // Nobody else is believed to be one.
    let mut by_client = host(&settings);
    assert!(
        by_client
            .route::<SensorAlerts>("sensors:alerts", alert)
            .is_err()
    );
}

#[test]
fn when_nothing_can_be_remembered_every_bad_value_is_told() {
    // A counter is where the alarm would be.
    let key = tidegate_sdk::state::key(&["overheat", CHANNEL, ""]);
    let mut host = host(&json!({})).with_count(&key, 1, Duration::from_secs(60));
    for _ in 0..2 {
        assert_eq!(
            told(&mut host, r#"{"temp":90}"#),
            ["alerts:heat entered 90"]
        );
        assert!(host.log()[0].text.contains("cannot be remembered"));
    }
    assert_eq!(told(&mut host, r#"{"temp":1}"#), [] as [&str; 0]);
}

#[test]
fn settings_that_cannot_be_used_say_what_is_wrong() {
    for (changes, says) in [
        (
            json!({ "low": 80 }),
            "`rules[0]`: `low` (80) is not less than `high` (80)",
        ),
        (
            json!({ "field": "temp" }),
            "`rules[0]`: `field`: `temp` is not a JSON pointer",
        ),
        (
            json!({ "device": "/a~2" }),
            "`rules[0]`: `device`: `/a~2` is not a JSON pointer",
        ),
        (
            json!({ "alert_channel": "alerts:{device}" }),
            "`{device}` in `alerts:{device}` is not known; there is {channel}, {rule}",
        ),
        (
            json!({ "remember": "8d" }),
            "`rules[0]`: `remember`: 8d is longer than 7d",
        ),
        (
            json!({ "remember": 60 }),
            "a period in quotes, such as \"30s\"",
        ),
        (json!({ "name": "" }), "a name has 1 to 64 bytes"),
        (json!({ "missing": "drop" }), "unknown variant `drop`"),
        (json!({ "hihg": 1 }), "unknown field `hihg`"),
        (json!({ "high": "80" }), "invalid type: string"),
    ] {
        check_settings(&with(&changes), says);
    }
    check_settings(&json!({}), "missing field `rules`");
    check_settings(&json!({ "rules": [] }), "`rules`: there are 0 of them");
    check_settings(
        &json!({ "rules": [rule(), rule()] }),
        "`rules[1].name`: two rules are called `overheat`",
    );
}

#[track_caller]
fn check_settings(settings: &Value, says: &str) {
    let error = Host::new()
        .config(settings)
        .check_settings::<SensorAlerts>("routing");
    let error = error.expect_err("they cannot be used").to_string();
    assert!(error.contains(says), "{error}");
}
