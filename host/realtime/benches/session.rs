//! What one command costs from its bytes to the bytes of its reply, without a socket and without plugins.

use std::{io, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_protocol::{Codec, Command, Framing, Raw, codec::encode_commands};
use tidegate_realtime::{
    config::{NamespaceOptions, Permission, RealtimeConfig},
    driver::{Budget, Driver, Turn},
    hooks::NoHooks,
    hub::{Hub, HubConfig},
    ids::AppId,
    link::Wire,
    node::{Node, NodeParts, PeerInfo},
    session::Pings,
};

/// A wire that takes everything.
struct Nowhere;

impl Wire for Nowhere {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

fn node() -> Arc<Node> {
    let hub = Hub::new(HubConfig::default());
    let node = Node::new(NodeParts::in_memory(hub, Arc::new(NoHooks)));
    let mut settings = RealtimeConfig::default();
    settings.client.allow_anonymous_connect_without_token = true;
    settings.channel.without_namespace = Arc::new(NamespaceOptions {
        subscribe: Permission::EVERYBODY,
        publish: Permission::EVERYBODY,
        ..NamespaceOptions::default()
    });
    node.set_app(&AppId::default_app(), settings);
    node
}

fn say(driver: &mut Driver, frame: &[u8]) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut turn = driver.on_frame(frame, &mut Budget::default());
    while turn == Turn::Wait {
        let mut budget = Budget::default();
        if let std::task::Poll::Ready(next) = driver.poll_answer(&mut context, &mut budget) {
            turn = next;
        }
    }
    assert_eq!(turn, Turn::Read);
    driver.link().flush();
}

fn frame(codec: Codec, command: Command) -> Vec<u8> {
    encode_commands(codec, &[command]).unwrap_or_default()
}

fn connect(node: &Arc<Node>, codec: Codec) -> Driver {
    let peer = PeerInfo {
        user: "".into(),
        app: AppId::default_app(),
        transport: "websocket",
        remote_addr: "127.0.0.1:1".into(),
        headers: Vec::new().into(),
        codec,
        framing: Framing::WebSocket,
        pings: Pings::Messages,
    };
    let (_, mut driver) = node
        .open(peer, Nowhere)
        .expect("the node takes connections");
    let command = Command {
        id: 1,
        connect: Some(Box::default()),
        ..Command::default()
    };
    say(&mut driver, &frame(codec, command));
    driver
}

fn publish(c: &mut Criterion) {
    let node = node();
    let mut group = c.benchmark_group("session/publish");
    group.throughput(Throughput::Elements(1));
    for (codec, name) in [(Codec::Json, "json"), (Codec::Protobuf, "protobuf")] {
        let mut driver = connect(&node, codec);
        let mut command = Command {
            id: 2,
            publish: Some(Box::default()),
            ..Command::default()
        };
        if let Some(publish) = &mut command.publish {
            publish.channel = "room".into();
            publish.data = Raw::from(format!(r#"{{"text":"{}"}}"#, "x".repeat(120)));
        }
        let frame = frame(codec, command);
        group.bench_function(format!("140B/{name}"), |b| {
            b.iter(|| say(&mut driver, &frame));
        });
    }
    group.finish();
}

fn connect_and_subscribe(c: &mut Criterion) {
    let node = node();
    let mut command = Command {
        id: 2,
        subscribe: Some(Box::default()),
        ..Command::default()
    };
    if let Some(subscribe) = &mut command.subscribe {
        subscribe.channel = "room".into();
    }
    let frame = frame(Codec::Json, command);
    c.bench_function("session/connect-subscribe-close/json", |b| {
        b.iter(|| say(&mut connect(&node, Codec::Json), &frame));
    });
}

criterion_group!(benches, publish, connect_and_subscribe);
criterion_main!(benches);
