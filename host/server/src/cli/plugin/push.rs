//! `plugin push`: uploads, activates and binds in one go.
//!
//! Invariant: whatever fails, the message says what was done before, for it stays done: a version that answers does not
//! stop to because it could not be bound as well.

use serde_json::{Value, json};

use super::{
    api::{self, Binding, PluginApi},
    arguments::{BindTarget, Push},
    artifact, binding_config, describe, kept, warn,
};
use crate::cli::{Failure, Output, block_on};

pub(super) fn run(command: Push, output: Output) -> Result<(), Failure> {
    let Push {
        source,
        name,
        note,
        activate,
        binds,
        config,
        server,
    } = command;
    let config = binding_config(config.as_deref())?;
    // The key is looked for before a build that would be in vain.
    let api = PluginApi::new(&server, output)?;
    let (name, wasm) = artifact(&source, name, output)?;
    let bytes = std::fs::read(&wasm)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", wasm.display())))?;
    let pushed = block_on(async {
        let upload = api.upload(&name, bytes, &note).await?;
        let mut pushed = Pushed {
            number: api::version_number(&upload)?,
            name,
            upload,
            activation: None,
            bindings: Vec::new(),
        };
        if activate {
            match api.activate(&pushed.name, pushed.number).await {
                Ok(activation) => pushed.activation = Some(activation),
                Err(failure) => return Err(pushed.not_activated(failure)),
            }
        }
        for (index, target) in binds.iter().enumerate() {
            let binding = Binding {
                name: &pushed.name,
                hook: target.hook,
                scope: &target.scope,
                config: config.as_ref(),
                position: None,
                failure_policy: None,
                isolation: None,
            };
            match api.bind(binding).await {
                Ok(binding) => pushed.bindings.push(binding),
                Err(failure) => return Err(pushed.not_bound(failure, &binds[index..])),
            }
        }
        Ok(pushed)
    })?;
    output.result(&pushed.to_json(), || pushed.text());
    // What is bound in the same go was tried with what it is bound with.
    if pushed.bindings.is_empty() {
        pushed
            .activation
            .iter()
            .for_each(|activation| warn(activation, output));
    }
    pushed
        .bindings
        .iter()
        .for_each(|binding| warn(binding, output));
    Ok(())
}

/// What was done, in the server's answers.
#[derive(Debug)]
struct Pushed {
    name: String,
    number: u32,
    upload: Value,
    activation: Option<Value>,
    bindings: Vec<Value>,
}

impl Pushed {
    fn to_json(&self) -> Value {
        let Self {
            name,
            number,
            upload,
            activation,
            bindings,
        } = self;
        json!({
            "plugin": name,
            "version": number,
            "upload": upload,
            "activation": activation,
            "bindings": bindings,
        })
    }

    fn is_new(&self) -> bool {
        self.upload["is_new"] != false
    }

    fn text(&self) -> String {
        let Self { name, number, .. } = self;
        let mut lines = vec![if self.is_new() {
            format!("{name} version {number} is there")
        } else {
            format!("nothing new: these bytes are version {number} of {name}")
        }];
        if self.activation.is_some() {
            lines.push(format!("version {number} answers from now on"));
        } else if self.upload["is_active"] != true {
            lines.push(format!("next: tidegate plugin activate {name} {number}"));
        }
        lines.extend(
            self.bindings
                .iter()
                .map(|binding| format!("bound: {}{}", describe(binding), kept(binding))),
        );
        lines.join("\n")
    }

    /// The version was uploaded and could not be activated.
    fn not_activated(&self, failure: Failure) -> Failure {
        let answers = if self.upload["is_active"] == true {
            "it was not activated anew"
        } else {
            "it does not answer"
        };
        self.after_a_part(failure, answers)
    }

    /// The version was uploaded, perhaps activated and bound, but not at the first of `left`; the others were not tried.
    fn not_bound(&self, failure: Failure, left: &[BindTarget]) -> Failure {
        let mut said = Vec::new();
        if !self.bindings.is_empty() {
            let bound: Vec<String> = self.bindings.iter().map(describe).collect();
            said.push(format!("it was bound at {}", bound.join(", ")));
        }
        let left: Vec<String> = left
            .iter()
            .map(|target| format!("{}@{}", target.hook, target.scope))
            .collect();
        if let Some((first, others)) = left.split_first() {
            if !others.is_empty() {
                said.push(format!("{} was not tried", others.join(", ")));
            }
            said.push(format!("it was not bound at {first}"));
        }
        let mut failure = self.after_a_part(failure, &said.join("; "));
        failure.details["not_bound"] = json!(left);
        failure
    }

    /// Puts what was done before a failure, and how to go on.
    fn after_a_part(&self, failure: Failure, then: &str) -> Failure {
        let Self { name, number, .. } = self;
        let there = if self.is_new() {
            "is there"
        } else {
            "was there already"
        };
        let answers = if self.activation.is_some() {
            " and answers from now on"
        } else if self.upload["is_active"] == true {
            " and answers"
        } else {
            ""
        };
        let mut next = vec![failure.hint.clone()];
        next.push("the same push does what is missing".to_owned());
        let before = self.activation.as_ref();
        let before = before.and_then(|activation| activation["previous_version"].as_u64());
        if let Some(before) = before.filter(|before| *before != u64::from(*number)) {
            next.push(format!(
                "`tidegate plugin rollback {name}` lets version {before} answer again"
            ));
        }
        next.retain(|part| !part.is_empty());
        let mut details = failure.details;
        if !details.is_object() {
            details = json!({});
        }
        details["done"] = self.to_json();
        Failure {
            message: format!(
                "{name}: version {number} {there}{answers}; {then}: {}",
                failure.message
            ),
            hint: next.join("; "),
            code: failure.code,
            details,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit;

    fn targets(texts: &[&str]) -> Vec<BindTarget> {
        let target = |text: &&str| {
            let (hook, scope) = text.split_once('@').unwrap();
            BindTarget {
                hook: hook.parse().unwrap(),
                scope: scope.parse().unwrap(),
            }
        };
        texts.iter().map(target).collect()
    }

    fn pushed() -> Pushed {
        Pushed {
            name: "word".to_owned(),
            number: 2,
            upload: json!({"number": 2, "is_new": true, "is_active": false}),
            activation: Some(json!({"version": 2, "previous_version": 1})),
            bindings: Vec::new(),
        }
    }

    #[test]
    fn a_binding_that_is_refused_is_told_with_what_was_done_before_it() {
        let refusal = || {
            Failure::new("no such words")
                .hint("give it words")
                .details(json!({"code": "settings-refused"}))
        };
        let failure = pushed().not_bound(refusal(), &targets(&["filtering@namespace:chat"]));
        assert_eq!(
            failure.message,
            "word: version 2 is there and answers from now on; it was not bound at filtering@namespace:chat: no such words"
        );
        assert!(failure.hint.starts_with("give it words; "), "{failure:?}");
        assert!(failure.hint.contains("rollback word"), "{failure:?}");
        assert_eq!(failure.details["code"], "settings-refused");
        assert_eq!(failure.details["done"]["version"], 2);

        let bound = json!({"hook": "filtering", "scope": "app"});
        let some = Pushed {
            upload: json!({"number": 2, "is_new": false, "is_active": true}),
            activation: None,
            bindings: vec![bound],
            ..pushed()
        };
        let left = targets(&["rpc@app", "routing@app"]);
        let unreachable = Failure {
            code: exit::UNREACHABLE,
            ..Failure::new("no server answers")
        };
        let failure = some.not_bound(unreachable, &left);
        assert_eq!(
            failure.message,
            "word: version 2 was there already and answers; it was bound at filtering@app; routing@app was not tried; it was not bound at rpc@app: no server answers"
        );
        assert_eq!(failure.code, exit::UNREACHABLE);
        assert_eq!(
            failure.details["not_bound"],
            json!(["rpc@app", "routing@app"])
        );
        assert!(!failure.hint.contains("rollback"), "{failure:?}");
    }

    #[test]
    fn a_version_that_is_not_activated_is_there_all_the_same() {
        let uploaded = Pushed {
            activation: None,
            ..pushed()
        };
        let failure = uploaded.not_activated(Failure::new("it does not compile"));
        assert_eq!(
            failure.message,
            "word: version 2 is there; it does not answer: it does not compile"
        );
    }
}
