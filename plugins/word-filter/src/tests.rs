use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_sdk::testing::Host;

use super::*;

fn host(settings: Value) -> Host {
    Host::new().version(3).config(settings)
}

#[track_caller]
fn check(settings: Value, data: &str, expected: &str) {
    let verdict = host(settings)
        .filter::<WordFilter>("chat:lobby", data)
        .unwrap();
    let text = match &verdict {
        Verdict::Pass => data,
        Verdict::Replace(data) => std::str::from_utf8(data).unwrap(),
        Verdict::Drop => "dropped",
    };
    assert_eq!(text, expected);
}

#[track_caller]
fn check_refused(settings: Value, data: &str, code: u32, reason: &str) {
    let refusal = host(settings)
        .filter::<WordFilter>("chat:lobby", data)
        .unwrap_err();
    assert_eq!((refusal.code(), refusal.reason()), (Some(code), reason));
}

#[test]
fn harmless_messages_pass_untouched() {
    let settings = json!({ "words": ["darn"], "leetspeak": true });
    for data in [
        r#"{"text":"hello, world","n":12345}"#,
        "[]",
        "17",
        "",
        "plain text",
    ] {
        let verdict = host(settings.clone()).filter::<WordFilter>("chat:lobby", data);
        assert_eq!(verdict, Ok(Verdict::Pass), "{data}");
    }
}

#[test]
fn each_category_is_masked_by_default() {
    check(
        json!({ "words": ["darn"] }),
        r#"{"text":"Darn! ann@example.org, +49 30 901820, 4111 1111 1111 1111","n":4111111111111111}"#,
        r#"{"text":"****! ***************, *************, *******************","n":4111111111111111}"#,
    );
}

#[test]
fn escapes_hide_nothing() {
    let settings = json!({ "words": ["darn"] });
    check(
        settings.clone(),
        r#"{"text":"\u0064arn"}"#,
        r#"{"text":"****"}"#,
    );
    check(
        settings.clone(),
        r#"{"text":"a\ndarn"}"#,
        r#"{"text":"a\n****"}"#,
    );
    check(
        settings.clone(),
        r#"{"text":"ann\u0040example.org"}"#,
        r#"{"text":"***************"}"#,
    );
    check(settings, r#"{"text":"a\"b"}"#, r#"{"text":"a\"b"}"#);
}

#[test]
fn policy_refuses_with_code_and_reason() {
    let settings = json!({
        "words": ["darn"],
        "word": { "mode": "refuse", "code": 422, "reason": "mind your language" },
        "identity": { "mode": "refuse" },
    });
    check_refused(
        settings.clone(),
        r#"{"text":"oh darn"}"#,
        422,
        "mind your language",
    );
    check_refused(
        settings,
        r#"{"text":"pay to DE89370400440532013000"}"#,
        451,
        "card, account and identity numbers are not allowed here",
    );
}

#[test]
fn what_is_let_through_is_not_looked_for() {
    let settings =
        json!({ "words": ["darn"], "word": { "mode": "pass" }, "email": { "mode": "pass" } });
    check(
        settings,
        r#"{"text":"darn ann@example.org +49 30 901820"}"#,
        r#"{"text":"darn ann@example.org *************"}"#,
    );
}

#[test]
fn fields_limit_where_it_looks() {
    check(
        json!({ "words": ["darn"], "fields": ["text"] }),
        r#"{"id":"darn","text":"darn"}"#,
        r#"{"id":"darn","text":"****"}"#,
    );
    check(
        json!({ "words": ["darn"] }),
        r#"{"darn":1}"#,
        r#"{"darn":1}"#,
    );
}

#[test]
fn the_stamp_names_the_version_and_cannot_be_forged() {
    let settings = json!({ "words": ["darn"], "stamp": true });
    check(
        settings.clone(),
        r#"{"text":"hi"}"#,
        r#"{"text":"hi","filtered_by":"word-filter@3"}"#,
    );
    check(
        settings.clone(),
        r#"{"text":"darn"}"#,
        r#"{"text":"****","filtered_by":"word-filter@3"}"#,
    );
    check(
        settings.clone(),
        r#"{"filtered_by":"word-filter@99","text":"hi"}"#,
        r#"{"text":"hi","filtered_by":"word-filter@3"}"#,
    );
    check(settings, "[1]", "[1]");
}

#[test]
fn suspicious_data_that_cannot_be_read_is_refused() {
    let mut host = host(json!({ "words": ["darn"] }));
    let refusal = host
        .filter::<WordFilter>("chat:lobby", "darn it")
        .unwrap_err();
    assert_eq!(refusal.code(), Some(400));
    // Half a character hides what is beside it from us, and not from a browser.
    let refusal = host
        .filter::<WordFilter>("chat:lobby", r#"{"text":"\ud800 darn"}"#)
        .unwrap_err();
    assert_eq!(refusal.code(), Some(400));
    let refusal = host
        .filter::<WordFilter>("chat:lobby", [0xff, 0xfe])
        .unwrap_err();
    assert_eq!(refusal.reason(), "data is not text");
}

#[test]
fn wrong_settings_say_what_is_wrong() {
    for (settings, problem) in [
        (
            json!({ "word": "mask" }),
            "`word`: invalid type: string \"mask\", expected an object such as {\"mode\": \"mask\"}",
        ),
        (
            json!({ "words": "darn" }),
            "`words`: invalid type: string \"darn\"",
        ),
        (json!({ "words": ["darn", 5] }), "`words[1]`: invalid type"),
        (json!({ "stamp": "yes" }), "`stamp`: invalid type"),
        (
            json!({ "phone": { "mode": "drop" } }),
            "`phone.mode`: unknown variant `drop`",
        ),
        (json!({ "wordz": [] }), "unknown field `wordz`"),
        (json!({ "phone": { "mod": "mask" } }), "unknown field `mod`"),
        (json!({ "words": ["a b"] }), "is not one word"),
        (
            json!({ "email": { "mode": "refuse", "code": 100 } }),
            "`email.code` is 100",
        ),
        (
            json!({ "email": { "code": 400 } }),
            "add \"mode\": \"refuse\"",
        ),
    ] {
        let error = host(settings).check_settings::<WordFilter>("filtering");
        let error = error.expect_err("they cannot be used").to_string();
        assert!(error.contains(problem), "{error}");
    }
    for settings in [
        json!({}),
        json!({ "fields": null, "identity": { "mode": "refuse" } }),
    ] {
        let checked = host(settings.clone()).check_settings::<WordFilter>("filtering");
        assert_eq!(checked, Ok(()), "{settings}");
    }
}

proptest! {
    /// The quick look never misses what the close look finds.
    #[test]
    fn nothing_slips_past_the_quick_look(
        before in any::<String>(),
        hidden in prop::sample::select(vec![
            "darn", "D4RN", "ann@example.org", "+49 30 901820", "4111 1111 1111 1111", "DE89370400440532013000",
        ]),
        after in any::<String>(),
    ) {
        let settings: Settings =
            serde_json::from_value(json!({ "words": ["darn"], "leetspeak": true })).unwrap();
        let finder = Finder::new(&settings);
        let text = format!("{before}{hidden}{after}");
        if !finder.find(&text).is_empty() {
            let data = json!({ "text": text }).to_string();
            prop_assert!(finder.suspects(&data));
        }
    }

    /// Whatever was masked once has nothing left to mask.
    #[test]
    fn masking_is_done_in_one_go(text in any::<String>()) {
        let settings: Settings = serde_json::from_value(json!({ "words": ["darn"] })).unwrap();
        let finder = Finder::new(&settings);
        let masked = find::mask(&text, &finder.find(&text)).unwrap_or(text);
        prop_assert_eq!(finder.find(&masked), vec![]);
    }
}
