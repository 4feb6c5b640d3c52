//! Ten thousand members of one channel, read and refreshed, and whether anybody else has to wait meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidegate_bench::histogram::Histogram;
use tidegate_bench::http::Http;
use tidegate_bench::identity::connect_command;
use tidegate_bench::load::{Rig, RigConfig, Step};
use tidegate_bench::report::at_most;
use tidegate_test_redis::{Connection, Reply};

use super::Goals;
use super::cluster::Cluster;

/// Members of the channel.
const MEMBERS: usize = 10_000;

/// The longest that anybody may have to wait.
const STALL_MILLIS: f64 = 5.0;

/// Between two questions of those who wait.
const PULSE: Duration = Duration::from_millis(1);

/// Between two readings of all members.
const READ_EVERY: Duration = Duration::from_millis(500);

/// Commands of Redis that take longer are noted by it.
const SLOW_MICROS: &str = "500";

/// How long the pings of sessions wait for an answer at most.
const TURN: Duration = Duration::from_millis(10);

/// What those who wait have found.
struct Waits {
    redis: Histogram,
    reading_node: Histogram,
    holding_node: Histogram,
}

impl Goals {
    pub(crate) fn presence(&mut self) -> Result<()> {
        let members = self.count(MEMBERS);
        println!("presence of {members} members");
        let cluster = Cluster::start(&self.options.server, 2)?;
        let mut rig = Rig::open(RigConfig {
            address: cluster.nodes[0].client,
            server_pid: cluster.nodes[0].pid(),
            subscriber_path: "/connection/websocket".into(),
            subscriber_script: vec![
                Step::SendEach(connect_command),
                Step::Expect(1),
                Step::send(r#"{"id":2,"subscribe":{"channel":"room:all"}}"#),
                Step::Expect(1),
            ],
            subscribers: members,
            groups: 1,
            publisher: None,
            publishers: Vec::new(),
            beside: Vec::new(),
            delivery_prefix: r#"{"push":{"channel""#.into(),
        })?;
        // The same sessions without anybody who reads, and their refreshes as always: what the machine does by itself.
        let (quiet, _) = waits(&cluster, &mut rig, self.run.seconds(10.0), None)?;
        let mut redis = cluster.ask_redis()?;
        redis.call(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
        redis.call(&["SLOWLOG", "RESET"])?;
        let commands = cluster.commands()?;
        let time = self.run.seconds(30.0);
        let (busy, readings) = waits(&cluster, &mut rig, time, Some(members))?;
        let commands = cluster
            .commands()?
            .since(&commands, time.as_secs_f64(), 0.05);
        let (longest, name) = longest_command(&mut redis)?;
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let of = |waits: &Histogram| {
            format!(
                "p99.9 {:.2} ms, at most {:.2} ms of {}",
                millis(waits.quantile(0.999)),
                millis(waits.max()),
                waits.count()
            )
        };
        let setting = format!(
            "{members} sessions on one node, refreshed every 5 s, all read {readings} times in {:.0} s by the server API of the other node",
            time.as_secs_f64()
        );
        self.run.add(at_most(
            &format!("Presence of {members} members: longest command of Redis"),
            (longest, STALL_MILLIS, "ms"),
            format!("SLOWLOG ({name}); {setting}; commands a second: {commands}"),
        ));
        for (who, quiet, busy) in [
            ("Redis", &quiet.redis, &busy.redis),
            (
                "the node that is asked",
                &quiet.reading_node,
                &busy.reading_node,
            ),
            (
                "the node of the members",
                &quiet.holding_node,
                &busy.holding_node,
            ),
        ] {
            self.run.add(at_most(
                &format!("Presence of {members} members: wait for an answer of {who}, p99.9"),
                (millis(busy.quantile(0.999)), STALL_MILLIS, "ms"),
                format!(
                    "asked a thousand times a second (PING, /health); {}; while nobody reads: {}; {setting}",
                    of(busy),
                    of(quiet)
                ),
            ));
        }
        Ok(())
    }
}

/// Asks everybody something small a thousand times a second; with `members` all of them are read meanwhile. How long
/// the answers took, and how often was read.
fn waits(
    cluster: &Cluster,
    rig: &mut Rig,
    time: Duration,
    members: Option<usize>,
) -> Result<(Waits, u64)> {
    let is_over = AtomicBool::new(false);
    let is_over = &is_over;
    let readings = AtomicU64::new(0);
    thread::scope(|scope| {
        let redis = scope.spawn(move || {
            let mut redis = cluster.ask_redis()?;
            pulse(is_over, || Ok(redis.call(&["PING"]).map(|_| ())?))
        });
        let mut nodes = Vec::new();
        for node in [0, 1] {
            nodes.push(scope.spawn(move || {
                let mut http = Http::open(cluster.nodes[node].client, None)?;
                pulse(is_over, || http.get("/health").map(|_| ()))
            }));
        }
        let reading = members.map(|members| {
            let readings = &readings;
            scope.spawn(move || read(cluster, members, is_over, readings))
        });
        let until = Instant::now() + time;
        let mut held = Ok(());
        while held.is_ok() && Instant::now() < until {
            held = rig.idle(TURN);
        }
        is_over.store(true, Ordering::Release);
        held?;
        let joined = "nothing panics there";
        if let Some(reading) = reading {
            reading.join().expect(joined)?;
        }
        let reading_node = nodes.pop().context("two nodes")?.join().expect(joined)?;
        let holding_node = nodes.pop().context("two nodes")?.join().expect(joined)?;
        let waits = Waits {
            redis: redis.join().expect(joined)?,
            reading_node,
            holding_node,
        };
        Ok((waits, readings.load(Ordering::Relaxed)))
    })
}

fn read(
    cluster: &Cluster,
    members: usize,
    is_over: &AtomicBool,
    readings: &AtomicU64,
) -> Result<()> {
    let mut api = cluster.api(1)?;
    while !is_over.load(Ordering::Acquire) {
        let (status, answer) = api.post("/api/presence", r#"{"channel":"room:all"}"#)?;
        let found = memchr::memmem::find_iter(&answer, b"\"client\"").count();
        ensure!(
            status == 200 && found == members,
            "presence of {members} answered {status} with {found} members"
        );
        readings.fetch_add(1, Ordering::Relaxed);
        thread::sleep(READ_EVERY);
    }
    Ok(())
}

fn pulse(is_over: &AtomicBool, mut ask: impl FnMut() -> Result<()>) -> Result<Histogram> {
    let mut waits = Histogram::default();
    while !is_over.load(Ordering::Acquire) {
        let start = Instant::now();
        ask()?;
        waits.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        thread::sleep(PULSE);
    }
    Ok(waits)
}

/// The longest that Redis noted, in milliseconds, and what it was.
fn longest_command(redis: &mut Connection) -> Result<(f64, String)> {
    let log = redis.call(&["SLOWLOG", "GET", "128"])?;
    let mut longest = (
        SLOW_MICROS.parse::<i64>().unwrap_or(0),
        "none took longer than the shortest that is noted".to_owned(),
    );
    for entry in log.list() {
        // Number, time, microseconds, words.
        let [_, _, Reply::Integer(micros), words, ..] = entry.list() else {
            continue;
        };
        if *micros > longest.0 {
            let name = words.list().first().map(Reply::text).unwrap_or_default();
            longest = (*micros, name);
        }
    }
    Ok((longest.0 as f64 / 1e3, longest.1))
}
