//! How fast a node hears channels, hears them all again, and what it asks of Redis while nobody is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidegate_bench::identity::connect_command;
use tidegate_bench::load::{Rig, RigConfig, Step};
use tidegate_bench::process;
use tidegate_bench::report::{at_most, median};
use tidegate_bench::subject::Subject;
use tidegate_test_redis::{Connection, Reply};

use super::Goals;
use super::cluster::Cluster;

/// Channels that the node hears; none twice.
const CHANNELS: usize = 100_000;

/// Channels of one session; it may have 128.
const CHANNELS_EACH: usize = 100;

/// How long it may take until all are heard again.
const RESUBSCRIBE_SECONDS: f64 = 3.0;

/// Longer than that the line is dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often Redis is asked how many channels somebody hears.
const LOOK: Duration = Duration::from_millis(5);

/// How long the pings of sessions wait for an answer at most.
const TURN: Duration = Duration::from_millis(20);

impl Goals {
    pub(crate) fn subscriptions(&mut self) -> Result<()> {
        let sessions = self.count(CHANNELS / CHANNELS_EACH);
        let channels = sessions * CHANNELS_EACH;
        println!("{channels} channels, {CHANNELS_EACH} of each session");
        let cluster = Cluster::start(&self.options.server, 1)?;
        let (node, redis) = (&cluster.nodes[0], cluster.redis.pid());
        let connect = vec![Step::SendEach(connect_command), Step::Expect(1)];
        let alone = Rig::open(rig(node, sessions, connect.clone()))?.opened();
        let subscribe = vec![
            Step::SendEach(subscribe_to_hundred),
            Step::Expect(u32::try_from(CHANNELS_EACH).unwrap_or(u32::MAX)),
        ];
        let commands = cluster.commands()?;
        let before = process::cpu_time(redis)?;
        let mut rig = Rig::open(rig(node, sessions, [connect, subscribe].concat()))?;
        let redis_cpu = process::cpu_time(redis)?.saturating_sub(before);
        let commands = cluster.commands()?.since(&commands, 1.0, 1.0);
        let opened = rig.opened();
        let seconds = (opened.seconds - alone.seconds).max(f64::EPSILON);
        let our_micros = (opened.server_cpu_us_per_connection - alone.server_cpu_us_per_connection)
            / CHANNELS_EACH as f64;
        let mut text = format!(
            "{channels} channels of a namespace without history, {CHANNELS_EACH} of each session, none twice, on one node:\n\
             {:.0} subscriptions a second; {our_micros:.1} µs of CPU of the node and {:.1} µs of Redis for each; commands in all: {commands}.\n",
            channels as f64 / seconds,
            redis_cpu.as_secs_f64() * 1e6 / channels as f64,
        );
        let mut times = Vec::new();
        for _ in 0..self.samples(3) {
            let time = heard_again(&cluster, &mut rig, channels)?;
            println!("    heard again after {time:.2} s");
            times.push(time);
        }
        let all = times.iter().map(|time| format!("{time:.2} s"));
        let all = all.collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "\nIts connection for subscriptions was closed; all were heard again after {all}.\n"
        ));
        self.run.add(at_most(
            &format!("Resubscribe of {channels} channels after a reconnect"),
            (median(times), RESUBSCRIBE_SECONDS, "s"),
            format!(
                "from CLIENT KILL of the node's pub/sub connection until Redis counts every channel again; {all}; `cargo run \
                 --release -p tidegate-redis --example resubscribe` is the engine alone"
            ),
        ));
        self.section("Subscriptions through Redis", text);
        Ok(())
    }

    pub(crate) fn idle(&mut self) -> Result<()> {
        let time = self.run.seconds(60.0).max(Duration::from_secs(11));
        println!("a node without clients, {} s", time.as_secs());
        let cluster = Cluster::start(&self.options.server, 1)?;
        let (node, redis) = (cluster.nodes[0].pid(), cluster.redis.pid());
        let used = || -> Result<[Duration; 2]> {
            Ok([process::cpu_time(node)?, process::cpu_time(redis)?])
        };
        let (commands, before, start) = (cluster.commands()?, used()?, Instant::now());
        thread::sleep(time);
        let (seconds, after) = (start.elapsed().as_secs_f64(), used()?);
        let after_commands = cluster.commands()?;
        let micros = |at: usize| (after[at] - before[at]).as_secs_f64() * 1e6 / seconds;
        self.section(
            "What an idle node asks of Redis",
            format!(
                "Over {seconds:.0} s, without clients: {:.0} µs of CPU a second of the node and {:.0} µs of Redis. Commands a second: {}.\n\
                 The delivery probe is `publish`, once in five seconds for each connection that hears subscriptions, and the registry of\n\
                 nodes; `info` asks on each connection for commands twice a second whether its server still serves.\n",
                micros(0),
                micros(1),
                after_commands.since(&commands, seconds, 0.005),
            ),
        );
        Ok(())
    }
}

/// Closes the node's connection for subscriptions; seconds until Redis counts as many channels as before.
fn heard_again(cluster: &Cluster, rig: &mut Rig, channels: usize) -> Result<f64> {
    let mut redis = cluster.ask_redis()?;
    let before = heard(&mut redis)?;
    ensure!(
        before >= channels,
        "Redis counts {before} channels that somebody hears, and there should be {channels}"
    );
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| -> Result<f64> {
            let start = Instant::now();
            redis.call(&["CLIENT", "KILL", "TYPE", "pubsub"])?;
            let found = loop {
                let heard = heard(&mut redis);
                if heard.as_ref().is_ok_and(|heard| *heard < before) && start.elapsed() < PATIENCE {
                    thread::sleep(LOOK);
                    continue;
                }
                break heard;
            };
            let seconds = start.elapsed().as_secs_f64();
            is_over.store(true, Ordering::Release);
            ensure!(
                found? >= before,
                "not all are heard again after {seconds:.0} s"
            );
            Ok(seconds)
        });
        // The sessions stay, and their pings are answered.
        while !is_over.load(Ordering::Acquire) && !looking.is_finished() {
            rig.idle(TURN)?;
        }
        looking.join().expect("nothing panics there")
    })
}

/// Channels that somebody hears, as Redis counts them.
fn heard(redis: &mut Connection) -> Result<usize> {
    let info = match redis.call(&["INFO", "stats"])? {
        Reply::Error(error) => anyhow::bail!("Redis says {error}"),
        reply => reply.text(),
    };
    let mut lines = info.lines();
    let heard = lines.find_map(|line| line.strip_prefix("pubsub_channels:")?.trim().parse().ok());
    Ok(heard.unwrap_or(0))
}

fn rig(node: &Subject, sessions: usize, script: Vec<Step>) -> RigConfig {
    RigConfig {
        address: node.client,
        server_pid: node.pid(),
        subscriber_path: "/connection/websocket".into(),
        subscriber_script: script,
        subscribers: sessions,
        groups: 1,
        publisher: None,
        publishers: Vec::new(),
        beside: Vec::new(),
        delivery_prefix: r#"{"push":{"channel""#.into(),
    }
}

/// The commands of session `index`, whose channels nobody else has.
fn subscribe_to_hundred(index: usize) -> String {
    let commands = (0..CHANNELS_EACH).map(|nth| {
        format!(
            r#"{{"id":{},"subscribe":{{"channel":"plain:{}"}}}}"#,
            nth + 2,
            index * CHANNELS_EACH + nth
        )
    });
    commands.collect::<Vec<_>>().join("\n")
}
