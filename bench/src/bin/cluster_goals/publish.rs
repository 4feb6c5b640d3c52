//! Publishing with history through the whole server and Redis: what it costs, how many, and how long to another node.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use tidegate_bench::identity::connect_command;
use tidegate_bench::load::{Pace, Plan, Rig, RigConfig, Sample, Step};
use tidegate_bench::process;
use tidegate_bench::report::{at_least, at_most, median};
use tidegate_bench::subject::Subject;
use tidegate_bench::template::Template;
use tidegate_bench::unsteady::Watch;
use tidegate_bench::yardstick::{PUBLICATION_BYTES, Slowness};

use super::Goals;
use super::cluster::{self, Cluster};

/// Publications that have no answer yet.
const IN_FLIGHT: usize = 128;

/// Channels that are published to in turn.
const CHANNELS: usize = 1_000;

/// Channels of one subscriber; a connection may have 128.
const CHANNELS_EACH: usize = 100;

/// Commands of a request to the server API, and connections that send them.
const BATCH: usize = 64;
const BATCHES: usize = IN_FLIGHT / BATCH;

/// What a publish with history may cost.
const OUR_MICROS: f64 = 15.0;
const REDIS_MICROS: f64 = 13.0;
const PER_SECOND: f64 = 50_000.0;
const LATENCY_MILLIS: f64 = 5.0;

/// Who hears what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    ByNobody,
    /// Each channel by one session of the last node.
    ByOneEach,
}

/// What a way to publish came to.
struct Cost {
    per_second: f64,
    /// Of all nodes together.
    our_micros: f64,
    redis_micros: f64,
    client_micros: f64,
    commands: String,
}

impl Goals {
    pub(crate) fn publish(&mut self) -> Result<()> {
        let slowness = Slowness::measure(&self.run)?;
        println!("    {slowness}");
        let alone = self.by_clients_alone()?;
        let mut table = String::from(
            "128 publications in flight, 1,000 channels with a history of 100, data of 140 bytes; nodes, Redis and the load\n\
             client share the machine. Microseconds of CPU for each publication, all nodes together. Clients: 128\n\
             connections, each with one publication that is not answered. Server API: two connections with batches of 64.\n\
             Heard: each channel by one session of the last node. The issue that set the bars names the reference at 24–32 µs of\n\
             server and 13–17 µs of Redis, 30,000–43,000 a second; it was not measured here. The first line is a node without\n\
             Redis: sockets and protocol alone.\n\n\
             | Nodes | From | Heard | a second | nodes | Redis | load client | commands in Redis for each |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        table.push_str(&format!(
            "| 1, in memory | clients | no | {:.0} | {:.1} | - | {:.1} | - |\n",
            alone.per_second, alone.our_micros, alone.client_micros
        ));
        for num_nodes in [1, 2] {
            println!("publish with history, {num_nodes} node(s), {IN_FLIGHT} in flight");
            let cluster = Cluster::start(&self.options.server, num_nodes)?;
            let mut rows = Vec::new();
            for heard in [Heard::ByNobody, Heard::ByOneEach] {
                rows.push(("clients", heard, self.by_clients(&cluster, heard)?));
            }
            let batches = self.by_batches(&cluster)?;
            rows.push(("server API", Heard::ByNobody, batches));
            for (from, heard, cost) in &rows {
                table.push_str(&format!(
                    "| {num_nodes} | {from} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {} |\n",
                    match heard {
                        Heard::ByNobody => "no",
                        Heard::ByOneEach => "yes",
                    },
                    cost.per_second,
                    cost.our_micros,
                    cost.redis_micros,
                    cost.client_micros,
                    cost.commands
                ));
            }
            let unheard = rows
                .iter()
                .filter(|(_, heard, _)| *heard == Heard::ByNobody);
            for (from, _, cost) in unheard {
                self.add_bars(num_nodes, from, cost, slowness);
            }
        }
        table.push_str(&format!("\nAs to the machine: {slowness}.\n"));
        self.section("Publish with history through Redis", table);
        Ok(())
    }

    fn add_bars(&mut self, num_nodes: usize, from: &str, cost: &Cost, slowness: Slowness) {
        let how = format!(
            "{IN_FLIGHT} in flight, heard by nobody; the load client takes {:.1} µs of the same two cores for each; {slowness}",
            cost.client_micros
        );
        let nodes = if num_nodes == 1 {
            "one node"
        } else {
            "two nodes"
        };
        let what = |what: &str| format!("Publish with history from {from}, {nodes}, {what}");
        let bars = [
            at_most(
                &what("our CPU"),
                (cost.our_micros, OUR_MICROS, "µs"),
                how.clone(),
            ),
            at_most(
                &what("CPU of Redis"),
                (cost.redis_micros, REDIS_MICROS, "µs"),
                how.clone(),
            ),
            at_least(
                &what("publications"),
                (cost.per_second, PER_SECOND, "a second"),
                how,
            ),
        ];
        bars.into_iter().for_each(|bar| self.run.add(bar));
    }

    pub(crate) fn latency(&mut self) -> Result<()> {
        println!("from one node to the other");
        let cluster = Cluster::start(&self.options.server, 2)?;
        let mut rig = Rig::open(RigConfig {
            publishers: vec![cluster.nodes[0].client; IN_FLIGHT],
            ..rig(&cluster.nodes, cluster.redis.pid().into(), Heard::ByOneEach)
        })?;
        let most = rig.measure(&self.plan(Pace::Answered, Heard::ByOneEach, 4.0))?;
        let full = most.published as f64 / most.seconds;
        let plan = self.plan(Pace::Rate(full / 2.0), Heard::ByOneEach, 20.0);
        let watch = Watch::begin();
        let sample = rig.measure(&plan)?;
        let unsteady = watch.end();
        ensure!(
            sample.lost == 0 && sample.refused == 0,
            "{} lost, {} refused",
            sample.lost,
            sample.refused
        );
        self.run.add(at_most(
            "From one node to the other at half load, p99",
            (sample.p99_us / 1e3, LATENCY_MILLIS, "ms"),
            format!(
                "{:.0} publications a second, half of what the first node and Redis did with {IN_FLIGHT} in flight; published by \
                 sockets of one node, heard by sockets of the other; p50 {:.2} ms, p99.9 {:.2} ms, at most {:.1} ms; {} of {} \
                 arrived within the time and none was lost; {}",
                sample.published as f64 / sample.seconds,
                sample.p50_us / 1e3,
                sample.p999_us / 1e3,
                sample.max_us / 1e3,
                sample.delivered,
                sample.published,
                unsteady
            ),
        ));
        Ok(())
    }

    fn plan(&self, pace: Pace, heard: Heard, seconds: f64) -> Plan {
        Plan {
            message: Template::new(&format!(
                r#"{{"id":{{id}},"publish":{{"channel":"chat:{{group}}","data":{}}}}}"#,
                Template::data(PUBLICATION_BYTES)
            )),
            pace,
            deliveries_per_publication: match heard {
                Heard::ByNobody => 0,
                Heard::ByOneEach => 1,
            },
            warmup: self.run.seconds(1.0),
            time: self.run.seconds(seconds),
        }
    }

    fn by_clients(&self, cluster: &Cluster, heard: Heard) -> Result<Cost> {
        let rig = rig(&cluster.nodes, Some(cluster.redis.pid()), heard);
        let before = cluster.commands()?;
        let cost = self.by_rig(rig, cluster.nodes.len() - 1, heard)?;
        // Those of the warm-up too: a mean over everything that was published, by how many scripts ran.
        let after = cluster.commands()?;
        let cost = Cost {
            commands: after.since(&before, after.calls("evalsha", &before), 0.05),
            ..cost
        };
        println!(
            "    clients, heard {heard:?}: {:.0} a second, nodes {:.1} µs, Redis {:.1} µs, load client {:.1} µs",
            cost.per_second, cost.our_micros, cost.redis_micros, cost.client_micros
        );
        Ok(cost)
    }

    /// The same with a node that has no Redis: what of the cost is sockets and protocol.
    fn by_clients_alone(&self) -> Result<Cost> {
        let (node, _folder) = cluster::alone(&self.options.server)?;
        let rig = rig(std::slice::from_ref(&node), None, Heard::ByNobody);
        let cost = self.by_rig(rig, 0, Heard::ByNobody)?;
        println!(
            "    clients, in memory: {:.0} a second, node {:.1} µs, load client {:.1} µs",
            cost.per_second, cost.our_micros, cost.client_micros
        );
        Ok(cost)
    }

    /// `num_others` of the processes beside are nodes.
    fn by_rig(&self, config: RigConfig, num_others: usize, heard: Heard) -> Result<Cost> {
        let mut rig = Rig::open(config)?;
        let plan = self.plan(Pace::Answered, heard, 5.0);
        let mut samples = Vec::new();
        for _ in 0..self.samples(3) {
            let sample = rig.measure(&plan)?;
            ensure!(
                sample.refused == 0 && sample.lost == 0 && sample.published > 0,
                "{} refused and {} lost of {}",
                sample.refused,
                sample.lost,
                sample.published
            );
            samples.push(sample);
        }
        let micros = |cores: &dyn Fn(&Sample) -> f64| {
            median(
                samples
                    .iter()
                    .map(|sample| cores(sample) * sample.seconds * 1e6 / sample.published as f64),
            )
        };
        Ok(Cost {
            per_second: median(
                samples
                    .iter()
                    .map(|sample| sample.published as f64 / sample.seconds),
            ),
            our_micros: micros(&|sample| {
                sample.server_cores + sample.beside_cores[..num_others].iter().sum::<f64>()
            }),
            redis_micros: micros(&|sample| sample.beside_cores[num_others..].iter().sum()),
            client_micros: micros(&|sample| sample.client_cores),
            commands: String::new(),
        })
    }

    /// Batches of the server API, one connection after the other on each node.
    fn by_batches(&self, cluster: &Cluster) -> Result<Cost> {
        let data = "x".repeat(PUBLICATION_BYTES - 2);
        let time = self.run.seconds(5.0);
        let nodes = || cluster.nodes.iter().map(|node| node.pid());
        let cpu = |pids: &mut dyn Iterator<Item = u32>| -> Result<f64> {
            pids.map(|pid| Ok(process::cpu_time(pid)?.as_secs_f64()))
                .sum()
        };
        let redis = cluster.redis.pid();
        let used = || -> Result<[f64; 3]> {
            Ok([
                cpu(&mut nodes())?,
                cpu(&mut [redis].into_iter())?,
                cpu(&mut [std::process::id()].into_iter())?,
            ])
        };
        let commands = cluster.commands()?;
        let (before, start) = (used()?, Instant::now());
        let until = start + time;
        let published: u64 = thread::scope(|scope| {
            let senders: Vec<_> = (0..BATCHES)
                .map(|nth| {
                    let data = &data;
                    scope.spawn(move || -> Result<u64> {
                        let mut api = cluster.api(nth % cluster.nodes.len())?;
                        let mut published = 0;
                        while Instant::now() < until {
                            let commands: Vec<String> = (0..BATCH)
                                .map(|at| {
                                    let channel = (published + at * 7 + nth * 500) % CHANNELS;
                                    format!(r#"{{"publish":{{"channel":"chat:{channel}","data":"{data}"}}}}"#)
                                })
                                .collect();
                            let body = format!(
                                r#"{{"parallel":true,"commands":[{}]}}"#,
                                commands.join(",")
                            );
                            let (status, answer) = api.post("/api/batch", &body)?;
                            ensure!(
                                status == 200
                                    && memchr::memmem::find(&answer, b"\"error\"").is_none(),
                                "a batch was refused: {status} {}",
                                String::from_utf8_lossy(&answer)
                            );
                            published += BATCH;
                        }
                        Ok(published as u64)
                    })
                })
                .collect();
            senders
                .into_iter()
                .map(|sender| sender.join().expect("a sender does not panic"))
                .sum::<Result<u64>>()
        })?;
        let (after, seconds) = (used()?, start.elapsed().as_secs_f64());
        let each = |at: usize| (after[at] - before[at]) * 1e6 / published.max(1) as f64;
        let commands_after = cluster.commands()?;
        let cost = Cost {
            per_second: published as f64 / seconds,
            our_micros: each(0),
            redis_micros: each(1),
            client_micros: each(2),
            commands: commands_after.since(
                &commands,
                commands_after.calls("evalsha", &commands),
                0.05,
            ),
        };
        println!(
            "    server API, batches of {BATCH}: {:.0} a second, nodes {:.1} µs, Redis {:.1} µs",
            cost.per_second, cost.our_micros, cost.redis_micros
        );
        Ok(cost)
    }
}

/// Publishers spread over the nodes, and those who hear them on the last one. Beside that are the other nodes and Redis,
/// if there is one.
fn rig(nodes: &[Subject], redis: Option<u32>, heard: Heard) -> RigConfig {
    let path = "/connection/websocket".to_owned();
    let (last, others) = nodes.split_last().expect("there is a node");
    let publishers: Vec<SocketAddr> = (0..IN_FLIGHT)
        .map(|nth| nodes[nth % nodes.len()].client)
        .collect();
    RigConfig {
        address: last.client,
        server_pid: last.pid(),
        subscriber_path: path.clone(),
        subscriber_script: vec![
            Step::SendEach(connect_command),
            Step::Expect(1),
            Step::SendEach(subscribe_to_hundred),
            Step::Expect(u32::try_from(CHANNELS_EACH).unwrap_or(u32::MAX)),
        ],
        subscribers: match heard {
            Heard::ByNobody => 0,
            Heard::ByOneEach => CHANNELS / CHANNELS_EACH,
        },
        groups: CHANNELS,
        publisher: Some((path, vec![Step::SendEach(connect_command), Step::Expect(1)])),
        publishers,
        beside: others.iter().map(|node| node.pid()).chain(redis).collect(),
        delivery_prefix: r#"{"push":{"channel""#.into(),
    }
}

/// The commands of subscriber `index`.
fn subscribe_to_hundred(index: usize) -> String {
    let first = index * CHANNELS_EACH;
    let commands = (first..first + CHANNELS_EACH).map(|channel| {
        format!(
            r#"{{"id":{},"subscribe":{{"channel":"chat:{channel}"}}}}"#,
            channel - first + 2
        )
    });
    commands.collect::<Vec<_>>().join("\n")
}
