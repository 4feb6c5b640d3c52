//! What the server API orders while a plugin is asked, and what is not asked.

use super::*;
use crate::hooks::SessionTarget;

impl Client {
    /// Waits for what [`Client::begins`] began.
    async fn goes_on(&mut self) -> Turn {
        std::future::poll_fn(|context| self.driver.poll_answer(context, &mut Budget::default()))
            .await
    }
}

fn slow_hooks() -> Scripted {
    Scripted {
        is_pending: true,
        ..Scripted::default()
    }
}

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

async fn disconnect(world: &World, user: &str) {
    let request = server_api::DisconnectRequest {
        user: user.into(),
        ..server_api::DisconnectRequest::default()
    };
    let app = AppId::default_app();
    world.node.disconnect(&app, request).wait().await.unwrap();
}

#[tokio::test]
async fn a_user_disconnected_while_he_is_asked_about_does_not_get_in() {
    let world = World::new(slow_hooks());
    let (mut meant, mut late) = (world.open(), world.open());
    assert!(meant.begins(CONNECT));
    disconnect(&world, "user").await;
    assert!(late.begins(CONNECT));
    disconnect(&world, "somebody else").await;
    assert_eq!(meant.goes_on().await, Turn::Read);
    assert!(matches!(meant.signals(), Turn::Close(closing) if closing.code == 3503));
    assert_eq!(late.goes_on().await, Turn::Read);
    assert_eq!(late.signals(), Turn::Read);
}

#[tokio::test]
async fn a_user_whom_a_plugin_bans_while_he_is_asked_about_does_not_get_in() {
    let world = World::new(slow_hooks());
    let mut meant = world.open();
    assert!(meant.begins(CONNECT));
    let ban = Effect::Disconnect {
        target: SessionTarget::User("user".into()),
        code: 4500,
        reason: "banned".into(),
    };
    let app = world.node.app(&AppId::default_app()).unwrap();
    crate::publish::run_effects(&world.node, &app, vec![ban], 0);
    assert_eq!(meant.goes_on().await, Turn::Read);
    assert!(matches!(meant.signals(), Turn::Close(closing) if closing.code == 4500));
}

#[tokio::test]
async fn a_connection_that_was_refused_or_given_up_leaves_no_orders_behind() {
    let world = World::new(slow_hooks());
    let mut given_up = world.open();
    assert!(given_up.begins(CONNECT));
    disconnect(&world, "user").await;
    drop(given_up);
    let mut next = world.open();
    assert!(next.begins(CONNECT));
    assert_eq!(next.goes_on().await, Turn::Read);
    assert_eq!(next.signals(), Turn::Read);
}

#[tokio::test]
async fn a_subscription_taken_away_while_a_plugin_is_asked_does_not_stay() {
    let world = World::new(slow_hooks());
    let mut client = world.join().await;
    assert!(client.begins(r#"{"id":2,"subscribe":{"channel":"room"}}"#));
    let request = server_api::UnsubscribeRequest {
        user: "user".into(),
        channel: "room".into(),
        ..server_api::UnsubscribeRequest::default()
    };
    let app = AppId::default_app();
    world.node.unsubscribe(&app, request).wait().await.unwrap();
    assert_eq!(client.signals(), Turn::Wait);
    assert_eq!(client.goes_on().await, Turn::Read);
    client.driver.link().flush();
    assert_eq!(
        client.last(),
        r#"{"push":{"channel":"room","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#
    );
    assert_eq!(client.driver.session().num_subscriptions(), 0);
}

#[tokio::test]
async fn channels_that_a_plugin_guards_are_left_out_of_a_connect_request() {
    let world = World::new(Scripted {
        knows_nobody: true,
        ..Scripted::default()
    });
    let mut client = world.open();
    client
        .say(r#"{"id":1,"connect":{"subs":{"guarded":{},"free":{}}}}"#)
        .await;
    let reply: serde_json::Value = serde_json::from_str(&client.last()).unwrap();
    let subs = reply["connect"]["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["free"]);
}

#[tokio::test]
async fn a_delta_is_refused_by_name() {
    let world = World::new(NoHooks);
    let request = |delta| server_api::PublishRequest {
        channel: "room".into(),
        data: "1".into(),
        delta,
        ..server_api::PublishRequest::default()
    };
    let app = AppId::default_app();
    let refused = world.node.publish(&app, request(Some(true))).wait().await;
    let error = refused.unwrap_err();
    assert_eq!(error.code, 108);
    assert!(error.message.contains("delta"), "{}", error.message);
    assert_eq!(world.node.hub().statistics().broadcasts, 0);
    let published = world.node.publish(&app, request(Some(false))).wait().await;
    assert!(published.is_ok());
}
