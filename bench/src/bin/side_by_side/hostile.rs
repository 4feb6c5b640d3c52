//! What others notice of a hostile plugin, and how soon a guest that never ends is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tidegate_bench::histogram::Histogram;
use tidegate_bench::identity::connect_command_with;
use tidegate_bench::unsteady::Watch;

use super::*;

/// The app of the hostile plugins.
const APP: &str = "hostile";

/// Sockets that do nothing wrong, in channels of ten.
const BYSTANDERS: usize = 100;
const ROOMS: usize = 10;
/// Publications to them in a second, each delivered ten times.
const PUBLICATIONS: f64 = 200.0;

/// Calls of a hostile plugin in a second: what one connection of a created app may make.
const CALLS: f64 = 100.0;

/// Rounds of one quiet sample and one of each misdeed.
const ROUNDS: usize = 5;
/// Plugins that spin in one round. A breaker leaves each of them alone after three kills, so that it takes many to
/// keep a thread spinning.
const SPINNERS: usize = 40;
/// Plugins that are killed three times each, once on an idle machine and once on a loaded one.
const KILLED: usize = 100;
/// The deadline of a guest that is timed when it is killed.
const DEADLINE: Duration = Duration::from_millis(5);

/// What a hostile plugin does when it is called, and what it is called in the report.
const MISDEEDS: [(&str, &str); 3] = [
    ("spin", "spins until it is killed"),
    ("burn", "takes its whole deadline and answers"),
    ("bomb", "takes all its memory"),
];

impl Bench {
    pub(super) fn bystanders(&mut self) -> Result<()> {
        println!("bystanders: {BYSTANDERS} sockets, a hostile plugin in another app");
        let (tidegate, scratch) =
            self.start_configured(Workers::AsShipped, Pages::AsShipped, quietly(json!({})))?;
        let (rounds, spinners) = (self.samples(ROUNDS), self.run.thoroughness.or(SPINNERS, 5));
        let secret = self.hostile_app(&tidegate, scratch.path())?;
        for nth in 0..rounds * spinners {
            self.push_hostile(&tidegate, scratch.path(), &spinner(nth))?;
        }
        for (misdeed, _) in &MISDEEDS[1..] {
            self.push_hostile(&tidegate, scratch.path(), misdeed)?;
        }
        let channel = "bench:b{group}";
        let mut rig = tidegate_rig(&tidegate, BYSTANDERS, &[channel]);
        rig.groups = ROOMS;
        let mut bystanders = Rig::open(rig)?;
        let plan = Plan {
            message: Template::new(&format!(
                r#"{{"id":{{id}},"publish":{{"channel":"{channel}","data":{}}}}}"#,
                Template::data(PUBLICATION_BYTES)
            )),
            pace: Pace::Rate(PUBLICATIONS),
            deliveries_per_publication: (BYSTANDERS / ROOMS) as u64,
            warmup: self.run.seconds(1.0),
            time: self.run.seconds(6.0),
        };
        let mut quiet = Vec::new();
        let mut hostile: [Vec<(Sample, Calls)>; MISDEEDS.len()] = Default::default();
        for round in 0..rounds {
            quiet.push(bystanders.measure(&plan)?);
            for ((misdeed, what), samples) in MISDEEDS.iter().zip(&mut hostile) {
                let methods: Vec<String> = if *misdeed == "spin" {
                    let first = round * spinners;
                    (first..first + spinners).map(spinner).collect()
                } else {
                    vec![(*misdeed).to_owned()]
                };
                let attack = Attack::begin(&tidegate, &secret, misdeed, methods);
                let sample = bystanders.measure(&plan);
                let (sample, calls) = (sample?, attack.end()?);
                println!(
                    "    {what}: p50 {:.0} µs, p99 {:.0} µs; quiet p50 {:.0} µs, p99 {:.0} µs; {} calls answered, {} failed",
                    sample.p50_us,
                    sample.p99_us,
                    quiet[round].p50_us,
                    quiet[round].p99_us,
                    calls.answered,
                    calls.failed
                );
                samples.push((sample, calls));
            }
        }
        let of = |samples: &[Sample], value: fn(&Sample) -> f64| median(samples.iter().map(value));
        for ((_, what), samples) in MISDEEDS.iter().zip(hostile) {
            let (samples, calls): (Vec<Sample>, Vec<Calls>) = samples.into_iter().unzip();
            let (p99, quiet_p99) = (
                of(&samples, |sample| sample.p99_us),
                of(&quiet, |sample| sample.p99_us),
            );
            let lost: u64 = samples
                .iter()
                .map(|sample| sample.lost + sample.disordered + sample.refused)
                .sum();
            let ratio = p99 / quiet_p99;
            self.run.add(Bar {
                what: format!("Bystanders' p99 while a plugin of another app {what}, beside quiet"),
                found: format!("{ratio:.2} x"),
                bar: "≤ 2 x".into(),
                is_met: ratio <= 2.0 && lost == 0,
                how: format!(
                    "{BYSTANDERS} sockets in {ROOMS} channels, {PUBLICATIONS:.0} publications a second; medians of {} rounds: p50 {:.0} µs against {:.0} µs, p99 {p99:.0} µs against {quiet_p99:.0} µs; {lost} lost, refused or out of order; {CALLS:.0} calls a second of the hostile plugin, {} answered and {} failed",
                    samples.len(),
                    of(&samples, |sample| sample.p50_us),
                    of(&quiet, |sample| sample.p50_us),
                    calls.iter().map(|calls| calls.answered).sum::<u64>(),
                    calls.iter().map(|calls| calls.failed).sum::<u64>(),
                ),
            });
        }
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        println!(
            "kill: a guest that never ends, with a deadline of {} ms",
            DEADLINE.as_millis()
        );
        let plugins = json!({ "deadline": { "rpc": format!("{}ms", DEADLINE.as_millis()) } });
        let (tidegate, scratch) = self.start_configured(
            Workers::AsShipped,
            Pages::AsShipped,
            quietly(json!({ "plugins": plugins })),
        )?;
        let killed = self.run.thoroughness.or(KILLED, 8);
        let secret = self.hostile_app(&tidegate, scratch.path())?;
        for nth in 0..2 * killed {
            self.push_hostile(&tidegate, scratch.path(), &spinner(nth))?;
        }
        let mut rig = Rig::open(hostile_rig(&tidegate, &secret))?;
        let watch = Watch::begin();
        let idle = kills(&mut rig, 0..killed)?;
        let unsteady = watch.end();
        let busy = BusyCores::start();
        let loaded = kills(&mut rig, killed..2 * killed)?;
        let cores = busy.stop();
        for (when, found, bar, conditions) in [
            (
                "idle",
                &idle,
                8.0,
                format!("nothing else to do; {unsteady}"),
            ),
            (
                "all cores loaded",
                &loaded,
                20.0,
                format!("{cores} threads that never rest beside it"),
            ),
        ] {
            let ms = |share| found.quantile(share) as f64 / 1e6;
            self.run.add(Bar {
                what: format!("Kill of a guest that never ends, deadline 5 ms, {when}, p99"),
                found: format!("{:.1} ms", ms(0.99)),
                bar: format!("≤ {bar} ms"),
                is_met: ms(0.99) <= bar,
                how: format!(
                    "{} kills, three of each plugin, from the client's call to error 100 at the client; {conditions}; p50 {:.2} ms, at most {:.1} ms",
                    found.count(),
                    ms(0.5),
                    found.max() as f64 / 1e6
                ),
            });
        }
        Ok(())
    }

    /// Makes the hostile app; the secret of its tokens.
    fn hostile_app(&self, tidegate: &Subject, data_dir: &Path) -> Result<String> {
        let made = self.cli(tidegate, data_dir, &["app", "create", APP, "--json"])?;
        let made: serde_json::Value = serde_json::from_str(made.trim()).context("no JSON")?;
        let secret = made["token_secret"].as_str();
        Ok(secret.context("the app has no secret")?.to_owned())
    }

    /// Uploads the hostile plugin under a name, and has it asked for the method of that name.
    fn push_hostile(&self, tidegate: &Subject, data_dir: &Path, name: &str) -> Result<()> {
        let wasm = self.guest("bench_hostile")?;
        let wasm = wasm.display().to_string();
        let place = format!("rpc@rpc:{name}");
        self.cli(
            tidegate,
            data_dir,
            &[
                "plugin",
                "push",
                "--app",
                APP,
                "--name",
                name,
                "--activate",
                "--bind",
                &place,
                &wasm,
            ],
        )?;
        Ok(())
    }
}

/// Members of a configuration in which failing plugins are not told on the terminal.
fn quietly(mut members: serde_json::Value) -> serde_json::Value {
    members["log"] = json!({ "level": "error" });
    members
}

/// One connection of the hostile app.
fn hostile_rig(tidegate: &Subject, secret: &str) -> RigConfig {
    let connect = connect_command_with(secret, "hostile");
    RigConfig {
        publisher: Some((
            format!("/apps/{APP}/connection/websocket"),
            vec![Step::send(&connect), Step::Expect(1)],
        )),
        ..tidegate_rig(tidegate, 0, &[])
    }
}

/// The name of a plugin and of its method; none begins like another, because bindings are for prefixes.
fn spinner(nth: usize) -> String {
    format!("spin{nth:04}")
}

fn call(id: usize, method: &str, misdeed: &str) -> String {
    format!(r#"{{"id":{id},"rpc":{{"method":"{method}","data":"{misdeed}"}}}}"#)
}

/// Ends of the calls of a hostile plugin.
#[derive(Debug, Clone, Copy, Default)]
struct Calls {
    answered: u64,
    failed: u64,
}

/// Calls of hostile plugins, one after the other and at their pace, until told to stop.
struct Attack {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Calls>>,
}

impl Attack {
    fn begin(
        tidegate: &Subject,
        secret: &str,
        misdeed: &'static str,
        methods: Vec<String>,
    ) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (stop, config) = (Arc::clone(&is_over), hostile_rig(tidegate, secret));
        let thread = thread::spawn(move || {
            let mut rig = Rig::open(config)?;
            let answers = rig.ask_at(CALLS, &stop, |nth| {
                call(nth + 100, &methods[nth % methods.len()], misdeed)
            })?;
            Ok(Calls {
                answered: answers.answered - answers.refused,
                failed: answers.refused,
            })
        });
        Self { is_over, thread }
    }

    fn end(self) -> Result<Calls> {
        self.is_over.store(true, Ordering::Release);
        let calls = self.thread.join();
        calls.unwrap_or_else(|_| bail!("the attack itself fell over"))
    }
}

/// How long it takes until each of these plugins is killed, three times.
fn kills(rig: &mut Rig, plugins: std::ops::Range<usize>) -> Result<Histogram> {
    let mut found = Histogram::default();
    // One round after the other, so that no plugin is asked again at once.
    for round in 0..3 {
        for nth in plugins.clone() {
            let text = call(1_000 + 3 * nth + round, &spinner(nth), "spin");
            let took = rig.refused_after(&text)?.unwrap_or_default();
            ensure!(
                took >= DEADLINE - Duration::from_millis(1),
                "{} was not killed: its call ended after {took:?}",
                spinner(nth)
            );
            found.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(found)
}

/// A thread for each core that does nothing but keep it busy.
struct BusyCores {
    is_over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl BusyCores {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = (0..cores).map(|_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Self {
            threads: threads.collect(),
            is_over,
        }
    }

    /// Answers how many there were.
    fn stop(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let cores = self.threads.len();
        for thread in self.threads {
            // Nothing in it can fail.
            let _ = thread.join();
        }
        cores
    }
}
