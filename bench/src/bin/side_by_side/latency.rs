//! How long a publication takes to its subscribers at 50,000 deliveries a second.

use super::*;

/// Connections of every shape.
const CONNECTIONS: usize = 5_000;

/// Deliveries in a second of every shape.
const DELIVERIES: f64 = 50_000.0;

/// How the connections share channels.
struct Shape {
    name: &'static str,
    channels: usize,
    /// Seconds that the ceiling, and then Tidegate, is measured.
    seconds: [f64; 2],
}

/// Many channels of a hundred: chat rooms, documents, matches.
const ROOMS: Shape = Shape {
    name: "50 channels of 100",
    channels: 50,
    seconds: [15.0, 60.0],
};

/// One channel of all: ten times a second a burst of 5,000 writes, so half of a burst's writes is the least mean.
const EVERYBODY: Shape = Shape {
    name: "one channel of all",
    channels: 1,
    seconds: [15.0, 15.0],
};

impl Shape {
    fn plan(&self, bench: &Bench, message: &str, seconds: f64) -> Plan {
        let members = CONNECTIONS / self.channels;
        Plan {
            message: Template::new(message),
            pace: Pace::Rate(DELIVERIES / members as f64),
            deliveries_per_publication: members as u64,
            warmup: bench.run.seconds(3.0),
            time: bench.run.seconds(seconds),
        }
    }
}

impl Bench {
    pub(super) fn latency(&mut self) -> Result<()> {
        let (best, found) = self.latency_of(&ROOMS)?;
        let how = format!(
            "{}; {:.0} deliveries a second for {:.0} s; from the publisher's write to the arrival at each subscriber; p50 {:.2} ms, p99.9 {:.1} ms, at most {:.1} ms; server {:.2} cores, load client {:.2}; the ceiling right before: mean {:.2} ms, p99 {:.2} ms",
            ROOMS.name,
            found.deliveries_per_second,
            found.seconds,
            found.p50_us / 1e3,
            found.p999_us / 1e3,
            found.max_us / 1e3,
            found.server_cores,
            found.client_cores,
            best.mean_us / 1e3,
            best.p99_us / 1e3
        );
        self.run.add(Bar {
            what: "Latency, 5,000 connections, mean".into(),
            found: format!("{:.2} ms", found.mean_us / 1e3),
            bar: "≤ 15 ms".into(),
            is_met: found.mean_us <= 15_000.0,
            how: how.clone(),
        });
        self.run.add(Bar {
            what: "Latency, 5,000 connections, p99".into(),
            found: format!("{:.2} ms", found.p99_us / 1e3),
            bar: "≤ 80 ms".into(),
            is_met: found.p99_us <= 80_000.0,
            how,
        });
        let faults = found.lost + found.disordered + found.refused;
        self.run.add(Bar {
            what: "Lost, out of order or refused in that minute".into(),
            found: faults.to_string(),
            bar: "0".into(),
            is_met: faults == 0,
            how: format!(
                "{} deliveries of {} publications",
                found.delivered, found.published
            ),
        });

        let (all_best, all_found) = self.latency_of(&EVERYBODY)?;
        let mut table = String::from(
            "The same connections and deliveries in two shapes. A burst to all 5,000 at once cannot be quicker on average\n\
             than half of its writes and reads, which is what the ceiling shows.\n\n\
             | Shape | Server | mean, ms | p50 | p99 | p99.9 | most | server cores | load client cores |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for (shape, server, sample) in [
            (&ROOMS, "ceiling", &best),
            (&ROOMS, "Tidegate", &found),
            (&EVERYBODY, "ceiling", &all_best),
            (&EVERYBODY, "Tidegate", &all_found),
        ] {
            table.push_str(&format!(
                "| {} | {server} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.2} | {:.2} |\n",
                shape.name,
                sample.mean_us / 1e3,
                sample.p50_us / 1e3,
                sample.p99_us / 1e3,
                sample.p999_us / 1e3,
                sample.max_us / 1e3,
                sample.server_cores,
                sample.client_cores,
            ));
        }
        self.run
            .report
            .sections
            .push(("Latency by the shape of the channels".into(), table));
        Ok(())
    }

    /// The ceiling, then Tidegate.
    fn latency_of(&self, shape: &Shape) -> Result<(Sample, Sample)> {
        println!(
            "latency: {CONNECTIONS} connections, {DELIVERIES} deliveries a second, {}",
            shape.name
        );
        let best = {
            let subject = yardstick::start(shape.channels)?;
            let mut rig = yardstick::rig(&subject, CONNECTIONS);
            rig.groups = shape.channels;
            let message = Template::data(PUBLICATION_BYTES);
            measure(rig, &shape.plan(self, &message, shape.seconds[0]))?
        };
        let (tidegate, _scratch) = self.start_tidegate(Workers::AsShipped, Pages::AsShipped)?;
        let channel = "bench:b{group}";
        let mut rig = tidegate_rig(&tidegate, CONNECTIONS, &[channel]);
        rig.groups = shape.channels;
        let message = format!(
            r#"{{"id":{{id}},"publish":{{"channel":"{channel}","data":{}}}}}"#,
            Template::data(PUBLICATION_BYTES)
        );
        let found = measure(rig, &shape.plan(self, &message, shape.seconds[1]))?;
        for (server, sample) in [("ceiling", &best), ("tidegate", &found)] {
            println!(
                "    {server}: mean {:.2} ms, p99 {:.2} ms, {} lost",
                sample.mean_us / 1e3,
                sample.p99_us / 1e3,
                sample.lost
            );
        }
        Ok((best, found))
    }
}
