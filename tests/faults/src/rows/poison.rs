//! Somebody else writes into our Redis: garbage and forgeries on the pub/sub channels, wrong types at the keys,
//! scripts flushed. Nothing of it may end a node, reach a subscriber as a publication, or lose one.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tidegate_test_redis::{Connection, RedisOptions, RedisServer, Reply};
use tokio::task::block_in_place;

use super::{Played, finish};
use crate::{
    checker::Expectation,
    load::{Answer, Api},
    stage::{Size, Stage, redis},
};

/// Larger than anything that we publish.
const OVERSIZE_BYTES: usize = 2 * 1024 * 1024;

pub(super) async fn play(size: Size) -> Played {
    let server = RedisServer::start(&RedisOptions::default());
    let mut stage = Stage::open(&redis(&server.addr()), 2, size.load()).await?;
    stage.load.run_for(size.before()).await;
    stage.load.fault_begins();
    wrong_types(&server, &stage).await?;
    let received = block_in_place(|| poison(&server))?;
    server.command(&["SCRIPT", "FLUSH"]);
    stage.load.run_for(size.hold()).await;
    stage.load.healed();
    stage.load.run_for(size.after()).await;
    let record = finish(stage, |_| received).await?;
    // Connections may end: who comes back while forged positions arrive cannot join them to the history, and is told
    // so by 3010, as the protocol has it.
    let expected = Expectation {
        flow_within: Some(size.bar(15)),
        ..size.expectation()
    };
    Ok((record, expected))
}

/// Publishes poison on channels that the nodes follow; how often a node received some.
fn poison(server: &RedisServer) -> Result<u64> {
    let found = server.command(&["PUBSUB", "CHANNELS", "tg:*"]);
    let channels: Vec<String> = found.list().iter().map(Reply::text).collect();
    let ours = channels.iter().filter(|name| name.contains("flow"));
    let ours: Vec<&String> = ours.take(20).collect();
    ensure!(!ours.is_empty(), "the nodes follow none of {channels:?}");
    let real = listen(server, ours[0])?;
    let mut poisons: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\0".to_vec(),
        b"garbage".to_vec(),
        vec![0xff; 64],
        vec![b'9'; OVERSIZE_BYTES],
        b"__p1:18446744073709551615:x__".to_vec(),
        b"__p1:-1:x__".to_vec(),
    ];
    // Parts of a real one, a real one once more, and a real one with each of its first bytes changed.
    poisons.extend((1..real.len()).step_by(7).map(|len| real[..len].to_vec()));
    poisons.push(real.clone());
    let mut received = 0;
    let mut connection = server.connect()?;
    for channel in &ours {
        for poison in &poisons {
            received += publish(&mut connection, channel, poison)?;
        }
    }
    // Everything else that the nodes listen to gets the same.
    for channel in channels.iter().filter(|name| !name.contains("flow")) {
        for poison in &poisons {
            received += publish(&mut connection, channel, poison)?;
        }
    }
    Ok(received)
}

fn publish(connection: &mut Connection, channel: &str, poison: &[u8]) -> Result<u64> {
    let reply = connection.call(&[b"PUBLISH".as_slice(), channel.as_bytes(), poison])?;
    Ok(reply.text().parse().unwrap_or_default())
}

/// The next real message on this channel.
fn listen(server: &RedisServer, channel: &str) -> Result<Vec<u8>> {
    let mut connection = server.connect()?;
    connection.call(&["SUBSCRIBE", channel])?;
    match connection.reply()?.list() {
        [_, _, Reply::Bytes(message)] => Ok(message.clone()),
        other => bail!("not a message: {other:?}"),
    }
}

/// A channel of its own whose keys hold something else: calls of it are answered, be it by a refusal or with another
/// stream, and never as if it were the old one.
async fn wrong_types(server: &RedisServer, stage: &Stage) -> Result<()> {
    let channel = "flow:spoiled";
    let nodes = stage.balancer.nodes_from(0);
    let mut api = Api::new();
    let addr = nodes.first().context("a node is there")?.1;
    let publish = json!({ "channel": channel, "data": 1 });
    let before = api.result(addr, "publish", &publish).await?;
    for kind in ["stream", "meta"] {
        let found = server.command(&["KEYS", &format!("tg:{kind}:*spoiled*")]);
        let key = found.list().first().map(Reply::text);
        let key = key.with_context(|| format!("{channel} has no {kind}"))?;
        server.command(&["SET", &key, "not what it was"]);
    }
    for (_, addr) in nodes {
        for (method, body) in [
            ("publish", publish.clone()),
            ("history", json!({ "channel": channel, "limit": 1 })),
        ] {
            match api.call(addr, method, &body).await {
                Answer::Error { .. } | Answer::Status(500..) => {}
                Answer::Result(result) => ensure!(
                    result["epoch"] != before["epoch"],
                    "{method} of a spoiled channel goes on as if nothing were: {result}"
                ),
                other => bail!("{method} of a spoiled channel: {other:?}"),
            }
        }
        ensure!(api.is_ready(addr).await, "a spoiled channel is one channel");
    }
    Ok(())
}
