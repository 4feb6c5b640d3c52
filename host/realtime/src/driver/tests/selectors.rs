//! Whom the server API means, and what its refresh changes.

use tidegate_protocol::server_api::{DisconnectRequest, RefreshRequest};

use super::*;
use crate::ids::SessionId;

impl World {
    async fn disconnect(&self, request: DisconnectRequest) {
        let app = AppId::default_app();
        let done = self.node.disconnect(&app, request).wait().await;
        done.unwrap();
    }

    /// A client of a transport whose later commands come by requests of their own.
    async fn join_emulated(&self) -> Client {
        let mut client = self.try_open_with(Framing::HttpStream).unwrap();
        client.say(r#"{"id":1,"connect":{}}"#).await;
        client
    }
}

fn first_line(client: &Client) -> serde_json::Value {
    let bytes = client.wire.bytes();
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap();
    serde_json::from_slice(line).unwrap()
}

fn session_of(client: &Client) -> String {
    first_line(client)["connect"]["session"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn emulated_sessions_are_told_their_secret_id_and_their_node_and_others_are_not() {
    let world = World::new(NoHooks);
    let (one, two) = (world.join_emulated().await, world.join_emulated().await);
    let result = &first_line(&one)["connect"];
    assert_eq!(result["node"], world.node.uid());
    let session = session_of(&one);
    assert!(SessionId::parse(&session).is_some());
    assert_ne!(result["client"], session.as_str(), "the public id");
    assert_ne!(session_of(&two), session);
    let socket = world.join().await;
    let reply: serde_json::Value = serde_json::from_str(&socket.last()).unwrap();
    assert!(reply["connect"]["session"].is_null() && reply["connect"]["node"].is_null());
}

#[tokio::test]
async fn a_session_selector_ends_that_session_and_no_other() {
    let world = World::new(NoHooks);
    let (mut one, mut two) = (world.join_emulated().await, world.join_emulated().await);
    let mut socket = world.join().await;
    let (first, second) = (session_of(&one), session_of(&two));
    let of = |session: &str| DisconnectRequest {
        session: session.to_owned(),
        ..DisconnectRequest::default()
    };
    // A public id is no session, neither is a made-up one; and both selectors have to fit.
    let public = one.driver.session().peer().client.to_string();
    world.disconnect(of(&public)).await;
    world.disconnect(of("not an id")).await;
    world.disconnect(of(&SessionId::random().reveal())).await;
    world
        .disconnect(DisconnectRequest {
            client: public.clone(),
            ..of(&second)
        })
        .await;
    world
        .disconnect(DisconnectRequest {
            user: "somebody".to_owned(),
            ..of(&first)
        })
        .await;
    for client in [&mut one, &mut two, &mut socket] {
        assert_eq!(client.signals(), Turn::Read);
    }
    world.disconnect(of(&first)).await;
    assert!(matches!(one.signals(), Turn::Close(closing) if closing.code == 3503));
    for client in [&mut two, &mut socket] {
        assert_eq!(client.signals(), Turn::Read);
    }
}

#[tokio::test]
async fn a_refresh_of_the_api_replaces_what_others_are_shown() {
    let world = World::new(NoHooks);
    let mut client = world.join().await;
    client
        .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
        .await;
    let refresh = |info: &'static str| RefreshRequest {
        info: info.into(),
        ..RefreshRequest::default()
    };
    let app = AppId::default_app();
    for (info, shown) in [
        (r#"{"name":"Anna"}"#, r#""conn_info":{"name":"Anna"}"#),
        // No info leaves the one there is.
        ("", r#""conn_info":{"name":"Anna"}"#),
        ("2", r#""conn_info":2"#),
    ] {
        world
            .node
            .refresh(&app, refresh(info))
            .wait()
            .await
            .unwrap();
        client.signals();
        client
            .say(r#"{"id":3,"publish":{"channel":"room","data":1}}"#)
            .await;
        client
            .wire
            .until(|messages| {
                let mut pushes = messages
                    .iter()
                    .rev()
                    .filter(|text| text.contains("\"pub\""));
                pushes.next().is_some_and(|text| text.contains(shown))
            })
            .await;
    }
}
