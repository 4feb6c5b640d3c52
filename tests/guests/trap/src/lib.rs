//! Guest of the tests: misbehaves on command, at every hook.
//!
//! The command is the text field `do` of the JSON data (for authentication and authorization, of the connect or
//! subscribe data). Without one, the guest passes, or has no opinion. What a failing command queued before must
//! never happen: each one publishes to the channel `never` and sets a tag first.

use std::hint::black_box;

use serde::Deserialize;
use tidegate_sdk::{
    Authentication, Authorization, Filtering, Grant, Identity, Message, Refusal, Routing, Rpc,
    authentication, authorization, filtering, plugin, publishing,
    routing::{self, Destinations},
    rpc,
};

struct Trap;

/// Every command.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Command {
    /// Panics with the message `told to`.
    Panic,
    /// Never returns.
    Loop,
    /// Takes memory until there is none.
    Allocate,
    /// Calls itself until the stack ends.
    Recurse,
    /// Calls the host without end.
    Chatter,
    /// Gives all its memory to the host: 16 MiB of data.
    Flood,
    /// Refuses, after it queued a publication.
    Refuse,
    /// Closes the connection with code 4501.
    Disconnect,
    /// Says yes in the hook's own way.
    Accept,
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "do")]
    command: Option<Command>,
    #[serde(default)]
    to: Vec<String>,
}

/// What is left to the hook when the command did not end the call.
enum Outcome {
    Nothing,
    Accept(Vec<String>),
    Flood(Vec<u8>),
}

fn obey(data: &[u8]) -> Result<Outcome, Refusal> {
    let Ok(Told {
        command: Some(command),
        to,
    }) = serde_json::from_slice::<Told>(data)
    else {
        return Ok(Outcome::Nothing);
    };
    if !matches!(command, Command::Accept) {
        // Whether it is queued does not matter: the call fails, and so nothing of it may happen.
        drop(publishing::publish("never", b"{}"));
    }
    match command {
        Command::Panic => panic!("told to"),
        Command::Loop => loop {
            black_box(());
        },
        Command::Allocate => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(black_box(vec![1; 1 << 20]));
            }
        }
        Command::Recurse => {
            black_box(recurse(black_box(1)));
            Ok(Outcome::Nothing)
        }
        Command::Chatter => loop {
            black_box(tidegate_sdk::clock::unix_seconds());
        },
        Command::Flood => Ok(Outcome::Flood(vec![b' '; 16 << 20])),
        Command::Refuse => Err(Refusal::error(499, "told to")),
        Command::Disconnect => Err(Refusal::disconnect(4501, "told to")),
        Command::Accept => Ok(Outcome::Accept(to)),
    }
}

fn recurse(depth: u64) -> u64 {
    if depth == 0 {
        return 0;
    }
    let held = black_box([depth; 16]);
    recurse(black_box(depth + 1)) + black_box(held)[3]
}

impl Authentication for Trap {
    fn authenticate(request: authentication::Request) -> Result<authentication::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Outcome::Nothing => authentication::Verdict::NotMine,
            Outcome::Accept(to) => {
                let mut identity = Identity::new("trapper").meta("kept").info("shown");
                for channel in to {
                    identity = identity.subscribe(channel);
                }
                identity.into()
            }
            Outcome::Flood(data) => Identity::new("flood").data(&data).into(),
        })
    }
}

impl Authorization for Trap {
    fn authorize(request: authorization::Request) -> Result<authorization::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Outcome::Nothing => authorization::Verdict::NotMine,
            Outcome::Accept(_) => Grant::new().info("granted").into(),
            Outcome::Flood(data) => Grant::new().data(&data).into(),
        })
    }
}

impl Filtering for Trap {
    fn filter(message: Message) -> Result<filtering::Verdict, Refusal> {
        message.set_tag("seen", "yes");
        Ok(match obey(message.data())? {
            Outcome::Nothing => filtering::Verdict::Pass,
            Outcome::Accept(_) => filtering::Verdict::Replace(b"{\"accepted\":true}".to_vec()),
            Outcome::Flood(data) => filtering::Verdict::Replace(data),
        })
    }
}

impl Routing for Trap {
    fn route(message: Message) -> Result<routing::Verdict, Refusal> {
        Ok(match obey(message.data())? {
            Outcome::Nothing => routing::Verdict::Keep,
            Outcome::Accept(to) => {
                let none = Destinations::new();
                to.into_iter().fold(none, Destinations::channel).into()
            }
            Outcome::Flood(data) => Destinations::new()
                .with_data(routing::Target::Origin, data)
                .into(),
        })
    }
}

impl Rpc for Trap {
    fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
        Ok(match obey(request.data())? {
            Outcome::Nothing => rpc::Verdict::NotMine,
            Outcome::Accept(_) => rpc::Verdict::Reply(b"\"accepted\"".to_vec()),
            Outcome::Flood(data) => rpc::Verdict::Reply(data),
        })
    }
}

plugin!(Trap: authentication, authorization, filtering, routing, rpc);
