//! Where routers send messages.

use super::*;
use crate::hooks::Target;

fn target(target: Target, data: Option<&'static str>) -> Destination {
    Destination {
        target,
        data: data.map(Bytes::from),
    }
}

#[tokio::test]
async fn destinations_get_the_message_in_their_own_way() {
    let scripted = Scripted::default();
    *scripted.routes.lock() = vec![
        target(Target::User("user".into()), Some(r#"{"to":"you"}"#)),
        target(Target::Channel("kept:log".into()), None),
        target(Target::Session("nobody".into()), None),
    ];
    let world = World::new(scripted);
    let (mut one, mut two) = (world.join().await, world.join().await);
    two.say(r#"{"id":2,"subscribe":{"channel":"room"}}"#).await;
    one.say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    for client in [&one, &two] {
        client.driver.link().flush();
        let push = r#"{"push":{"message":{"data":{"to":"you"}}}}"#;
        assert!(client.messages().iter().any(|text| text == push));
    }
    let app = AppId::default_app();
    let request = server_api::HistoryRequest {
        channel: "kept:log".into(),
        limit: 10,
        ..server_api::HistoryRequest::default()
    };
    let history = world.node.history(&app, request).wait().await.unwrap();
    assert_eq!(history.publications.len(), 1);
    assert_eq!(history.publications[0].data.as_bytes(), "1");
    assert!(!two.messages().iter().any(|text| text.contains("\"pub\"")));
}

#[tokio::test]
async fn a_message_with_one_destination_that_is_not_there_goes_nowhere() {
    let scripted = Scripted::default();
    *scripted.routes.lock() = vec![
        target(Target::User("user".into()), None),
        target(Target::Channel("kept:log".into()), None),
        target(Target::Origin, None),
        target(Target::Channel("nowhere:log".into()), None),
    ];
    let world = World::new(scripted);
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    client
        .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
        .await;
    assert!(client.last().contains(r#""code":100"#), "{}", client.last());
    client.driver.link().flush();
    assert!(!client.messages().iter().any(|text| text.contains("push")));
    let request = server_api::HistoryRequest {
        channel: "kept:log".into(),
        limit: 10,
        ..server_api::HistoryRequest::default()
    };
    let app = AppId::default_app();
    let history = world.node.history(&app, request).wait().await.unwrap();
    assert_eq!(history.publications.len(), 0);
}
