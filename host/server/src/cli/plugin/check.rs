//! `plugin check`: everything that a server does with an upload, here and without one.
//!
//! Admission, compilation in the child, a trial instance for each hook, then the saved inputs under the limits
//! of a server's configuration. Nothing is stored and no server is asked.

mod ask;
mod input;

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidegate_realtime::{ids::AppId, store::MemoryStore};
use tidegate_sandbox::{
    AdmissionRefused, Admitted, Binding, Bindings, Class, CompileError, Compiled, FailurePolicy,
    Hook, Isolation, Sandbox, SandboxConfig, Scope,
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    ask::Came,
    input::{Expectation, Input},
};
use super::{Failure, Output, arguments::Check, artifact, binding_config, block_on};
use crate::{
    cli::{config_file, output::table},
    config::{self, Config, ProcessEnvironment, Sources},
    plugin_host,
};

/// Share of a limit from which a call is worth a warning: the next larger message may go over.
const NEAR_PERCENT: u128 = 70;

/// One input and what came of it.
#[derive(Debug)]
struct Checked {
    name: String,
    hook: Hook,
    bytes: usize,
    came: Came,
    took: Duration,
    deadline: Duration,
    /// Linear memory of the instance that answered, which never shrinks.
    memory_bytes: usize,
    memory_limit_bytes: usize,
    expect: Option<Expectation>,
}

pub(super) fn run(command: Check, output: Output) -> Result<(), Failure> {
    let Check {
        source,
        inputs,
        config,
        server_config,
    } = command;
    let settings = binding_config(config.as_deref())?.unwrap_or_else(|| json!({}));
    let inputs = match &inputs {
        Some(path) => input::read(path)?,
        None => Vec::new(),
    };
    let file = config_file(server_config, &ProcessEnvironment);
    let node = config::load(Sources {
        file: file.as_deref(),
        environment: &ProcessEnvironment,
        data_dir: None,
    })?
    .config;
    let (name, wasm) = artifact(&source, None, output)?;
    let bench = Bench::new(&node)?;
    let admitted = bench.admit(&wasm)?;
    let started = Instant::now();
    let compiled = bench.compile(&admitted)?;
    let compiled_in = started.elapsed();
    if let Some(input) = inputs
        .iter()
        .find(|input| !compiled.hooks().contains(&input.hook))
    {
        return Err(Failure::usage(format!(
            "--inputs: {} asks {}, which the plugin does not export",
            input.name, input.hook
        )));
    }
    if config.is_some() {
        bench.try_settings(&compiled, &settings)?;
    }
    bench.bind(&name, &compiled, &settings, &node)?;
    let class = compiled.class();
    let checked = block_on(async {
        bench.open_store();
        let mut checked: Vec<Checked> = Vec::new();
        for input in inputs {
            let mut one = bench.ask(&name, input, (class, &node)).await;
            // Only growth is seen; an instance that did not grow has what it had.
            let before = checked.iter().rev().find(|before| before.hook == one.hook);
            one.memory_bytes = one
                .memory_bytes
                .max(before.map_or(0, |before| before.memory_bytes));
            checked.push(one);
        }
        Ok(checked)
    })?;
    let report = Report {
        name: &name,
        admitted: &admitted,
        compiled_in,
        checked: &checked,
    };
    output.result(&report.to_json(), || report.to_text());
    let bad = checked.iter().filter(|one| one.problem().is_some()).count();
    if bad > 0 {
        let of = checked.len();
        return Err(
            Failure::new(format!("{bad} of {of} inputs did not go well"))
                .hint("the rows above say which, and why"),
        );
    }
    Ok(())
}

/// A sandbox like a node's, without its data directory.
struct Bench {
    sandbox: Arc<Sandbox>,
}

impl Bench {
    fn new(node: &Config) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::new(error.to_string());
        let compilation =
            plugin_host::compilation(&node.plugins).map_err(|error| failed(&error))?;
        let sandbox = Sandbox::new(SandboxConfig {
            compilation,
            max_message_bytes: node.websocket.max_message_bytes,
            max_channel_bytes: node.channels.max_length_bytes,
            private_prefix: node.channels.private_prefix.to_string(),
            namespace_boundary: node.channels.namespace_boundary.to_string(),
            ..SandboxConfig::default()
        })
        .map_err(|error| failed(&error))?;
        Ok(Self { sandbox })
    }

    fn admit(&self, wasm: &Path) -> Result<Admitted, Failure> {
        let bytes = std::fs::read(wasm).map_err(|error| {
            Failure::usage(format!("{} cannot be read: {error}", wasm.display()))
        })?;
        self.sandbox
            .admit(&bytes)
            .map_err(|refusal| refused(&refusal))
    }

    fn compile(&self, admitted: &Admitted) -> Result<Compiled, Failure> {
        self.sandbox.compile(admitted).map_err(|error| match error {
            CompileError::Refused(refusal) => refused(&refusal),
            CompileError::Busy | CompileError::Failed(_) => Failure::new(error.to_string()),
        })
    }

    /// Asks the plugin whether it can use the settings, as a server does before it binds them.
    fn try_settings(&self, compiled: &Compiled, settings: &Value) -> Result<(), Failure> {
        let settings = settings.to_string();
        for hook in compiled.hooks() {
            let checked = self.sandbox.check_settings(compiled, *hook, &settings);
            checked.map_err(|problem| {
                Failure::new(format!(
                    "--config: not what the plugin takes at {hook}: {problem}"
                ))
                .hint("a server refuses to bind these settings")
            })?;
        }
        Ok(())
    }

    /// Binds it at every hook that it has, as a server would.
    fn bind(
        &self,
        name: &str,
        compiled: &Compiled,
        settings: &Value,
        node: &Config,
    ) -> Result<(), Failure> {
        let settings: Arc<str> = settings.to_string().into();
        let bindings = compiled.hooks().iter().map(|hook| Binding {
            plugin: name.into(),
            version: 1,
            compiled: compiled.clone(),
            hook: *hook,
            scope: Scope::App,
            position: 0,
            config: Arc::clone(&settings),
            failure_policy: FailurePolicy::Closed,
            isolation: Isolation::default(),
            limits: node.plugins.limits(*hook, compiled.class()),
        });
        let bindings = Bindings {
            apps: [(AppId::default_app(), bindings.collect())].into(),
        };
        let applied = self.sandbox.apply(&bindings);
        applied.map_err(|error| Failure::new(error.to_string()))
    }

    /// Lets plugins that wait have a store of their own, empty at first.
    fn open_store(&self) {
        let store = Arc::new(MemoryStore::default());
        let never = CancellationToken::new();
        self.sandbox.open_store(store, Handle::current(), never);
    }

    async fn ask(&self, plugin: &str, input: Input, (class, node): (Class, &Config)) -> Checked {
        let Input {
            name,
            hook,
            question,
            bytes,
            expect,
        } = input;
        self.sandbox.take_memory_peak();
        let started = Instant::now();
        let came = ask::ask(&self.sandbox, plugin, question).await;
        Checked {
            name,
            hook,
            bytes,
            came,
            took: started.elapsed(),
            deadline: node.plugins.deadlines.of(hook, class),
            memory_bytes: self.sandbox.take_memory_peak(),
            memory_limit_bytes: node.plugins.max_memory_bytes,
            expect,
        }
    }
}

fn refused(refusal: &AdmissionRefused) -> Failure {
    let AdmissionRefused { rule, detail, help } = refusal;
    Failure::new(format!("refused by rule {rule}: {detail}"))
        .hint(help.as_str())
        .details(json!({ "rule": rule, "detail": detail, "help": help }))
}

impl Checked {
    /// Why this input alone makes the check fail.
    fn problem(&self) -> Option<String> {
        if let Came::Failed { kind, detail, .. } = &self.came {
            return Some(format!("{kind}: {detail}"));
        }
        self.expect.as_ref()?.missed_by(&self.came)
    }

    fn percent_of_deadline(&self) -> u128 {
        self.took.as_micros() * 100 / self.deadline.as_micros().max(1)
    }

    fn percent_of_memory(&self) -> u128 {
        self.memory_bytes as u128 * 100 / (self.memory_limit_bytes as u128).max(1)
    }

    fn warning(&self) -> Option<String> {
        let with = self.bytes;
        let time = self.percent_of_deadline();
        if time >= NEAR_PERCENT {
            let deadline = self.deadline.as_millis();
            return Some(format!(
                "{time} % of the deadline of {deadline} ms with {with} bytes of data"
            ));
        }
        let memory = self.percent_of_memory();
        let limit = self.memory_limit_bytes;
        (memory >= NEAR_PERCENT)
            .then(|| format!("{memory} % of the memory of {limit} bytes with {with} bytes of data"))
    }

    fn verdict(&self) -> &str {
        match &self.came {
            Came::Verdict { word, .. } => word,
            Came::Failed { .. } => "failed",
        }
    }
}

/// What is printed.
struct Report<'a> {
    name: &'a str,
    admitted: &'a Admitted,
    compiled_in: Duration,
    checked: &'a [Checked],
}

impl Report<'_> {
    fn hooks(&self) -> Vec<&'static str> {
        self.admitted
            .hooks
            .iter()
            .map(|hook| hook.as_str())
            .collect()
    }

    fn to_json(&self) -> Value {
        let inputs = self.checked.iter().map(|one| {
            let detail = match &one.came {
                Came::Verdict { detail, .. } => detail.clone(),
                Came::Failed { kind, detail, log } => {
                    json!({ "kind": kind, "detail": detail, "log": log })
                }
            };
            json!({
                "name": one.name,
                "hook": one.hook.as_str(),
                "verdict": one.verdict(),
                "detail": detail,
                "problem": one.problem(),
                "data_bytes": one.bytes,
                "microseconds": u64::try_from(one.took.as_micros()).unwrap_or(u64::MAX),
                "memory_bytes": one.memory_bytes,
                "deadline_ms": u64::try_from(one.deadline.as_millis()).unwrap_or(u64::MAX),
                "warning": one.warning(),
            })
        });
        json!({
            "plugin": self.name,
            "size": self.admitted.size,
            "digest": hex::encode(self.admitted.digest),
            "hooks": self.hooks(),
            "imports": self.admitted.imports,
            "class": self.admitted.class().as_str(),
            "compile_ms": u64::try_from(self.compiled_in.as_millis()).unwrap_or(u64::MAX),
            "inputs": inputs.collect::<Vec<_>>(),
        })
    }

    fn to_text(&self) -> String {
        let mut lines = vec![format!(
            "{}: admitted ({} bytes; {}), compiled and tried in {} ms",
            self.name,
            self.admitted.size,
            self.hooks().join(", "),
            self.compiled_in.as_millis()
        )];
        if self.admitted.class() == Class::Waiting {
            lines.push(
                "it waits for other machines: see \"Plugins that wait\" in docs/plugins.md"
                    .to_owned(),
            );
        }
        if self.checked.is_empty() {
            lines.push("no inputs were given; --inputs DIR|FILE runs saved ones".to_owned());
            return lines.join("\n");
        }
        let rows: Vec<Vec<String>> = self
            .checked
            .iter()
            .map(|one| {
                let note = one.problem().unwrap_or_else(|| {
                    let mut words = vec![one.warning().unwrap_or_else(|| "ok".to_owned())];
                    words.extend(one.came.effects());
                    words.join(", ")
                });
                vec![
                    one.name.clone(),
                    one.hook.to_string(),
                    one.verdict().to_owned(),
                    format!("{} µs", one.took.as_micros()),
                    format!("{} %", one.percent_of_deadline()),
                    format!("{} KiB", one.memory_bytes >> 10),
                    note,
                ]
            })
            .collect();
        lines.push(table(
            &[
                "INPUT",
                "HOOK",
                "VERDICT",
                "TIME",
                "OF DEADLINE",
                "MEMORY",
                "",
            ],
            &rows,
        ));
        for one in self.checked {
            if let Came::Failed { log, .. } = &one.came
                && !log.is_empty()
            {
                lines.push(format!("what it logged last at {}:", one.name));
                lines.extend(log.iter().map(|line| format!("  {line}")));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(took_millis: u64, memory_bytes: usize) -> Checked {
        Checked {
            name: "one".to_owned(),
            hook: Hook::Filtering,
            bytes: 12,
            came: Came::Verdict {
                word: "pass",
                detail: Value::Null,
            },
            took: Duration::from_millis(took_millis),
            deadline: Duration::from_millis(10),
            memory_bytes,
            memory_limit_bytes: 1_000,
            expect: Some(Expectation::Word("pass".to_owned())),
        }
    }

    #[test]
    fn seven_tenths_of_a_limit_are_worth_a_warning_and_no_failure() {
        assert_eq!(checked(6, 699).warning(), None);
        let slow = checked(7, 0);
        assert!(
            slow.warning()
                .unwrap()
                .contains("70 % of the deadline of 10 ms with 12 bytes")
        );
        let large = checked(0, 700);
        assert!(large.warning().unwrap().contains("70 % of the memory"));
        assert!(slow.problem().is_none() && large.problem().is_none());
    }

    #[test]
    fn a_failed_call_is_a_problem_even_where_nothing_is_expected() {
        let failed = Checked {
            came: Came::Failed {
                kind: "trap".to_owned(),
                detail: "unreachable".to_owned(),
                log: vec!["error: panicked at src/lib.rs:1:2: `rules` is empty".to_owned()],
            },
            expect: None,
            ..checked(0, 0)
        };
        assert_eq!(failed.problem().unwrap(), "trap: unreachable");
        let admitted = Admitted {
            component: Vec::new(),
            digest: [0; 32],
            hooks: vec![Hook::Filtering],
            imports: Vec::new(),
            checks_settings: false,
            size: 1,
        };
        let report = Report {
            name: "alerts",
            admitted: &admitted,
            compiled_in: Duration::ZERO,
            checked: &[failed],
        };
        let text = report.to_text();
        assert!(
            text.contains(
                "logged last at one:\n  error: panicked at src/lib.rs:1:2: `rules` is empty"
            ),
            "{text}"
        );
        assert!(report.to_json()["inputs"][0]["detail"]["log"][0].is_string());
    }
}
