//! `order-router`: an order reaches those whose business it is, its sender hears of it, and nobody else does.

use super::*;

const INBOX: &str = "orders:new";

fn settings() -> Value {
    json!({
        "instruments": [{ "pattern": "*-USD", "tick": "0.01", "lot": "0.001" }],
        "rules": [
            { "channels": ["matching:{instrument}", "settlement:all"] },
            { "min_notional": "100000", "channels": ["risk:large"] },
        ],
    })
}

async fn node(settings: &Value) -> Node {
    let mut orders = open("orders");
    orders["allow_subscribe_for_client"] = false.into();
    let mut builder = builder().namespace(orders);
    for name in ["matching", "risk", "settlement"] {
        builder = builder.namespace(open(name));
    }
    let node = builder.start();
    node.install("order-router", "routing@namespace:orders", settings)
        .await;
    node
}

fn order(id: &str, quantity: &str) -> Value {
    json!({ "id": id, "instrument": "BTC-USD", "side": "buy", "quantity": quantity, "price": "60000.25" })
}

/// Id, user and worth of an order as a channel gets it.
fn seen(order: &Value) -> (String, String, String) {
    let text = |name: &str| order[name].as_str().unwrap_or_default().to_owned();
    (text("id"), text("user"), text("notional"))
}

fn expected(id: &str, user: &str, notional: &str) -> (String, String, String) {
    (id.to_owned(), user.to_owned(), notional.to_owned())
}

#[tokio::test]
async fn orders_reach_matching_settlement_and_risk_by_size_and_their_sender_is_told() {
    let node = node(&settings()).await;
    let mut matching = reader(&node, "engine", &["matching:BTC-USD"]).await;
    let mut settlement = reader(&node, "back-office", &["settlement:all"]).await;
    let mut risk = reader(&node, "risk", &["risk:large"]).await;
    for (codec, user) in CODECS.into_iter().zip(["ann", "bob"]) {
        let mut trader = join(&node, codec, user, "member").await;
        for (id, quantity, notional) in [("1", "0.1", "6000.025"), ("2", "1.7", "102000.425")] {
            // Whoever claims to be somebody else is not believed.
            let mut order = order(&format!("{user}-{id}"), quantity);
            order["user"] = "mallory".into();
            accepted(&trader.publish(INBOX, &order).await);
            let ack = trader.message().await;
            assert_eq!(ack["type"], "ack", "{ack}");
            assert_eq!(
                (&ack["id"], &ack["status"]),
                (&order["id"], &json!("accepted"))
            );

            let expected = expected(&format!("{user}-{id}"), user, notional);
            assert_eq!(seen(&matching.publication().await.0), expected);
            assert_eq!(seen(&settlement.publication().await.0), expected);
            if id == "2" {
                assert_eq!(seen(&risk.publication().await.0), expected);
            }
        }
    }
    assert_eq!(history(&node, INBOX).await, [] as [Value; 0]);
    assert_eq!(history(&node, "risk:large").await.len(), 2);
}

#[tokio::test]
async fn an_order_that_is_not_acceptable_reaches_nobody_and_its_sender_hears_why() {
    let node = node(&settings()).await;
    for codec in CODECS {
        let mut ann = join(&node, codec, "ann", "member").await;
        for (quantity, reason) in [
            ("0.0001", "`quantity` 0.0001 is not a multiple of 0.001"),
            ("0", "`quantity` is zero"),
        ] {
            let reply = ann.publish(INBOX, &order("1", quantity)).await;
            assert_eq!(error(&reply), (422, reason));
        }
        let mut unknown = order("1", "1");
        unknown["instrument"] = "BTC-EUR".into();
        let reply = ann.publish(INBOX, &unknown).await;
        assert_eq!(error(&reply), (422, "`BTC-EUR` is not traded here"));
        let reply = ann.publish(INBOX, &json!({ "id": "1" })).await;
        assert_eq!(error(&reply).0, 400);
    }
    for channel in ["matching:BTC-USD", "settlement:all", "risk:large"] {
        assert_eq!(history(&node, channel).await, [] as [Value; 0], "{channel}");
    }
}

#[tokio::test]
async fn an_order_sent_again_after_a_cut_is_placed_once() {
    let node = node(&settings()).await;
    let first = order("1", "0.5");
    let mut ann = join(&node, Codec::Json, "ann", "member").await;
    accepted(&ann.publish(INBOX, &first).await);
    ann.cut();
    let mut ann = join(&node, Codec::Protobuf, "ann", "member").await;
    accepted(&ann.publish(INBOX, &first).await);
    assert_eq!(ann.message().await["id"], "1");
    // Another user's is another order, and so is another id.
    let mut bob = join(&node, Codec::Json, "bob", "member").await;
    accepted(&bob.publish(INBOX, &first).await);
    accepted(&ann.publish(INBOX, &order("2", "0.5")).await);
    let placed: Vec<_> = history(&node, "matching:BTC-USD").await;
    let placed: Vec<_> = placed.iter().map(seen).collect();
    let notional = "30000.125";
    assert_eq!(
        placed,
        [
            expected("1", "ann", notional),
            expected("1", "bob", notional),
            expected("2", "ann", notional)
        ]
    );
}

#[tokio::test]
async fn an_order_that_cannot_reach_everybody_reaches_nobody() {
    let mut settings = settings();
    settings["rules"][1]["channels"] = json!(["nowhere:large"]);
    let node = node(&settings).await;
    let mut ann = join(&node, Codec::Json, "ann", "member").await;
    assert_eq!(error(&ann.publish(INBOX, &order("1", "2")).await).0, 100);
    assert_eq!(history(&node, "matching:BTC-USD").await, [] as [Value; 0]);
    // A small one concerns nobody who is not there.
    accepted(&ann.publish(INBOX, &order("2", "1")).await);
    assert_eq!(
        ann.message().await["id"],
        "2",
        "nothing was said of the first"
    );
    assert_eq!(history(&node, "matching:BTC-USD").await.len(), 1);
}

#[tokio::test]
async fn rules_that_name_nobody_are_not_bound_and_those_before_stay() {
    let node = node(&settings()).await;
    let bad = json!({ "rules": [{ "refuse": "no" }] }).to_string();
    let bind = [
        "plugin",
        "bind",
        "order-router",
        "routing",
        "--scope",
        "namespace:orders",
        "--config",
        &bad,
    ];
    let refused = node.cli(&bind).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("`rules`: no rule names a channel"),
        "{}",
        refused.stderr
    );
    let listed = node.cli(&["plugin", "list", "--json"]).await.json();
    assert_eq!(listed["bindings"][0]["config"], settings(), "{listed}");
}
