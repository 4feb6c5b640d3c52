//! `rate-tier`: so much for each tier, never more for all devices of a user together, and a ban for who does not stop.

use tidegate_tests::client::Closed;

use super::*;

const ROOM: &str = "chat:lobby";

/// Tokens grow so slowly that none does during a test.
fn settings() -> Value {
    json!({
        "tiers": {
            "free": { "rate": 1, "per": "1h", "burst": 3 },
            "gold": { "rate": 1, "per": "1h", "burst": 6 },
        },
        "default_tier": "free",
        "users": { "gina": "gold" },
        "roles": { "operator": "gold" },
    })
}

async fn node(settings: &Value, doors: &[&str]) -> Node {
    let node = builder().namespace(open("chat")).start();
    node.install("rate-tier", "filtering@namespace:chat", settings)
        .await;
    for door in doors {
        let bound = node
            .cli(&["plugin", "bind", "rate-tier", door, "--json"])
            .await;
        assert_eq!(bound.code, Some(0), "{}", bound.stderr);
    }
    node
}

fn with_ban() -> Value {
    let mut settings = settings();
    settings["ban"] = json!({ "after": 3, "within": "1h", "for": "1h" });
    settings
}

/// Sends until the ban closes the connection.
async fn provoke(client: &mut Client) -> Closed {
    for _ in 0..3 {
        accepted(&client.publish(ROOM, &json!({})).await);
    }
    for _ in 0..2 {
        assert_eq!(error(&client.publish(ROOM, &json!({})).await).0, 429);
    }
    let last = tidegate_protocol::PublishRequest {
        channel: ROOM.to_owned(),
        data: tidegate_tests::client::raw(&json!({})),
        ..Default::default()
    };
    let last = tidegate_protocol::Command {
        publish: Some(Box::new(last)),
        ..Default::default()
    };
    client.send_commands(vec![last]).await;
    client.closed().await
}

#[track_caller]
fn banned(closed: &Closed) {
    assert_eq!(closed.code, 4503, "{closed:?}");
    let is_told = closed
        .reason
        .starts_with("banned for sending too much; retry after ");
    assert!(is_told, "{closed:?}");
}

#[tokio::test]
async fn each_tier_has_its_burst_and_who_has_none_left_hears_when_to_try_again() {
    let node = node(&settings(), &[]).await;
    for (codec, user, role, burst) in [
        (Codec::Json, "ann", "member", 3),
        (Codec::Protobuf, "bob", "member", 3),
        (Codec::Json, "gina", "member", 6),
        (Codec::Protobuf, "olga", "operator", 6),
    ] {
        let mut client = join(&node, codec, user, role).await;
        for _ in 0..burst {
            accepted(&client.publish(ROOM, &json!({})).await);
        }
        let reply = client.publish(ROOM, &json!({})).await;
        let (code, reason) = error(&reply);
        assert_eq!(code, 429, "{user}: {reason}");
        let tier = if burst == 3 { "free" } else { "gold" };
        let expected =
            format!("too many messages: tier `{tier}` has 1 in 1h, {burst} at once; retry after ");
        assert!(reason.starts_with(&expected), "{reason}");
    }
    // The back end is not limited.
    for _ in 0..10 {
        let body = json!({ "channel": ROOM, "data": {} });
        node.api().call("publish", &body).await;
    }
    let refused = |tier: &str| {
        format!(
            "tidegate_plugin_custom_counter_refused_total{{app=\"default\",plugin=\"rate-tier\",tier=\"{tier}\"}}"
        )
    };
    let metrics = node.metrics().await;
    assert_eq!(metrics.get(&refused("free")), 2);
    assert_eq!(metrics.get(&refused("gold")), 2);
}

#[tokio::test]
async fn all_devices_of_a_user_together_get_no_more_than_the_bucket_holds() {
    let mut settings = settings();
    settings["tiers"]["free"]["burst"] = 20.into();
    let node = node(&settings, &[]).await;
    let mut devices = Vec::new();
    for nth in 0..6 {
        devices.push(join(&node, CODECS[nth % 2], "ann", "member").await);
    }
    let sent = devices.iter_mut().map(async |device| {
        let (mut taken, mut failed) = (0, 0);
        for _ in 0..8 {
            let reply = device.publish(ROOM, &json!({})).await;
            taken += usize::from(reply.publish.is_some());
            failed += usize::from(reply.error.is_some_and(|error| error.code == 100));
        }
        (taken, failed)
    });
    let sent = futures_util::future::join_all(sent).await;
    let taken: usize = sent.iter().map(|(taken, _)| taken).sum();
    // A call that is late on a busy machine may have taken a token with it.
    let failed: usize = sent.iter().map(|(_, failed)| failed).sum();
    assert!(
        taken <= 20 && taken + failed >= 20,
        "{taken} and {failed} late"
    );
    assert_eq!(history(&node, ROOM).await.len(), taken);
}

#[tokio::test]
async fn who_does_not_stop_is_banned_on_all_devices_and_kept_out() {
    let node = node(&with_ban(), &["authentication", "authorization"]).await;
    let mut phone = join(&node, Codec::Protobuf, "ann", "member").await;
    let mut laptop = join(&node, Codec::Json, "ann", "member").await;
    let mut bob = reader(&node, "bob", &[ROOM]).await;
    banned(&provoke(&mut laptop).await);
    banned(&phone.closed().await);

    // The token names who it is, so not even connecting succeeds.
    for codec in CODECS {
        let mut again = Client::open(&node, codec).await;
        let connect = tidegate_protocol::Command {
            connect: Some(Box::new(with_token(&token_of("ann", "member")))),
            ..Default::default()
        };
        let ids = again.send_commands(vec![connect]).await;
        banned(
            &again
                .reply_or_close(ids[0])
                .await
                .expect_err("ann is banned"),
        );
    }
    // Nobody else notices; of what ann sent, three messages were heard.
    accepted(&bob.publish(ROOM, &json!({ "n": 4 })).await);
    assert_eq!(history(&node, ROOM).await.len(), 4);
    let bans = "tidegate_plugin_custom_counter_bans_total{app=\"default\",plugin=\"rate-tier\",tier=\"free\"}";
    assert_eq!(node.metrics().await.get(bans), 1);
}

#[tokio::test]
async fn where_connecting_is_not_its_business_a_ban_holds_at_subscribe_and_publish() {
    let node = node(&with_ban(), &["authorization"]).await;
    banned(&provoke(&mut join(&node, Codec::Json, "ann", "member").await).await);
    let subscribe = tidegate_protocol::SubscribeRequest {
        channel: ROOM.to_owned(),
        ..Default::default()
    };
    let publish = tidegate_protocol::PublishRequest {
        channel: ROOM.to_owned(),
        data: tidegate_tests::client::raw(&json!({})),
        ..Default::default()
    };
    for command in [
        tidegate_protocol::Command {
            subscribe: Some(Box::new(subscribe)),
            ..Default::default()
        },
        tidegate_protocol::Command {
            publish: Some(Box::new(publish)),
            ..Default::default()
        },
    ] {
        let mut ann = join(&node, Codec::Json, "ann", "member").await;
        let ids = ann.send_commands(vec![command]).await;
        banned(&ann.reply_or_close(ids[0]).await.expect_err("ann is banned"));
    }
}
