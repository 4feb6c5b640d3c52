//! What a filtering guest answers is what happens.

use crate::guests::{PASS, filter, filtering, passed, refuse, replace, with_filter};
use tidegate_realtime::hooks::{FilteringVerdict, Refusal};

#[test]
fn pass_leaves_the_message_as_it_is() {
    let sandbox = with_filter(&filtering(PASS));
    assert_eq!(passed(&sandbox, b"{\"a\":1}"), "{\"a\":1}");
}

#[test]
fn replace_changes_the_data() {
    let body = format!("(data (i32.const 1024) \"{{}}\")\n{}", replace(2));
    let sandbox = with_filter(&filtering(&body));
    assert_eq!(passed(&sandbox, b"{\"a\":1}"), "{}");
}

#[test]
fn drop_ends_the_message() {
    let sandbox = with_filter(&filtering(
        "(i32.store8 (i32.const 16) (i32.const 2)) (i32.const 16)",
    ));
    assert!(matches!(
        filter(&sandbox, b"{}"),
        Ok(FilteringVerdict::Drop)
    ));
}

#[test]
fn refuse_tells_the_sender_why() {
    let body = format!("(data (i32.const 1024) \"no\")\n{}", refuse(0, 400, 2));
    let sandbox = with_filter(&filtering(&body));
    let Ok(FilteringVerdict::Refuse(refusal)) = filter(&sandbox, b"{}") else {
        panic!("expected a refusal");
    };
    assert_eq!(
        refusal,
        Refusal::Error {
            code: 400,
            reason: "no".into()
        }
    );
}
