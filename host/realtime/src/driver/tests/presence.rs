//! Who sees whom: presence, and the messages of those who come and go.

use super::*;
use crate::{
    hooks::{Grant, ServerSubscription, ready},
    ids::{ChannelKey, ClientId},
    presence::{MAX_API_MEMBERS, Member, NoView, PresenceStats},
};

/// `seen:` keeps presence and tells of joins and leaves to who asks; `loud:` tells everybody.
fn world() -> World {
    world_with(NoHooks)
}

fn world_with(hooks: impl Hooks) -> World {
    let mut settings = settings();
    let open = NamespaceOptions::clone(&settings.channel.without_namespace);
    let seen = NamespaceOptions {
        presence: true,
        join_leave: true,
        ..open
    };
    let loud = NamespaceOptions {
        force_push_join_leave: true,
        ..seen.clone()
    };
    let namespaces = &mut settings.channel.namespaces;
    namespaces.insert("seen".into(), Arc::new(seen));
    namespaces.insert("loud".into(), Arc::new(loud));
    World::with_settings(hooks, settings)
}

/// What a client was told of who came and went, as `+client` and `-client`.
fn told(messages: &[String]) -> Vec<String> {
    let mut told = Vec::new();
    for text in messages {
        let message: serde_json::Value = serde_json::from_str(text).unwrap();
        for (sign, kind) in [('+', "join"), ('-', "leave")] {
            if let Some(client) = message["push"][kind]["info"]["client"].as_str() {
                told.push(format!("{sign}{client}"));
            }
        }
    }
    told
}

fn id(client: &Client) -> String {
    client.driver.link().client().to_string()
}

const ASKING: &str = r#"{"id":2,"subscribe":{"channel":"seen:room","join_leave":true}}"#;
const SILENT: &str = r#"{"id":2,"subscribe":{"channel":"seen:room"}}"#;

/// Has the client told something else, behind everything that is on its way to it.
async fn until_quiet(world: &World, client: &Client, channel: &str) -> Vec<String> {
    world.publish(channel, "\"mark\"").await;
    let seen = |messages: &[String]| messages.iter().any(|text| text.contains("mark"));
    client.wire.until(seen).await
}

#[tokio::test]
async fn joins_and_leaves_reach_those_who_asked_and_the_joiner_after_its_reply() {
    let world = world();
    let (mut asking, mut silent) = (world.join().await, world.join().await);
    asking.say(ASKING).await;
    silent.say(SILENT).await;
    // What is on its way reaches who comes meanwhile; the third comes later.
    asking.wire.until(|all| told(all).len() == 2).await;
    let mut third = world.join().await;
    let (a, s, t) = (id(&asking), id(&silent), id(&third));
    third.say(ASKING).await;
    let of_third = third.wire.until(|all| !told(all).is_empty()).await;
    let reply = of_third.iter().position(|text| text.contains(r#""id":2"#));
    let own = of_third.iter().position(|text| text.contains("\"join\""));
    assert!(reply.unwrap() < own.unwrap(), "{of_third:?}");
    third
        .say(r#"{"id":3,"unsubscribe":{"channel":"seen:room"}}"#)
        .await;
    drop(silent);
    let of_asking = until_quiet(&world, &asking, "seen:room").await;
    let expected = [
        format!("+{a}"),
        format!("+{s}"),
        format!("+{t}"),
        format!("-{t}"),
        format!("-{s}"),
    ];
    assert_eq!(told(&of_asking), expected);
    assert_eq!(
        told(&third.messages()),
        [format!("+{t}")],
        "not its own leave"
    );
}

#[tokio::test]
async fn who_did_not_ask_is_told_only_where_everybody_is() {
    let world = world();
    for (channel, is_told) in [("seen:room", false), ("loud:room", true)] {
        let (mut one, mut two) = (world.join().await, world.join().await);
        let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#);
        one.say(&subscribe).await;
        two.say(&subscribe).await;
        let expected = if is_told {
            vec![format!("+{}", id(&one)), format!("+{}", id(&two))]
        } else {
            Vec::new()
        };
        assert_eq!(told(&until_quiet(&world, &one, channel).await), expected);
    }
}

#[tokio::test]
async fn presence_and_its_numbers_are_those_of_now() {
    let world = world();
    let (mut one, mut two) = (world.join().await, world.join().await);
    one.say(SILENT).await;
    two.say(SILENT).await;
    let presence = r#"{"id":3,"presence":{"channel":"seen:room"}}"#;
    let stats = r#"{"id":4,"presence_stats":{"channel":"seen:room"}}"#;
    one.say(presence).await;
    let reply: serde_json::Value = serde_json::from_str(&one.last()).unwrap();
    let members = reply["presence"]["presence"].as_object().unwrap();
    assert_eq!(members.len(), 2);
    assert_eq!(members[&id(&two)]["client"], id(&two).as_str());
    one.say(stats).await;
    let both = r#"{"id":4,"presence_stats":{"num_clients":2,"num_users":1}}"#;
    assert_eq!(one.last(), both);
    drop(two);
    one.say(stats).await;
    let alone = r#"{"id":4,"presence_stats":{"num_clients":1,"num_users":1}}"#;
    assert_eq!(one.last(), alone);
    one.say(r#"{"id":5,"unsubscribe":{"channel":"seen:room"}}"#)
        .await;
    one.say(presence).await;
    assert_eq!(one.last(), r#"{"id":3,"presence":{"presence":{}}}"#);
    one.say(r#"{"id":6,"presence":{"channel":"room"}}"#).await;
    assert!(
        one.last().contains(r#""error":{"code":108"#),
        "{}",
        one.last()
    );
    one.say(r#"{"id":7,"presence_stats":{"channel":"no:room"}}"#)
        .await;
    assert!(
        one.last().contains(r#""error":{"code":102"#),
        "{}",
        one.last()
    );
}

#[tokio::test]
async fn plugins_see_who_is_there_at_once_where_presence_is_kept() {
    let world = world();
    let (mut one, two) = (world.join().await, world.join().await);
    one.say(SILENT).await;
    let (view, app) = (world.node.presence_view(), AppId::default_app());
    let stats = PresenceStats {
        num_clients: 1,
        num_users: 1,
    };
    assert_eq!(view.stats(&app, "seen:room"), Ok(stats));
    let members = view.members(&app, "seen:room", 10).unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].client, one.driver.link().client());
    assert_eq!(view.is_present(&app, "seen:room", ""), Ok(true));
    assert_eq!(view.is_present(&app, "seen:room", "ann"), Ok(false));
    assert_eq!(view.stats(&app, "seen:empty"), Ok(PresenceStats::default()));
    assert_eq!(view.stats(&app, "room"), Err(NoView::NotKept));
    assert_eq!(view.stats(&app, "no:room"), Err(NoView::NoChannel));
    let other = AppId::parse("other").unwrap();
    assert_eq!(view.stats(&other, "seen:room"), Err(NoView::NoChannel));
    drop(one);
    assert_eq!(view.is_present(&app, "seen:room", ""), Ok(false));
    drop(two);
}

#[tokio::test]
async fn a_reply_holds_everybody_or_says_that_it_cannot() {
    let world = world();
    let app = AppId::default_app();
    let key = ChannelKey::new(&app, "seen:hall");
    let store = world.node.roster().store();
    for index in 0..10_000 {
        let member = Arc::new(Member {
            client: ClientId::random(),
            user: format!("user-{index}").into(),
            conn_info: "".into(),
            chan_info: "".into(),
        });
        store.add(&key, &member).wait().await.unwrap();
    }
    let mut client = world.join().await;
    client
        .say(r#"{"id":3,"presence":{"channel":"seen:hall"}}"#)
        .await;
    assert!(
        client.last().contains(r#""error":{"code":106"#),
        "{}",
        client.last()
    );
    client
        .say(r#"{"id":4,"presence_stats":{"channel":"seen:hall"}}"#)
        .await;
    assert!(client.last().contains(r#""num_clients":10000"#));
    let request = server_api::PresenceRequest {
        channel: "seen:hall".into(),
    };
    const { assert!(MAX_API_MEMBERS > 10_000) };
    let found = world.node.presence(&app, request).wait().await.unwrap();
    assert_eq!(found.presence.len(), 10_000);
}

/// Everybody is ann, and is in `seen:lobby` from the start.
struct Lobby;

impl Hooks for Lobby {
    fn authenticate(&self, _: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        let grant = Grant {
            force_push_join_leave: Some(true),
            info: r#"{"seat":1}"#.into(),
            ..Grant::default()
        };
        let subscription = ServerSubscription {
            channel: "seen:lobby".into(),
            grant,
        };
        let identity = Identity {
            user: "ann".into(),
            info: r#"{"name":"Ann"}"#.into(),
            subscriptions: vec![subscription],
            ..Identity::default()
        };
        ready(AuthenticationVerdict::Accept(Box::new(identity)))
    }
}

#[tokio::test]
async fn the_servers_own_subscriptions_are_seen_like_any_other() {
    let world = world_with(Lobby);
    let one = world.join().await;
    let of_one = one.wire.until(|all| told(all).len() == 1).await;
    assert!(
        of_one[0].contains("\"connect\""),
        "the reply comes first: {of_one:?}"
    );
    let info = format!(
        r#"{{"user":"ann","client":"{}","conn_info":{{"name":"Ann"}},"chan_info":{{"seat":1}}}}"#,
        id(&one)
    );
    assert!(of_one[1].contains(&info), "{}", of_one[1]);
    let two = world.join().await;
    let second = id(&two);
    let app = AppId::default_app();
    let request = server_api::UnsubscribeRequest {
        user: "ann".into(),
        client: second.clone(),
        channel: "seen:lobby".into(),
        ..server_api::UnsubscribeRequest::default()
    };
    world.node.unsubscribe(&app, request).wait().await.unwrap();
    let mut two = two;
    two.signals();
    let of_one = one.wire.until(|all| told(all).len() == 3).await;
    let expected = [
        format!("+{}", id(&one)),
        format!("+{second}"),
        format!("-{second}"),
    ];
    assert_eq!(told(&of_one), expected);
}

#[tokio::test]
async fn what_is_shown_of_a_session_follows_its_identity() {
    let world = world_with(Lobby);
    let mut one = world.join().await;
    let app = AppId::default_app();
    let request = server_api::RefreshRequest {
        user: "ann".into(),
        info: r#"{"name":"Anna"}"#.into(),
        ..server_api::RefreshRequest::default()
    };
    world.node.refresh(&app, request).wait().await.unwrap();
    one.signals();
    world.node.roster().refresh_all().await;
    let request = server_api::PresenceRequest {
        channel: "seen:lobby".into(),
    };
    let found = world.node.presence(&app, request).wait().await.unwrap();
    let info = &found.presence[&id(&one)].conn_info;
    assert_eq!(info.as_bytes().as_ref(), br#"{"name":"Anna"}"#);
}
