use std::time::Duration;

use serde_json::{Value, json};
use tidegate_sdk::testing::Host;

use super::*;

const INBOX: &str = "orders:new";

fn settings() -> Value {
    json!({
        "instruments": [
            { "pattern": "BTC-*", "tick": "0.01", "lot": "0.001", "min_quantity": "0.001", "max_quantity": 50,
              "max_notional": "3000000" },
            { "pattern": "*-USD" },
        ],
        "rules": [
            { "channels": ["matching:{instrument}", "settlement:all"] },
            { "min_notional": "100000", "channels": ["risk:large"] },
            { "instrument": "BTC-*", "max_quantity": "0.01", "channels": ["matching:small", "settlement:all"] },
            { "instrument": "XRP-*", "refuse": "XRP is halted" },
        ],
    })
}

fn host() -> Host {
    Host::new().user("ann").client_id(CLIENT).config(settings())
}

const CLIENT: &str = "11111111-1111-4111-8111-111111111111";

fn order(changes: &Value) -> String {
    let mut order = json!({
        "id": "c-1", "instrument": "BTC-USD", "side": "buy", "type": "limit", "quantity": "1.5", "price": "60000.25",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => order.as_object_mut().unwrap().remove(name),
            value => order
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    order.to_string()
}

/// The destinations of an accepted order with what they get.
#[track_caller]
fn routed(host: &mut Host, data: &str) -> Vec<(Target, Value)> {
    let verdict = host.route::<OrderRouter>(INBOX, data);
    let Ok(Verdict::Routed(destinations)) = verdict else {
        panic!("{data}: {verdict:?}");
    };
    let list = destinations.iter().map(|destination| {
        let data = destination.data.as_deref().unwrap();
        (
            destination.target.clone(),
            serde_json::from_slice(data).unwrap(),
        )
    });
    list.collect()
}

fn channels(routed: &[(Target, Value)]) -> Vec<&str> {
    let channels = routed.iter().filter_map(|(target, _)| match target {
        Target::Channel(channel) => Some(channel.as_str()),
        Target::Origin | Target::User(_) | Target::Session(_) => None,
    });
    channels.collect()
}

#[track_caller]
fn check_refused(host: &mut Host, data: &str, code: u32, says: &str) {
    let refusal = host.route::<OrderRouter>(INBOX, data).unwrap_err();
    assert_eq!(refusal.code(), Some(code), "{data}: {refusal}");
    assert!(refusal.reason().contains(says), "{data}: {refusal}");
}

#[test]
fn an_order_goes_where_its_instrument_and_size_send_it() {
    for (changes, expected) in [
        (json!({}), &["matching:BTC-USD", "settlement:all"][..]),
        (
            json!({ "quantity": "1.667" }),
            &["matching:BTC-USD", "settlement:all", "risk:large"],
        ),
        // Exactly the bound: 100000.
        (
            json!({ "quantity": "2", "price": "50000" }),
            &["matching:BTC-USD", "settlement:all", "risk:large"],
        ),
        (
            json!({ "quantity": "2", "price": "49999.99" }),
            &["matching:BTC-USD", "settlement:all"],
        ),
        (
            json!({ "quantity": "0.01" }),
            &["matching:BTC-USD", "settlement:all", "matching:small"],
        ),
        (
            json!({ "instrument": "ETH-USD", "quantity": 0.01 }),
            &["matching:ETH-USD", "settlement:all"],
        ),
        // Nobody knows what a market order is worth, so it is a large one.
        (
            json!({ "type": "market", "price": null }),
            &["matching:BTC-USD", "settlement:all", "risk:large"],
        ),
    ] {
        let routed = routed(&mut host(), &order(&changes));
        assert_eq!(channels(&routed), expected, "{changes}");
    }
}

#[test]
fn channels_hear_who_ordered_and_what_it_is_worth() {
    let forged = json!({ "user": "bob", "notional": "1", "received_at": 1, "note": "x" });
    let routed = routed(&mut host(), &order(&forged));
    let expected = json!({
        "id": "c-1", "instrument": "BTC-USD", "side": "buy", "type": "limit", "quantity": "1.5", "price": "60000.25",
        "note": "x", "user": "ann", "notional": "90000.375", "received_at": 1_767_225_600_000_u64,
    });
    assert_eq!(routed[0].1, expected);
    assert_eq!(routed[1].1, expected);
}

#[test]
fn digits_reach_the_channels_as_they_were_sent() {
    let data = r#"{"id":"1","instrument":"ETH-USD","side":"sell","quantity":0.10000000000000001,"price":9007199254740993}"#;
    let verdict = host().route::<OrderRouter>(INBOX, data).unwrap();
    let Verdict::Routed(destinations) = verdict else {
        panic!("not routed");
    };
    let sent = destinations.iter().next().unwrap().data.clone().unwrap();
    let sent = String::from_utf8(sent).unwrap();
    assert!(
        sent.contains(r#""quantity":0.10000000000000001,"#),
        "{sent}"
    );
    assert!(
        sent.contains(r#""notional":"900719925474099.39007199254740993""#),
        "{sent}"
    );
}

#[test]
fn the_sender_gets_an_acknowledgement_and_nobody_else_does() {
    let routed = routed(&mut host(), &order(&json!({})));
    let (target, ack) = routed.last().unwrap();
    assert_eq!(*target, Target::Session(CLIENT.to_owned()));
    assert_eq!(
        *ack,
        json!({ "type": "ack", "id": "c-1", "status": "accepted", "received_at": 1_767_225_600_000_u64 })
    );
}

#[test]
fn an_order_sent_again_is_the_same_one() {
    let key = |host: &mut Host, data: &str| {
        routed(host, data);
        host.idempotency_key().map(str::to_owned)
    };
    let first = key(&mut host(), &order(&json!({})));
    assert_eq!(first.as_ref().map(String::len), Some(64));
    let mut later = host().advance(Duration::from_secs(60));
    assert_eq!(key(&mut later, &order(&json!({}))), first);
    assert_ne!(key(&mut host(), &order(&json!({ "id": "c-2" }))), first);
    assert_ne!(
        key(&mut host(), &order(&json!({ "quantity": "1.6" }))),
        first
    );
    assert_ne!(key(&mut host().user("bob"), &order(&json!({}))), first);
    let mut settings = settings();
    settings["deduplicate"] = false.into();
    assert_eq!(key(&mut host().config(settings), &order(&json!({}))), None);
}

#[test]
fn what_is_not_acceptable_is_refused_with_the_reason() {
    for (changes, code, says) in [
        (json!({ "quantity": "0" }), 422, "`quantity` is zero"),
        (json!({ "quantity": "-1" }), 400, "`-1` is negative"),
        (json!({ "quantity": "1e3" }), 400, "`1e3` has an exponent"),
        (json!({ "quantity": null }), 400, "missing field `quantity`"),
        (
            json!({ "quantity": "1.5005" }),
            422,
            "`quantity` 1.5005 is not a multiple of 0.001",
        ),
        (
            json!({ "price": "60000.255" }),
            422,
            "`price` 60000.255 is not a multiple of 0.01",
        ),
        (json!({ "price": "0.00" }), 422, "`price` is zero"),
        (json!({ "price": null }), 422, "a limit order needs `price`"),
        (
            json!({ "type": "market" }),
            422,
            "a market order has no `price`",
        ),
        (json!({ "type": "stop" }), 400, "unknown variant `stop`"),
        (json!({ "side": "long" }), 400, "unknown variant `long`"),
        (
            json!({ "quantity": "50.001" }),
            422,
            "`quantity` 50.001 is more than 50",
        ),
        (
            json!({ "quantity": "50" }),
            422,
            "the order's value 3000012.5 is more than 3000000",
        ),
        (
            json!({ "instrument": "DOGE-EUR" }),
            422,
            "`DOGE-EUR` is not traded here",
        ),
        (json!({ "instrument": "XRP-USD" }), 422, "XRP is halted"),
        (
            json!({ "instrument": "BTC USD" }),
            400,
            "`instrument` has 1 to 32 letters",
        ),
        (json!({ "id": "" }), 400, "`id` has 1 to 64 bytes"),
        (json!({ "id": 7 }), 400, "invalid type"),
    ] {
        check_refused(&mut host(), &order(&changes), code, says);
    }
    check_refused(&mut host(), "buy!", 400, "data cannot be used as JSON");
    let twice =
        r#"{"id":"1","instrument":"ETH-USD","side":"buy","quantity":1,"quantity":2,"price":1}"#;
    check_refused(&mut host(), twice, 400, "duplicate field `quantity`");
    let mut picky = host().config(json!({ "rules": [{ "min_quantity": 10, "channels": ["x"] }] }));
    check_refused(
        &mut picky,
        &order(&json!({})),
        422,
        "no rule takes 1.5 of `BTC-USD`",
    );
}

#[test]
fn orders_have_an_owner() {
    let refusal = host()
        .user("")
        .route::<OrderRouter>(INBOX, order(&json!({})));
    assert_eq!(
        refusal.unwrap_err().reason(),
        "only who is signed in places orders"
    );
    let mut back_end = host().origin(Origin::ServerApi);
    check_refused(&mut back_end, &order(&json!({})), 400, "`user` is missing");
    let routed = routed(&mut back_end, &order(&json!({ "user": "bob" })));
    assert_eq!(routed[0].1["user"], "bob");
    assert_eq!(routed.len(), 2, "there is no session to acknowledge to");
    assert_eq!(back_end.idempotency_key(), None, "the back end has its own");
}

#[test]
fn orders_are_counted_by_result() {
    let mut host = host();
    routed(&mut host, &order(&json!({})));
    check_refused(&mut host, "{}", 400, "missing field");
    check_refused(&mut host, "{}", 400, "missing field");
    assert_eq!(host.metric("orders", &[("result", "accepted")]), Some(1.0));
    assert_eq!(host.metric("orders", &[("result", "refused")]), Some(2.0));
}

#[test]
fn settings_that_cannot_be_used_say_what_is_wrong() {
    let rules = json!([{ "channels": ["matching"] }]);
    for (settings, says) in [
        (json!({}), "missing field `rules`"),
        (json!({ "rules": [] }), "`rules`: no rule names a channel"),
        (
            json!({ "rules": [{ "refuse": "no" }] }),
            "`rules`: no rule names a channel",
        ),
        (
            json!({ "rules": [{}] }),
            "`rules[0]`: it has either `channels`",
        ),
        (
            json!({ "rules": [{ "channels": [] }] }),
            "`rules[0]`: it has either `channels`",
        ),
        (
            json!({ "rules": [{ "channels": ["a"], "refuse": "no" }] }),
            "`rules[0]`: it has either `channels`",
        ),
        (
            json!({ "rules": [{ "channels": ["matching:{symbol}"] }] }),
            "`rules[0]`: `channels`: `{symbol}` in `matching:{symbol}` is not known; there is {instrument}",
        ),
        (
            json!({ "rules": [{ "channels": ["a"], "min_quantity": 2, "max_quantity": "1.5" }] }),
            "`rules[0]`: `min_quantity` 2 is more than `max_quantity` 1.5",
        ),
        (
            json!({ "rules": [{ "channels": vec!["a"; 33] }] }),
            "they name 33 channels",
        ),
        (
            json!({ "rules": [{ "channels": ["a"], "min_notional": "1e5" }] }),
            "`1e5` has an exponent",
        ),
        (
            json!({ "rules": rules, "instruments": [{ "pattern": "*", "tick": "0.0" }] }),
            "`instruments[0]`: `tick`: zero is no step",
        ),
        (
            json!({ "rules": rules, "instruments": [{ "pattern": "" }] }),
            "a pattern is empty; write \"*\" for everything",
        ),
        (
            json!({ "rules": rules, "dedupe": true }),
            "unknown field `dedupe`",
        ),
    ] {
        let error = Host::new()
            .config(settings)
            .check_settings::<OrderRouter>("routing");
        let error = error.expect_err("they cannot be used").to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(host().check_settings::<OrderRouter>("routing"), Ok(()));
}
