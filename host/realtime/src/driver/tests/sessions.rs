//! Plugins that end connections and take subscriptions away.

use super::*;
use crate::{hooks::SessionTarget, ids::ClientId};

#[tokio::test]
async fn plugins_end_connections_and_subscriptions_of_their_app() {
    let world = World::new(Scripted::default());
    let (mut one, mut two) = (world.join().await, world.join().await);
    for client in [&mut one, &mut two] {
        client
            .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
            .await;
    }
    let app = world.node.app(&AppId::default_app()).unwrap();
    let disconnect = |target| Effect::Disconnect {
        target,
        code: 4010,
        reason: "enough".into(),
    };
    let effects = vec![
        Effect::Unsubscribe {
            target: SessionTarget::User("user".into()),
            channel: "room".into(),
        },
        disconnect(SessionTarget::Client(two.driver.link().client())),
        disconnect(SessionTarget::User("somebody else".into())),
        disconnect(SessionTarget::Client(ClientId::random())),
    ];
    crate::publish::run_effects(&world.node, &app, effects, 0);
    assert_eq!(one.signals(), Turn::Read);
    assert!(
        one.last().contains(r#""unsubscribe":{"code":2000"#),
        "{}",
        one.last()
    );
    match two.signals() {
        Turn::Close(closing) => assert_eq!((closing.code, &*closing.reason), (4010, "enough")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_plugin_that_answers_a_message_with_a_disconnect_ends_its_sender() {
    let world = World::new(Scripted {
        effects: Mutex::new(vec![Effect::Disconnect {
            target: SessionTarget::User("user".into()),
            code: 4500,
            reason: "banned".into(),
        }]),
        ..Scripted::default()
    });
    let mut client = world.join().await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert_eq!(client.last(), r#"{"id":3,"publish":{}}"#);
    assert!(matches!(client.signals(), Turn::Close(closing) if closing.code == 4500));
}
