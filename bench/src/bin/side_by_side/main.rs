//! The bars, measured: Tidegate beside the ceiling, sample by sample in turn, in one command.
//!
//! Started by `cargo xtask bench`, which builds what it needs. Prints each bar as it is found and writes
//! `docs/performance.md`. Ends with status 1 when a bar was missed.

#![expect(clippy::print_stdout, reason = "its result is its output")]

mod hostile;
mod latency;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use tempfile::TempDir;
use tidegate_bench::criterion;
use tidegate_bench::identity::connect_command;
use tidegate_bench::load::{Pace, Plan, Rig, RigConfig, Sample, Step};
use tidegate_bench::process::{self, CoreTime, memory};
use tidegate_bench::report::{self, Bar, Report, median};
use tidegate_bench::run::{Run, Thoroughness};
use tidegate_bench::server::{self, Pages, Workers};
use tidegate_bench::subject::Subject;
use tidegate_bench::template::Template;
use tidegate_bench::yardstick::{self, PUBLICATION_BYTES};

/// Sessions of the idle measurement.
const IDLE_SESSIONS: usize = 10_000;

/// Which kind of idle session has the bar.
const SUBSCRIBED: usize = 2;

/// The hook call that has a bar, as its bench names it.
const LEAN_HOOK: &str = "hook_call/128B/filter_lean";

/// Measures Tidegate beside the ceiling.
#[derive(Debug, Parser)]
struct Options {
    /// The server's release binary.
    #[arg(long)]
    server: PathBuf,
    /// The folder with the built wasm guests.
    #[arg(long)]
    plugins: PathBuf,
    /// Where the report is written.
    #[arg(long)]
    report: Option<PathBuf>,
    /// A tenth of the time and fewer samples: to see that it works, not to believe.
    #[arg(long)]
    quick: bool,
    /// Only this part; may be given several times.
    #[arg(long)]
    only: Vec<Part>,
    /// Where criterion left its results; they join the report.
    #[arg(long)]
    criterion: Option<PathBuf>,
    /// What other programs left; may be given several times. It joins the report.
    #[arg(long)]
    join: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Fanout,
    Idle,
    Plugin,
    Latency,
    Bystanders,
    Kill,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    process::raise_file_limit();
    let load_before = process::load_average();
    let mut bench = Bench {
        load_before,
        cores_before: CoreTime::now(),
        run: Run::new(Thoroughness::of_option(options.quick)),
        options,
    };
    if bench.wants(Part::Fanout) {
        bench.fan_out("1,000 subscribers, one under way", 1_000, 1, 1.3)?;
        bench.fan_out("1,000 subscribers, sixteen under way", 1_000, 16, 2.0)?;
        bench.fan_out("10,000 subscribers, one under way", 10_000, 1, 1.3)?;
    }
    if bench.wants(Part::Idle) {
        bench.idle()?;
    }
    if bench.wants(Part::Plugin) {
        bench.plugin()?;
    }
    if bench.wants(Part::Latency) {
        bench.latency()?;
    }
    if bench.wants(Part::Bystanders) {
        bench.bystanders()?;
    }
    if bench.wants(Part::Kill) {
        bench.kill()?;
    }
    bench.join()?;
    bench.hot_paths()?;
    bench.finish()
}

struct Bench {
    load_before: f64,
    cores_before: CoreTime,
    options: Options,
    run: Run,
}

/// How a pair of measurements differs.
struct Pair {
    ceiling: Sample,
    tidegate: Sample,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.tidegate.server_ns_per_delivery / self.ceiling.server_ns_per_delivery
    }
}

impl Bench {
    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn samples(&self, samples: usize) -> usize {
        self.run.thoroughness.or(samples, 2)
    }

    /// What other programs found in the same run of `cargo xtask bench`.
    fn join(&mut self) -> Result<()> {
        for path in &self.options.join {
            self.run.report.append(Report::left(path)?);
        }
        Ok(())
    }

    fn fan_out(&mut self, what: &str, subscribers: usize, window: u64, bar: f64) -> Result<()> {
        println!("fan-out: {what}");
        let ceiling = yardstick::start(1)?;
        let (tidegate, _scratch) = self.start_tidegate(Workers::One, Pages::AsShipped)?;
        let mut pairs = Vec::new();
        for _ in 0..self.samples(7) {
            let plan = |message: &str| Plan {
                message: Template::new(message),
                pace: Pace::Window(window),
                deliveries_per_publication: subscribers as u64,
                warmup: self.run.seconds(1.0),
                time: self.run.seconds(3.0),
            };
            let raw = Template::data(PUBLICATION_BYTES);
            let publish =
                format!(r#"{{"id":{{id}},"publish":{{"channel":"bench:b","data":{raw}}}}}"#);
            let ceiling = measure(yardstick::rig(&ceiling, subscribers), &plan(&raw))?;
            let tidegate = measure(
                tidegate_rig(&tidegate, subscribers, &["bench:b"]),
                &plan(&publish),
            )?;
            println!(
                "    ceiling {:.0} ns, tidegate {:.0} ns per delivery: {:.2}",
                ceiling.server_ns_per_delivery,
                tidegate.server_ns_per_delivery,
                tidegate.server_ns_per_delivery / ceiling.server_ns_per_delivery
            );
            pairs.push(Pair { ceiling, tidegate });
        }
        let ratio = median(pairs.iter().map(Pair::ratio));
        let of = |side: fn(&Pair) -> &Sample, value: fn(&Sample) -> f64| {
            median(pairs.iter().map(|pair| value(side(pair))))
        };
        let lost: u64 = pairs
            .iter()
            .map(|pair| pair.tidegate.lost + pair.tidegate.disordered)
            .sum();
        self.run.add(Bar {
            what: format!("CPU per delivery, {what}, as a multiple of the ceiling"),
            found: format!("{ratio:.2} x"),
            bar: format!("≤ {bar} x"),
            is_met: ratio <= bar && lost == 0,
            how: format!(
                "median of {} pairs: {:.0} ns against {:.0} ns; {:.0} and {:.0} deliveries a second; {lost} lost or out of order",
                pairs.len(),
                of(|pair| &pair.tidegate, |sample| sample.server_ns_per_delivery),
                of(|pair| &pair.ceiling, |sample| sample.server_ns_per_delivery),
                of(|pair| &pair.tidegate, |sample| sample.deliveries_per_second),
                of(|pair| &pair.ceiling, |sample| sample.deliveries_per_second),
            ),
        });
        Ok(())
    }

    fn idle(&mut self) -> Result<()> {
        println!("idle sessions: {IDLE_SESSIONS} of each kind");
        let sessions = self.run.thoroughness.or(IDLE_SESSIONS, 1_000);
        let connect = [Step::SendEach(connect_command), Step::Expect(1)];
        let subscribe = |channel: &str| {
            [
                Step::send(&format!(
                    r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#
                )),
                Step::Expect(1),
            ]
        };
        let kinds: [(&str, Vec<Step>); 4] = [
            ("upgraded WebSocket, nothing said yet", Vec::new()),
            (
                "connected with a token (identity, pings, expiry)",
                connect.to_vec(),
            ),
            (
                "connected and subscribed to one channel of all",
                [connect.as_slice(), &subscribe("bench:b")].concat(),
            ),
            (
                "connected and subscribed to a channel of its own",
                [connect.as_slice(), &subscribe("bench:own-{id}")].concat(),
            ),
        ];
        let mut table = String::from(
            "Without huge pages (`MIMALLOC_ALLOW_THP=0`), which would round the process to 2 MiB and hide the steps.\n\n\
             | Session | Bytes of user memory each | More than the line before |\n|---|---|---|\n",
        );
        let ceiling = {
            let subject = yardstick::start(1)?;
            self.held(
                &subject,
                RigConfig {
                    publisher: None,
                    ..yardstick::rig(&subject, sessions)
                },
            )?
        };
        table.push_str(&format!(
            "| the ceiling's connection | {:.0} | |\n",
            ceiling.bytes
        ));
        let mut before = None;
        for (kind, script) in &kinds {
            let held = self.held_by_tidegate(Pages::Small, sessions, script)?;
            println!(
                "    {kind}: {:.0} bytes, {:.0} µs of CPU to get there",
                held.bytes, held.cpu_us
            );
            let more = before.map_or(String::new(), |before| {
                format!("{:+.0}", held.bytes - before)
            });
            table.push_str(&format!("| {kind} | {:.0} | {more} |\n", held.bytes));
            before = Some(held.bytes);
        }
        let (_, script) = &kinds[SUBSCRIBED];
        let Held { bytes, cpu_us: cpu } =
            self.held_by_tidegate(Pages::AsShipped, sessions, script)?;
        let how = format!(
            "{sessions} sessions, each with its own user, one subscription, pings on; median of {} fresh servers; anonymous memory of the process",
            self.samples(3)
        );
        self.run.add(Bar {
            what: "User memory per idle session".into(),
            found: format!("{bytes:.0} bytes"),
            bar: "≤ 4,096 bytes".into(),
            is_met: bytes <= 4_096.0,
            how: how.clone(),
        });
        self.run.add(Bar {
            what: "Connect and subscribe, CPU".into(),
            found: format!("{cpu:.1} µs"),
            bar: "≤ 60 µs".into(),
            is_met: cpu <= 60.0,
            how: format!(
                "{how}; accept, upgrade, token check, two commands and their replies; the ceiling's accept and upgrade alone, in the same minutes: {:.0} µs",
                ceiling.cpu_us
            ),
        });
        self.run
            .report
            .sections
            .push(("Where the memory of a session goes".into(), table));
        Ok(())
    }

    /// The median of fresh servers.
    fn held_by_tidegate(&self, pages: Pages, sessions: usize, script: &[Step]) -> Result<Held> {
        let mut found = Vec::new();
        for _ in 0..self.samples(3) {
            let (subject, _scratch) = self.start_tidegate(Workers::One, pages)?;
            let rig = RigConfig {
                subscriber_script: script.to_vec(),
                publisher: None,
                ..tidegate_rig(&subject, sessions, &[])
            };
            found.push(self.held(&subject, rig)?);
        }
        Ok(Held {
            bytes: median(found.iter().map(|held| held.bytes)),
            cpu_us: median(found.iter().map(|held| held.cpu_us)),
        })
    }

    fn held(&self, subject: &Subject, config: RigConfig) -> Result<Held> {
        let before = memory(subject.pid())?;
        let sessions = config.subscribers.max(1) as f64;
        let mut rig = Rig::open(config)?;
        rig.idle(self.run.seconds(2.0))?;
        let after = memory(subject.pid())?;
        Ok(Held {
            bytes: after.anonymous.saturating_sub(before.anonymous) as f64 / sessions,
            cpu_us: rig.opened().server_cpu_us_per_connection,
        })
    }

    fn plugin(&mut self) -> Result<()> {
        println!("a lean filtering plugin in the loaded server");
        let (tidegate, scratch) = self.start_tidegate(Workers::One, Pages::AsShipped)?;
        self.push_plugin(&tidegate, scratch.path())?;
        let channels = ["bench:b", "filtered:b"];
        let mut rig = Rig::open(tidegate_rig(&tidegate, 1, &channels))?;
        let probe = |channel: &str| {
            format!(r#"{{"id":99,"publish":{{"channel":"{channel}","data":{{"probe":true}}}}}}"#)
        };
        ensure!(
            rig.is_refused(&probe(channels[1]))?,
            "the plugin is not asked where it is bound"
        );
        ensure!(
            !rig.is_refused(&probe(channels[0]))?,
            "the plugin is asked where it is not bound"
        );
        let plan = |channel: &str| Plan {
            message: Template::new(&format!(
                r#"{{"id":{{id}},"publish":{{"channel":"{channel}","data":{}}}}}"#,
                Template::data(PUBLICATION_BYTES)
            )),
            pace: Pace::Window(64),
            deliveries_per_publication: 1,
            warmup: self.run.seconds(0.5),
            time: self.run.seconds(2.0),
        };
        let (mut with, mut without, mut more) = (Vec::new(), Vec::new(), Vec::new());
        for nth in 0..self.samples(11) {
            // Which side goes first alternates, so that a drift of the machine hits both.
            let first = nth % 2;
            let one = rig
                .measure(&plan(channels[first]))?
                .server_ns_per_publication;
            let other = rig
                .measure(&plan(channels[1 - first]))?
                .server_ns_per_publication;
            let (bare, filtered) = if first == 0 {
                (one, other)
            } else {
                (other, one)
            };
            println!(
                "    without {bare:.0} ns, with {filtered:.0} ns per publish: {:+.0} ns",
                filtered - bare
            );
            without.push(bare);
            with.push(filtered);
            more.push(filtered - bare);
        }
        let pairs = more.len();
        more.sort_by(f64::total_cmp);
        let (low, high) = (more[pairs / 4], more[pairs - 1 - pairs / 4]);
        let more = median(more);
        self.run.add(Bar {
            what: "CPU per publish that a lean filtering plugin adds".into(),
            found: format!("{more:.0} ns"),
            bar: "≤ 1,000 ns".into(),
            is_met: more <= 1_000.0,
            how: format!(
                "median of {pairs} interleaved pairs in one server, half of them between {low:+.0} and {high:+.0} ns: where that is wide, the machine's noise is larger than the plugin; a client's publish with one subscriber costs {:.0} ns with and {:.0} ns without the plugin",
                median(with),
                median(without)
            ),
        });
        Ok(())
    }

    fn push_plugin(&self, tidegate: &Subject, data_dir: &Path) -> Result<()> {
        let wasm = self.guest("bench_lean_filter")?.display().to_string();
        let place = "filtering@namespace:filtered";
        self.cli(
            tidegate,
            data_dir,
            &[
                "plugin",
                "push",
                "--name",
                "lean",
                "--activate",
                "--bind",
                place,
                &wasm,
            ],
        )?;
        Ok(())
    }

    /// A built guest.
    fn guest(&self, name: &str) -> Result<PathBuf> {
        let wasm = self.options.plugins.join(format!("{name}.wasm"));
        ensure!(
            wasm.exists(),
            "{} is missing; `cargo xtask bench` builds it",
            wasm.display()
        );
        Ok(wasm)
    }

    /// Runs a command of the server's own command line against it; what it prints.
    fn cli(&self, tidegate: &Subject, data_dir: &Path, args: &[&str]) -> Result<String> {
        server::command_line(&self.options.server, tidegate, data_dir, args)
    }

    /// What criterion found before this program was started, and its bar.
    fn hot_paths(&mut self) -> Result<()> {
        let Some(folder) = self.options.criterion.clone() else {
            return Ok(());
        };
        let results = criterion::results(&folder)?;
        let lean = results
            .iter()
            .find(|result| result.name == LEAN_HOOK)
            .with_context(|| format!("criterion did not measure {LEAN_HOOK}"))?;
        self.run.add(Bar {
            what: "Lean filtering hook, median".into(),
            found: format!("{:.0} ns", lean.median_ns),
            bar: "≤ 350 ns".into(),
            is_met: lean.median_ns <= 350.0,
            how: format!(
                "criterion, {LEAN_HOOK}: one call on the session's worker, from draft to verdict"
            ),
        });
        self.run
            .report
            .sections
            .push(("Hot paths by themselves".into(), criterion::table(&results)));
        Ok(())
    }

    fn start_tidegate(&self, workers: Workers, pages: Pages) -> Result<(Subject, TempDir)> {
        self.start_configured(workers, pages, json!({}))
    }

    /// Starts the server with the usual configuration and these members besides.
    fn start_configured(
        &self,
        workers: Workers,
        pages: Pages,
        members: serde_json::Value,
    ) -> Result<(Subject, TempDir)> {
        server::start(&self.options.server, workers, pages, members)
    }

    fn finish(self) -> Result<ExitCode> {
        if let Some(path) = &self.options.report
            && self.options.only.is_empty()
            && self.run.thoroughness == Thoroughness::Full
        {
            let seconds = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs());
            let text = self.run.report.markdown(
                &report::date(seconds),
                &format!(
                    "{}; its hypervisor gave {:.1} % of the time of its cores to others meanwhile",
                    process::machine(),
                    CoreTime::now().stolen_since(self.cores_before) * 100.0
                ),
                self.load_before,
                match self.options.criterion {
                    Some(_) => "cargo xtask bench",
                    None => "cargo xtask bench --load",
                },
            );
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("written: {}", path.display());
        }
        Ok(self.run.finish())
    }
}

/// What holding sessions costs.
struct Held {
    bytes: f64,
    cpu_us: f64,
}

fn measure(config: RigConfig, plan: &Plan) -> Result<Sample> {
    Rig::open(config)?.measure(plan)
}

/// Subscribers of these channels, and a publisher that joined none.
fn tidegate_rig(subject: &Subject, subscribers: usize, channels: &[&str]) -> RigConfig {
    let path = "/connection/websocket".to_owned();
    let mut script = vec![Step::SendEach(connect_command), Step::Expect(1)];
    for (nth, channel) in channels.iter().enumerate() {
        script.push(Step::send(&format!(
            r#"{{"id":{},"subscribe":{{"channel":"{channel}"}}}}"#,
            nth + 2
        )));
        script.push(Step::Expect(1));
    }
    RigConfig {
        address: subject.client,
        server_pid: subject.pid(),
        subscriber_path: path.clone(),
        subscriber_script: script,
        subscribers,
        groups: 1,
        // Anybody with an identity may publish here, so the publisher itself hears nothing.
        publisher: Some((path, vec![Step::SendEach(connect_command), Step::Expect(1)])),
        publishers: vec![subject.client],
        beside: Vec::new(),
        delivery_prefix: r#"{"push":{"channel""#.into(),
    }
}
