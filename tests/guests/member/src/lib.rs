//! Guest of the tests: one of several plugins at a hook, told apart by the `name` of its settings.
//!
//! Data is a JSON object whose member `do` says by name what each plugin shall do; the others pass, or have no
//! opinion. At filtering everybody who passes a message adds its name to the member `seen`, so that a reader knows who
//! was asked, in which order, and what each was given. With `mirror` in its settings a plugin publishes what it passes
//! to that channel as well.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidegate_sdk::{
    Authentication, Authorization, Filtering, Grant, Identity, Message, Refusal, Routing, Rpc,
    authentication, authorization, config, filtering, plugin, publishing,
    routing::{self, Destinations},
    rpc,
};

struct Member;

#[derive(Deserialize)]
struct Settings {
    name: String,
    mirror: Option<String>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "kebab-case")]
enum Command {
    /// The hook's yes: an identity, a grant, a reply, the data as it came.
    Accept,
    Refuse,
    /// Filtering only.
    Drop,
    Panic,
    /// Publishes its name to this channel.
    Publish(String),
    /// Routing only: the channel that the message goes to.
    Route(String),
}

#[derive(Deserialize)]
struct Told {
    #[serde(default, rename = "do")]
    commands: BTreeMap<String, Command>,
}

/// What this plugin is told, if it is. Refuses, panics and publishes at once.
fn obey(data: &[u8]) -> Result<Option<Command>, Refusal> {
    let settings = config::settings::<Settings>();
    let Ok(Told { commands }) = serde_json::from_slice(data) else {
        return Ok(None);
    };
    match commands.get(&settings.name) {
        Some(Command::Panic) => panic!("told to"),
        Some(Command::Refuse) => Err(Refusal::error(499, settings.name.clone())),
        Some(Command::Publish(channel)) => {
            publishing::publish_json(channel, &json!({ "by": settings.name }))
                .map_err(|error| Refusal::error(500, error.to_string()))?;
            Ok(None)
        }
        told => Ok(told.cloned()),
    }
}

impl Authentication for Member {
    fn authenticate(request: authentication::Request) -> Result<authentication::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Some(Command::Accept) => {
                let name = &config::settings::<Settings>().name;
                Identity::new(name.as_str()).into()
            }
            _ => authentication::Verdict::NotMine,
        })
    }
}

impl Authorization for Member {
    fn authorize(request: authorization::Request) -> Result<authorization::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Some(Command::Accept) => Grant::new()
                .data(&json!({ "by": config::settings::<Settings>().name }))
                .into(),
            _ => authorization::Verdict::NotMine,
        })
    }
}

impl Filtering for Member {
    fn filter(message: Message) -> Result<filtering::Verdict, Refusal> {
        match obey(message.data())? {
            Some(Command::Accept) => return Ok(filtering::Verdict::Pass),
            Some(Command::Drop) => return Ok(filtering::Verdict::Drop),
            _ => {}
        }
        let settings = config::settings::<Settings>();
        if let Some(channel) = &settings.mirror {
            // Refused when the message has been through too many plugins; it passes all the same.
            drop(publishing::publish(channel, message.data()));
        }
        let Ok(mut data) = message.json::<Map<String, Value>>() else {
            return Ok(filtering::Verdict::Pass);
        };
        let seen = data.entry("seen").or_insert_with(|| json!([]));
        if let Value::Array(seen) = seen {
            seen.push(settings.name.as_str().into());
        }
        filtering::Verdict::json(&data)
    }
}

impl Routing for Member {
    fn route(message: Message) -> Result<routing::Verdict, Refusal> {
        Ok(match obey(message.data())? {
            Some(Command::Route(channel)) => Destinations::new().channel(channel).into(),
            _ => routing::Verdict::Keep,
        })
    }
}

impl Rpc for Member {
    fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Some(Command::Accept) => {
                rpc::Verdict::json(&json!({ "by": config::settings::<Settings>().name }))?
            }
            _ => rpc::Verdict::NotMine,
        })
    }
}

plugin!(Member: authentication, authorization, filtering, routing, rpc);
