//! Several nodes with one directory: who is where, who is online, and what is done for a node that died.

mod answers;
mod untold;

use std::{
    collections::BTreeMap,
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tidegate_protocol::StreamPosition;

use super::*;
use crate::{
    broker::{
        Broker, BrokerError, BrokerEvents as _, HistoryPage, HistoryQuery, JoinLeave,
        PublishRequest, Published,
    },
    cluster::{ClusterMetrics, NodeUid, test_bus::TestBus},
    directory::{SILENT_AFTER, memory::MemoryDirectory},
    events::{Event, EventKind, Observer},
    hooks::{Duties, EventsQuestion, Watch, ready},
    ids::ChannelKey,
    leases::{LeaseName, Leases as _, MemoryLeases},
    node::{SessionFilter, SessionsFound},
    presence::PresenceStats,
};

/// More than any wait of ours takes.
const LONG: Duration = Duration::from_secs(3_600);

/// In which a dead node's sessions are ended, and whatever would be done twice, too.
const A_WHILE: Duration = Duration::from_secs(90);

type Act = Box<dyn FnOnce() + Send>;

/// What a plugin on some node was told; a node whose plugin fails, and what happens when it is told something.
#[derive(Default)]
struct Board {
    events: Mutex<Vec<Event>>,
    fails_at: Mutex<Option<usize>>,
    when_told: Mutex<Option<(usize, Act)>>,
    /// How long a plugin takes for a batch.
    takes: Mutex<Duration>,
    /// The engine publishes no leaves.
    leaves_fail: AtomicBool,
}

impl Board {
    fn kinds_of(&self, user: &str) -> Vec<EventKind> {
        let events = self.events.lock();
        let of_user = events.iter().filter(|event| &*event.user == user);
        of_user.map(|event| event.kind).collect()
    }

    fn count(&self, kind: EventKind) -> usize {
        let events = self.events.lock();
        events.iter().filter(|event| event.kind == kind).count()
    }
}

/// The hooks of one node.
struct Watching {
    board: Arc<Board>,
    index: usize,
}

impl Hooks for Watching {
    /// Everybody is who they say.
    fn authenticate(&self, question: AuthenticationQuestion) -> Answered<AuthenticationVerdict> {
        let identity = Identity {
            user: question.token.clone(),
            ..Identity::default()
        };
        ready(AuthenticationVerdict::Accept(Box::new(identity)))
    }

    fn events(&self, question: EventsQuestion) -> Answered<()> {
        if *self.board.fails_at.lock() == Some(self.index) {
            return Progress::Ready(Err(HookFailure::new("t-1".into())));
        }
        let takes = *self.board.takes.lock();
        if takes > Duration::ZERO {
            let board = Arc::clone(&self.board);
            return Progress::Pending(Box::pin(async move {
                tokio::time::sleep(takes).await;
                board.events.lock().extend(question.batch);
                Ok(Outcome {
                    verdict: (),
                    effects: Vec::new(),
                })
            }));
        }
        self.board.events.lock().extend(question.batch);
        let due = self
            .board
            .when_told
            .lock()
            .take_if(|(index, _)| *index == self.index);
        if let Some((_, act)) = due {
            act();
        }
        ready(())
    }

    fn watch_duties(&self, watch: Arc<dyn Watch>) {
        let kinds = [
            EventKind::Disconnected,
            EventKind::Unsubscribed,
            EventKind::Online,
            EventKind::Offline,
        ];
        let duties = Duties {
            observers: vec![Observer {
                plugin: "board".into(),
                kinds: kinds.into_iter().collect(),
            }],
            ..Duties::default()
        };
        watch.on_duties(&BTreeMap::from([(AppId::default_app(), duties)]));
    }
}

/// A broker whose joins and leaves are heard on every node.
struct Heard {
    own: MemoryBroker,
    hubs: Arc<Mutex<Vec<Weak<Hub>>>>,
    board: Arc<Board>,
}

impl Broker for Heard {
    fn publish(&self, request: PublishRequest) -> Progress<Result<Published, BrokerError>> {
        self.own.publish(request)
    }

    fn history(
        &self,
        key: &ChannelKey,
        query: HistoryQuery,
    ) -> Progress<Result<HistoryPage, BrokerError>> {
        self.own.history(key, query)
    }

    fn publish_join_leave(
        &self,
        key: &ChannelKey,
        event: JoinLeave,
    ) -> Progress<Result<(), BrokerError>> {
        let is_leave = matches!(event, JoinLeave::Leave(_));
        if is_leave && self.board.leaves_fail.load(Ordering::Relaxed) {
            return Progress::Ready(Err(BrokerError::Unavailable));
        }
        for hub in self.hubs.lock().iter().filter_map(Weak::upgrade) {
            hub.on_join_leave(key, &event);
        }
        Progress::Ready(Ok(()))
    }

    fn remove_history(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.own.remove_history(key)
    }

    fn subscribe(&self, key: &ChannelKey) -> Progress<Result<(), BrokerError>> {
        self.own.subscribe(key)
    }

    fn unsubscribe(&self, key: &ChannelKey) {
        self.own.unsubscribe(key);
    }

    fn renew_epoch(
        &self,
        key: &ChannelKey,
        epoch: &str,
    ) -> Progress<Result<StreamPosition, BrokerError>> {
        self.own.renew_epoch(key, epoch)
    }
}

struct Nodes {
    bus: TestBus,
    ends: Vec<MemoryDirectory>,
    presence: MemoryPresence,
    leases: MemoryLeases,
    worlds: Vec<World>,
    board: Arc<Board>,
}

impl Nodes {
    /// Nodes that know each other, and have long enough to be sure of what they hear.
    async fn new(number: usize) -> Self {
        let (bus, hubs) = (TestBus::default(), Arc::default());
        let directory = MemoryDirectory::default();
        let (leases, presence) = (MemoryLeases::default(), MemoryPresence::new(LONG));
        let board = Arc::new(Board::default());
        let mut nodes = Self {
            bus,
            ends: Vec::new(),
            presence: presence.clone(),
            leases: leases.other_holder(),
            worlds: Vec::new(),
            board: Arc::clone(&board),
        };
        for index in 0..number {
            let end = directory.other_end();
            let watching = Watching {
                board: Arc::clone(&board),
                index,
            };
            let shared = Shared {
                leases: Arc::new(leases.other_holder()),
                directory: Some(Arc::new(end.clone())),
            };
            let world = start(watching, shared, presence.clone(), &hubs);
            let cluster = world
                .node
                .join_cluster(nodes.bus.handle(), ClusterMetrics::default());
            world.node.spawn(cluster.run(world.stop.clone()));
            nodes.ends.push(end);
            nodes.worlds.push(world);
        }
        tokio::time::sleep(SILENT_AFTER * 2).await;
        nodes
    }

    fn node(&self, index: usize) -> &Arc<Node> {
        &self.worlds[index].node
    }

    /// The node hears and says nothing any more; its sessions do not know.
    fn cut(&self, index: usize) {
        self.bus.cut(self.node(index).uid());
        self.ends[index].set_cut(true);
    }

    fn mend(&self, index: usize) {
        self.bus.mend(self.node(index).uid());
        self.ends[index].set_cut(false);
    }

    async fn join(&self, index: usize, user: &str) -> Client {
        join(&self.worlds[index], user).await
    }

    async fn sessions(&self, index: usize, user: &str) -> SessionsFound {
        let filter = SessionFilter {
            user: Some(user.to_owned()),
            client: None,
            most: 10,
        };
        let found = self.node(index).sessions(&AppId::default_app(), filter);
        found.wait().await.unwrap()
    }

    fn in_room(&self) -> PresenceStats {
        let key = ChannelKey::new(&AppId::default_app(), "seen:room");
        self.presence.stats_now(&key)
    }
}

fn start(
    hooks: Watching,
    shared: Shared,
    presence: MemoryPresence,
    hubs: &Arc<Mutex<Vec<Weak<Hub>>>>,
) -> World {
    let hub = Hub::new(HubConfig {
        shards: 1,
        ..HubConfig::default()
    });
    hubs.lock().push(Arc::downgrade(&hub));
    let stop = CancellationToken::new();
    let node = Node::new(NodeParts {
        broker: Arc::new(Heard {
            own: MemoryBroker::new(Arc::clone(&hub) as _),
            hubs: Arc::clone(hubs),
            board: Arc::clone(&hooks.board),
        }),
        presence: Arc::new(presence),
        shared,
        ..NodeParts::in_memory(hub, Arc::new(hooks))
    });
    let mut settings = settings();
    let open = NamespaceOptions::clone(&settings.channel.without_namespace);
    let seen = NamespaceOptions {
        presence: true,
        join_leave: true,
        ..open
    };
    settings
        .channel
        .namespaces
        .insert("seen".into(), Arc::new(seen));
    node.set_app(&AppId::default_app(), settings);
    for (_, service) in node.services(&stop) {
        node.spawn(service);
    }
    World { node, stop }
}

async fn join(world: &World, user: &str) -> Client {
    let mut client = world.open();
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{user}"}}}}"#);
    client.say(&connect).await;
    assert!(client.last().contains("\"connect\""), "{}", client.last());
    client
}

const IN_ROOM: &str = r#"{"id":2,"subscribe":{"channel":"seen:room","join_leave":true}}"#;

/// What a client was told of who left and, with a plus, of who came.
fn told(client: &Client) -> Vec<String> {
    let mut told = Vec::new();
    for text in client.messages() {
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (sign, kind) in [("+", "join"), ("", "leave")] {
            if let Some(user) = message["push"][kind]["info"]["user"].as_str() {
                told.push(format!("{sign}{user}"));
            }
        }
    }
    told.sort();
    told
}

fn left(client: &Client) -> Vec<String> {
    let mut told = told(client);
    told.retain(|user| !user.starts_with('+'));
    told
}

#[tokio::test(start_paused = true)]
async fn a_user_is_online_from_the_first_session_in_the_cluster_to_the_last() {
    let nodes = Nodes::new(2).await;
    let one = nodes.join(0, "ann").await;
    tokio::time::sleep(A_WHILE).await;
    let two = nodes.join(1, "ann").await;
    tokio::time::sleep(A_WHILE).await;
    drop(one);
    tokio::time::sleep(A_WHILE).await;
    let expected = [EventKind::Online, EventKind::Disconnected];
    assert_eq!(nodes.board.kinds_of("ann"), expected);
    drop(two);
    tokio::time::sleep(A_WHILE).await;
    let rest = [EventKind::Disconnected, EventKind::Offline];
    assert_eq!(nodes.board.kinds_of("ann")[2..], rest);
    assert_eq!(nodes.ends[0].num_lines_and_users(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_changes_over_to_another_node_was_never_gone() {
    let nodes = Nodes::new(2).await;
    let one = nodes.join(0, "ann").await;
    tokio::time::sleep(A_WHILE).await;
    drop(one);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let two = nodes.join(1, "ann").await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(nodes.board.count(EventKind::Online), 1);
    assert_eq!(nodes.board.count(EventKind::Offline), 0);
    drop(two);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(nodes.board.count(EventKind::Offline), 1);
}

#[tokio::test(start_paused = true)]
async fn alone_a_node_knows_by_itself_who_is_online() {
    let watching = Watching {
        board: Arc::default(),
        index: 0,
    };
    let board = Arc::clone(&watching.board);
    let hubs = Arc::default();
    let world = start(
        watching,
        Shared::default(),
        MemoryPresence::default(),
        &hubs,
    );
    let count = |kind| board.count(kind);
    let one = join(&world, "ann").await;
    let two = join(&world, "ann").await;
    drop(one);
    drop(two);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let three = join(&world, "ann").await;
    tokio::time::sleep(A_WHILE).await;
    let numbers = (count(EventKind::Online), count(EventKind::Offline));
    assert_eq!(numbers, (1, 0));
    drop(three);
    // Also when the node stops: it waits until everybody was told.
    world.node.settle().await;
    tokio::time::sleep(A_WHILE).await;
    let numbers = (count(EventKind::Online), count(EventKind::Offline));
    assert_eq!(numbers, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_node_leaves_is_done_once_by_one_survivor() {
    let nodes = Nodes::new(3).await;
    let mut witness = nodes.join(1, "eve").await;
    witness.say(IN_ROOM).await;
    let mut dead = Vec::new();
    for user in ["ann", "ann", "bob", ""] {
        let mut client = nodes.join(0, user).await;
        client.say(IN_ROOM).await;
        dead.push(client);
    }
    // Bob is somewhere else, too.
    let _bob = nodes.join(2, "bob").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.cut(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&witness), ["", "ann", "ann", "bob"]);
    let only_eve = PresenceStats {
        num_clients: 1,
        num_users: 1,
    };
    assert_eq!(nodes.in_room(), only_eve);
    let board = &nodes.board;
    assert_eq!(board.count(EventKind::Disconnected), 4);
    assert_eq!(board.count(EventKind::Unsubscribed), 4);
    let of_ann = board.kinds_of("ann");
    let offline = of_ann.iter().filter(|kind| **kind == EventKind::Offline);
    assert_eq!(offline.count(), 1);
    assert!(!board.kinds_of("bob").contains(&EventKind::Offline));
    assert!(nodes.sessions(2, "ann").await.sessions.is_empty());
    assert_eq!(nodes.sessions(1, "bob").await.sessions.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_survivor_that_dies_in_the_middle_is_followed_by_another() {
    let nodes = Nodes::new(3).await;
    let _ann = nodes.join(0, "ann").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The first survivor is told and dies before it can erase anything.
    let (bus, end) = (nodes.bus.clone(), nodes.ends[1].clone());
    let uid = nodes.node(1).uid().to_owned();
    let dies = move || {
        end.set_cut(true);
        bus.cut(&uid);
    };
    *nodes.board.when_told.lock() = Some((1, Box::new(dies)));
    // Until then the other one cannot tell its plugin.
    *nodes.board.fails_at.lock() = Some(2);
    nodes.cut(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(nodes.board.count(EventKind::Disconnected), 1);
    *nodes.board.fails_at.lock() = None;
    tokio::time::sleep(A_WHILE).await;
    let events = nodes.board.events.lock().clone();
    let ends: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::Disconnected)
        .collect();
    // At least once, and the same event.
    assert_eq!(ends.len(), 2);
    assert_eq!(ends[0].id, ends[1].id);
    assert_eq!(nodes.board.count(EventKind::Offline), 2);
    assert_eq!(nodes.ends[2].num_lines_and_users(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_fails_is_told_later_and_a_channel_once() {
    let nodes = Nodes::new(2).await;
    let mut witness = nodes.join(1, "eve").await;
    witness.say(IN_ROOM).await;
    let mut ann = nodes.join(0, "ann").await;
    ann.say(IN_ROOM).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    *nodes.board.fails_at.lock() = Some(1);
    nodes.cut(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&witness), ["ann"]);
    assert_eq!(nodes.board.count(EventKind::Disconnected), 0);
    *nodes.board.fails_at.lock() = None;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&witness), ["ann"]);
    assert_eq!(nodes.board.count(EventKind::Disconnected), 1);
    assert_eq!(nodes.board.count(EventKind::Unsubscribed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_only_stopped_is_back_with_everybody() {
    let nodes = Nodes::new(2).await;
    let mut witness = nodes.join(1, "eve").await;
    witness.say(IN_ROOM).await;
    let mut ann = nodes.join(0, "ann").await;
    ann.say(IN_ROOM).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.cut(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&witness), ["ann"]);
    assert!(nodes.sessions(1, "ann").await.sessions.is_empty());
    nodes.mend(0);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(told(&witness), ["+ann", "+ann", "+eve", "ann"]);
    assert_eq!(nodes.in_room().num_clients, 2);
    let found = nodes.sessions(1, "ann").await;
    assert_eq!(found.sessions[0].node, nodes.node(0).uid());
    assert!(!found.sessions[0].silent);
    let kinds = nodes.board.kinds_of("ann");
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == EventKind::Online)
            .count(),
        2
    );
    // Its sessions are its own again, and end as any other.
    drop(ann);
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left(&witness), ["ann", "ann"]);
    assert!(nodes.sessions(1, "ann").await.sessions.is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_a_user_is_is_known_of_nodes_that_hang_and_said_of_them() {
    let nodes = Nodes::new(2).await;
    let _ann = nodes.join(0, "ann").await;
    let _near = nodes.join(1, "ann").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    nodes.bus.cut(nodes.node(0).uid());
    nodes.ends[0].set_cut(true);
    let began = tokio::time::Instant::now();
    let found = nodes.sessions(1, "ann").await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody is asked");
    assert_eq!((found.sessions.len(), found.silent_nodes.len()), (2, 0));
    // Nobody does yet what the node leaves.
    let dead = NodeUid::parse(nodes.node(0).uid()).unwrap();
    let name = LeaseName::DeadNode(dead);
    let held = nodes.leases.take(&name, LONG).wait().await;
    assert!(held.unwrap().is_some());
    tokio::time::sleep(A_WHILE).await;
    let found = nodes.sessions(1, "ann").await;
    assert_eq!(found.silent_nodes, [nodes.node(0).uid()]);
    for session in &found.sessions {
        assert_eq!(session.silent, session.node == nodes.node(0).uid());
    }
    assert_eq!(found.sessions.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_lost_everything_gets_it_again() {
    let nodes = Nodes::new(2).await;
    let _ann = nodes.join(0, "ann").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.ends[0].clear();
    assert!(nodes.sessions(1, "ann").await.sessions.is_empty());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(nodes.sessions(1, "ann").await.sessions.len(), 1);
    // Nor does it stay behind when it cannot be reached.
    nodes.ends[0].set_cut(true);
    let _bob = nodes.join(0, "bob").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(nodes.sessions(1, "bob").await.sessions.is_empty());
    nodes.ends[0].set_cut(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(nodes.sessions(1, "bob").await.sessions.len(), 1);
}
