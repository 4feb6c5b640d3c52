//! Several nodes on a bus that loses, delays and lies.

use tidegate_protocol::server_api::{
    BoolValue, ChannelsRequest, DisconnectRequest, NodeMetrics, Position, ProcessInfo,
    RefreshRequest, SubscribeOverride, SubscribeRequest, UnsubscribeRequest,
};
use tokio::time::Instant;

use super::*;
use crate::{
    cluster::{ASK_TIMEOUT, ClusterMetrics, FORGOTTEN_AFTER, NodeUid, test_bus::TestBus},
    config::PersonalChannel,
    node::SessionFilter,
};

struct Nodes {
    bus: TestBus,
    worlds: Vec<World>,
    metrics: ClusterMetrics,
}

impl Nodes {
    /// Nodes that know each other.
    async fn new(number: usize) -> Self {
        Self::with_settings(number, &settings()).await
    }

    async fn with_settings(number: usize, settings: &RealtimeConfig) -> Self {
        let (bus, metrics) = (TestBus::default(), ClusterMetrics::default());
        let world = |_| World::with_settings(Scripted::default(), settings.clone());
        let worlds: Vec<_> = (0..number).map(world).collect();
        for world in &worlds {
            let cluster = world.node.join_cluster(bus.handle(), metrics.clone());
            world.node.spawn(cluster.run(world.stop.clone()));
        }
        let nodes = Self {
            bus,
            worlds,
            metrics,
        };
        nodes.until_all_know(number).await;
        nodes
    }

    async fn until_all_know(&self, number: usize) {
        let know = |world: &World| world.node.cluster().unwrap().num_nodes() == number;
        let everybody = async {
            while !self.worlds.iter().all(know) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), everybody)
            .await
            .expect("the nodes hear of each other");
    }

    /// A client of each node, all in the channel `room`.
    async fn in_room(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for world in &self.worlds {
            clients.push(world.join().await);
        }
        for client in &mut clients {
            client
                .say(r#"{"id":2,"subscribe":{"channel":"room"}}"#)
                .await;
        }
        clients
    }

    fn node(&self, index: usize) -> &Arc<Node> {
        &self.worlds[index].node
    }

    async fn disconnect(&self, index: usize) -> Result<(), server_api::ApiError> {
        let request = DisconnectRequest {
            user: "user".into(),
            ..DisconnectRequest::default()
        };
        let done = self.node(index).disconnect(&AppId::default_app(), request);
        done.wait().await.map(|_| ())
    }

    async fn channels(&self, index: usize) -> Vec<(String, u32)> {
        self.try_channels(index).await.unwrap()
    }

    async fn try_channels(&self, index: usize) -> Result<Vec<(String, u32)>, server_api::ApiError> {
        let request = ChannelsRequest::default();
        let found = self.node(index).channels(&AppId::default_app(), request);
        let channels = found.wait().await?.channels.into_iter();
        Ok(channels
            .map(|(name, stats)| (name, stats.num_clients))
            .collect())
    }

    async fn clients(&self, index: usize) -> Vec<u32> {
        let info = self.node(index).info(&AppId::default_app());
        let nodes = info.wait().await.unwrap().nodes;
        nodes.iter().map(|node| node.num_clients).collect()
    }

    async fn subscribe(&self, index: usize, request: SubscribeRequest) {
        let request = SubscribeRequest {
            user: "user".into(),
            ..request
        };
        let done = self.node(index).subscribe(&AppId::default_app(), request);
        done.wait().await.unwrap();
    }
}

/// Has a client act on what was signalled, to the end.
async fn settle(client: &mut Client) -> Turn {
    let mut turn = client.signals();
    while turn == Turn::Wait {
        turn = std::future::poll_fn(|context| {
            client.driver.poll_answer(context, &mut Budget::default())
        })
        .await;
    }
    client.driver.link().flush();
    turn
}

fn is_closed(turn: &Turn, code: u32) -> bool {
    matches!(turn, Turn::Close(closing) if closing.code == code)
}

#[tokio::test(start_paused = true)]
async fn calls_reach_sessions_on_every_node_and_answers_come_from_all() {
    let nodes = Nodes::new(3).await;
    let mut clients = nodes.in_room().await;
    clients[2]
        .say(r#"{"id":3,"subscribe":{"channel":"other"}}"#)
        .await;
    assert_eq!(
        nodes.channels(1).await,
        [("other".to_owned(), 1), ("room".to_owned(), 3)]
    );
    // What other nodes say of themselves is at most an announcement old.
    tokio::time::sleep(crate::cluster::ANNOUNCE_INTERVAL).await;
    assert_eq!(nodes.clients(0).await, [1, 1, 1]);

    let app = AppId::default_app();
    let unsubscribe = UnsubscribeRequest {
        user: "user".into(),
        channel: "room".into(),
        ..UnsubscribeRequest::default()
    };
    nodes
        .node(0)
        .unsubscribe(&app, unsubscribe)
        .wait()
        .await
        .unwrap();
    let refresh = RefreshRequest {
        user: "user".into(),
        client: clients[2].driver.session().peer().client.to_string(),
        expired: true,
        ..RefreshRequest::default()
    };
    for client in &mut clients {
        assert_eq!(settle(client).await, Turn::Read);
        assert!(client.last().contains(r#""unsubscribe":{"code":2000"#));
    }
    nodes.node(1).refresh(&app, refresh).wait().await.unwrap();
    assert!(is_closed(&settle(&mut clients[2]).await, 3005));
    nodes.disconnect(2).await.unwrap();
    assert!(is_closed(&settle(&mut clients[0]).await, 3503));
    assert!(is_closed(&settle(&mut clients[1]).await, 3503));
}

#[tokio::test(start_paused = true)]
async fn what_a_process_uses_is_seen_from_every_node_and_by_the_default_app_alone() {
    let nodes = Nodes::new(2).await;
    let process = ProcessInfo { cpu: 12.5, rss: 7 };
    nodes.node(0).tell_process(process.clone());
    let metrics = |interval| NodeMetrics {
        interval,
        items: [("kept".to_owned(), 3.0), ("no_number".to_owned(), f64::NAN)].into(),
    };
    nodes.node(0).tell_metrics(metrics(60.0));
    let seen = async |index: usize, app: &AppId| {
        let info = nodes.node(index).info(app).wait().await.unwrap();
        let uid = nodes.node(0).uid();
        let mut of_first = info.nodes.into_iter().filter(|node| node.uid == uid);
        let node = of_first.next().unwrap();
        (node.process, node.metrics)
    };
    let own = NodeMetrics {
        items: [("kept".to_owned(), 3.0)].into(),
        ..metrics(60.0)
    };
    let app = AppId::default_app();
    assert_eq!(
        seen(0, &app).await,
        (Some(process.clone()), Some(own.clone()))
    );
    assert_eq!(seen(1, &app).await, (None, None));
    tokio::time::sleep(crate::cluster::ANNOUNCE_INTERVAL).await;
    assert_eq!(
        seen(1, &app).await,
        (Some(process.clone()), Some(own.clone()))
    );
    // What is not new is not sent again, and holds.
    tokio::time::sleep(crate::cluster::ANNOUNCE_INTERVAL).await;
    assert_eq!(seen(1, &app).await, (Some(process), Some(own)));

    let other = AppId::parse("other").unwrap();
    for world in &nodes.worlds {
        world.node.set_app(&other, settings());
    }
    assert_eq!(seen(0, &other).await, (None, None));
    assert_eq!(seen(1, &other).await, (None, None));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_lost_comes_again_and_is_carried_out_once() {
    let nodes = Nodes::new(2).await;
    let client = nodes.worlds[1].join().await;
    // Once the order is lost on its way, once its answer.
    for kept in [0, 1] {
        nodes.bus.lose(kept, 1);
        nodes.disconnect(0).await.unwrap();
        let signals = client.driver.link().take_signals();
        assert_eq!(signals.len(), 1, "{kept}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_delays_nobody_beyond_the_deadline_and_is_forgotten() {
    let nodes = Nodes::new(3).await;
    let mut clients = nodes.in_room().await;
    nodes.bus.cut(nodes.node(2).uid());
    let begun = Instant::now();
    assert_eq!(nodes.channels(0).await, [("room".to_owned(), 2)]);
    assert_eq!(begun.elapsed(), ASK_TIMEOUT);
    assert_eq!(nodes.metrics.unanswered(), 1);
    nodes.disconnect(0).await.unwrap();
    assert!(is_closed(&settle(&mut clients[1]).await, 3503));
    let begun = Instant::now();
    while nodes.clients(0).await.len() == 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() <= FORGOTTEN_AFTER);
    // From then on nobody waits for it.
    let begun = Instant::now();
    nodes.disconnect(0).await.unwrap();
    assert!(begun.elapsed() < ASK_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_was_disconnected_while_a_node_was_not_heard_does_not_stay_there() {
    let nodes = Nodes::new(2).await;
    let mut far = nodes.worlds[1].join().await;
    nodes.bus.cut(nodes.node(1).uid());
    nodes.disconnect(0).await.unwrap();
    while nodes.clients(0).await.len() == 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(settle(&mut far).await, Turn::Read, "it has heard nothing");
    nodes.bus.mend(nodes.node(1).uid());
    nodes.until_all_know(2).await;
    let mut turn = settle(&mut far).await;
    while turn == Turn::Read {
        tokio::time::sleep(Duration::from_millis(10)).await;
        turn = settle(&mut far).await;
    }
    assert!(is_closed(&turn, 3503));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_says_so() {
    let mut nodes = Nodes::new(2).await;
    let leaving = nodes.worlds.remove(1);
    leaving.stop.cancel();
    let begun = Instant::now();
    nodes.until_all_know(1).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_others_cannot_be_told_of_fails_and_counts_here() {
    let nodes = Nodes::new(2).await;
    let mut client = nodes.worlds[0].join().await;
    nodes.bus.set_down(true);
    let error = nodes.disconnect(0).await.unwrap_err();
    assert_eq!(error.code, 100);
    assert!(
        error.message.contains("the other nodes"),
        "{}",
        error.message
    );
    assert!(is_closed(&settle(&mut client).await, 3503));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_does_not_say_that_nobody_is_elsewhere() {
    let nodes = Nodes::new(2).await;
    let _clients = nodes.in_room().await;
    let is_unknown = async || {
        let refused = nodes.try_channels(0).await;
        refused.is_err_and(|error| error.code == 100 && error.message.contains("the other nodes"))
    };
    nodes.bus.set_down(true);
    assert!(is_unknown().await);
    tokio::time::sleep(FORGOTTEN_AFTER * 3).await;
    assert_eq!(nodes.clients(0).await.len(), 1, "the other is forgotten");
    assert!(is_unknown().await);
    nodes.bus.set_down(false);
    // Nothing is said until it has heard who there is.
    while is_unknown().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(nodes.channels(0).await, [("room".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn slow_messages_are_messages_all_the_same() {
    let nodes = Nodes::new(2).await;
    let mut client = nodes.worlds[1].join().await;
    nodes.bus.delay(Duration::from_millis(700));
    nodes.disconnect(0).await.unwrap();
    assert!(is_closed(&settle(&mut client).await, 3503));
    assert_eq!(client.driver.link().take_signals().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_counted_and_has_no_effect() {
    let nodes = Nodes::new(2).await;
    let mut client = nodes.worlds[0].join().await;
    let stranger = NodeUid::random();
    for (text, reason) in [
        ("not json".to_owned(), "syntax"),
        (
            format!(r#"{{"v":9,"from":"{stranger}","kind":"leave"}}"#),
            "version",
        ),
        (
            format!(r#"{{"v":1,"from":"{stranger}","kind":"dance","body":{{}}}}"#),
            "unknown_kind",
        ),
        (
            format!(
                r#"{{"v":1,"from":"{stranger}","kind":"ask","body":{{"id":1,"app":"default","what":{{"order":{{"embrace":{{}}}}}}}}}}"#
            ),
            "unknown_kind",
        ),
        (
            format!(
                r#"{{"v":1,"from":"{stranger}","kind":"ask","body":{{"id":1,"app":"default","what":{{"order":{{"disconnect":{{"of":{{"user":"user"}},"code":7,"reason":""}}}}}}}}}}"#
            ),
            "unsound",
        ),
        (
            format!(
                r#"{{"v":1,"from":"{stranger}","kind":"ask","body":{{"id":1,"app":"default","what":{{"order":{{"disconnect":{{"of":{{"user":"user"}},"code":4001,"reason":""}}}}}}}}}}"#
            ),
            "stranger",
        ),
    ] {
        let before = nodes.metrics.bad(reason);
        nodes.bus.inject(text.as_bytes());
        assert_eq!(nodes.metrics.bad(reason) - before, 2, "{text}");
    }
    assert_eq!(settle(&mut client).await, Turn::Read);
    assert_eq!(nodes.clients(0).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_made_at_one_node_begins_at_the_sessions_of_another() {
    let nodes = Nodes::new(2).await;
    let mut client = nodes.worlds[1].join().await;
    nodes
        .subscribe(
            0,
            SubscribeRequest {
                channel: "kept:room".into(),
                data: r#"{"hello":1}"#.into(),
                ..SubscribeRequest::default()
            },
        )
        .await;
    assert_eq!(settle(&mut client).await, Turn::Read);
    let push: serde_json::Value = serde_json::from_str(&client.last()).unwrap();
    let told = &push["push"]["subscribe"];
    assert_eq!(push["push"]["channel"], "kept:room");
    assert_eq!(
        (&told["recoverable"], &told["data"]["hello"]),
        (&true.into(), &1.into())
    );
    nodes.worlds[1].publish("kept:room", "7").await;
    client
        .wire
        .until(|messages| messages.iter().any(|text| text.contains(r#""data":7"#)))
        .await;
    // A second one changes nothing.
    nodes
        .subscribe(
            0,
            SubscribeRequest {
                channel: "kept:room".into(),
                ..SubscribeRequest::default()
            },
        )
        .await;
    let num_messages = client.messages().len();
    settle(&mut client).await;
    assert_eq!(client.messages().len(), num_messages);
    assert_eq!(client.driver.session().num_subscriptions(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_can_begin_where_the_caller_says() {
    let nodes = Nodes::new(1).await;
    let mut client = nodes.worlds[0].join().await;
    let mut epoch = String::new();
    for data in ["1", "2", "3"] {
        epoch = nodes.worlds[0].publish("kept:room", data).await.epoch;
    }
    nodes
        .subscribe(
            0,
            SubscribeRequest {
                channel: "kept:room".into(),
                recover_since: Some(Position { offset: 1, epoch }),
                ..SubscribeRequest::default()
            },
        )
        .await;
    settle(&mut client).await;
    let offsets: Vec<_> = client
        .messages()
        .iter()
        .filter_map(|text| {
            let message: serde_json::Value = serde_json::from_str(text).unwrap();
            message["push"]["pub"]["offset"].as_u64()
        })
        .collect();
    assert_eq!(offsets, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_is_refused_to_its_caller() {
    let nodes = Nodes::new(1).await;
    let call = |request| {
        let done = nodes.node(0).subscribe(&AppId::default_app(), request);
        done.wait()
    };
    let of = |channel: &str| SubscribeRequest {
        channel: channel.to_owned(),
        ..SubscribeRequest::default()
    };
    assert_eq!(call(of("nowhere:x")).await.unwrap_err().code, 102);
    let recovering = SubscribeRequest {
        r#override: Some(SubscribeOverride {
            force_recovery: Some(BoolValue { value: true }),
            ..SubscribeOverride::default()
        }),
        ..of("room")
    };
    let error = call(recovering).await.unwrap_err();
    assert_eq!(error.code, 108);
    assert!(error.message.contains("history"), "{}", error.message);
    let past = SubscribeRequest {
        expire_at: 1,
        ..of("room")
    };
    assert_eq!(call(past).await.unwrap_err().code, 107);
}

#[tokio::test(start_paused = true)]
async fn what_plugins_do_to_a_user_reaches_the_users_other_nodes() {
    let (bus, metrics) = (TestBus::default(), ClusterMetrics::default());
    let hooks = Scripted {
        routes: Mutex::new(vec![Destination {
            target: crate::hooks::Target::User("user".into()),
            data: None,
        }]),
        effects: Mutex::new(vec![Effect::Disconnect {
            target: crate::hooks::SessionTarget::User("user".into()),
            code: 4001,
            reason: "enough".into(),
        }]),
        ..Scripted::default()
    };
    let worlds = vec![World::new(hooks), World::new(Scripted::default())];
    for world in &worlds {
        let cluster = world.node.join_cluster(bus.handle(), metrics.clone());
        world.node.spawn(cluster.run(world.stop.clone()));
    }
    let nodes = Nodes {
        bus,
        worlds,
        metrics,
    };
    nodes.until_all_know(2).await;
    let mut far = nodes.worlds[1].join().await;
    let mut near = nodes.worlds[0].join().await;
    near.say(r#"{"id":2,"publish":{"channel":"room","data":5}}"#)
        .await;
    let turn = settle(&mut far).await;
    assert!(
        far.messages()
            .iter()
            .any(|text| text.contains(r#""message":{"data":5}"#))
    );
    assert!(is_closed(&turn, 4001));
}

fn with_personal_channels(is_single_connection: bool) -> RealtimeConfig {
    let mut settings = settings();
    settings.client.personal_channel = Some(PersonalChannel {
        namespace: "kept".into(),
        is_single_connection,
    });
    settings
}

#[tokio::test(start_paused = true)]
async fn a_user_has_a_channel_of_their_own_and_an_anonymous_one_has_none() {
    let world = World::with_settings(Scripted::default(), with_personal_channels(false));
    let mut client = world.join().await;
    let result: serde_json::Value = serde_json::from_str(&client.last()).unwrap();
    let subs = result["connect"]["subs"].as_object().unwrap();
    assert_eq!(subs.keys().collect::<Vec<_>>(), ["kept:#user"]);
    assert_eq!(subs["kept:#user"]["recoverable"], true);
    world.publish("kept:#user", "3").await;
    client
        .wire
        .until(|messages| messages.iter().any(|text| text.contains(r#""data":3"#)))
        .await;
    // It is the server's.
    client
        .say(r#"{"id":2,"unsubscribe":{"channel":"kept:#user"}}"#)
        .await;
    assert_eq!(client.driver.session().num_subscriptions(), 1);
    // What was missed comes with the next connect.
    let epoch = subs["kept:#user"]["epoch"].as_str().unwrap().to_owned();
    let mut back = world.open();
    back.say(&format!(
        r#"{{"id":1,"connect":{{"subs":{{"kept:#user":{{"recover":true,"epoch":"{epoch}"}}}}}}}}"#
    ))
    .await;
    let result: serde_json::Value = serde_json::from_str(&back.last()).unwrap();
    let recovered = &result["connect"]["subs"]["kept:#user"];
    assert_eq!(
        (
            &recovered["recovered"],
            &recovered["publications"][0]["data"]
        ),
        (&true.into(), &3.into())
    );

    let world = World::with_settings(NoHooks, with_personal_channels(false));
    let client = world.join().await;
    assert!(!client.last().contains("subs"), "{}", client.last());
}

#[tokio::test(start_paused = true)]
async fn where_a_user_has_one_connection_exactly_one_stays_on_whatever_nodes_they_are() {
    let nodes = Nodes::with_settings(2, &with_personal_channels(true)).await;
    let mut clients = Vec::new();
    for node in [0, 1, 1, 0] {
        clients.push(nodes.worlds[node].join().await);
        let mut open = Vec::new();
        for mut client in clients {
            match settle(&mut client).await {
                Turn::Close(closing) => assert_eq!(closing.code, 3504),
                _ => open.push(client),
            }
        }
        assert_eq!(open.len(), 1);
        clients = open;
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_are_found_and_ended_from_any_node() {
    let nodes = Nodes::new(2).await;
    let app = AppId::default_app();
    let near = nodes.worlds[0].join().await;
    let mut far = nodes.worlds[1].open();
    far.say(r#"{"id":1,"connect":{"name":"js","version":"5"}}"#)
        .await;
    let find = |filter: SessionFilter| {
        let found = nodes.node(0).sessions(&app, filter);
        async { found.wait().await.unwrap() }
    };
    let of_user = SessionFilter {
        user: Some("user".into()),
        most: 10,
        ..SessionFilter::default()
    };
    let found = find(of_user.clone()).await;
    assert_eq!(found.sessions.len(), 2);
    assert!(!found.has_more && found.silent_nodes.is_empty());
    let client = far.driver.session().peer().client;
    let one = SessionFilter {
        client: Some(client),
        most: 1,
        ..SessionFilter::default()
    };
    let place = find(one.clone()).await.sessions.remove(0);
    assert_eq!(place.node, nodes.node(1).uid());
    assert_eq!((place.name.as_str(), place.version.as_str()), ("js", "5"));
    assert_eq!(place.user, "user");
    // Others' sessions are not among them, and a page says that there are more.
    let nobody = SessionFilter {
        user: Some("bob".into()),
        most: 10,
        ..SessionFilter::default()
    };
    assert!(find(nobody).await.sessions.is_empty());
    let page = SessionFilter { most: 1, ..of_user };
    let page = find(page).await;
    assert!(page.has_more && page.sessions.len() == 1);

    nodes.node(0).kick(&app, client).wait().await.unwrap();
    assert!(is_closed(&settle(&mut far).await, 3503));
    drop(far);
    assert!(find(one).await.sessions.is_empty());
    nodes.bus.cut(nodes.node(1).uid());
    let found = find(SessionFilter {
        most: 10,
        ..SessionFilter::default()
    })
    .await;
    assert_eq!(found.silent_nodes, [nodes.node(1).uid()]);
    assert_eq!(
        found.sessions[0].client,
        near.driver.session().peer().client.to_string()
    );
}
