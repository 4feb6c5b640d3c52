//! Guest of the tests: says what it is told to.
//!
//! The data of a message or an RPC is `{"say": [{"text": "hello"}], "then": "panic"}`; a line may have a `level`
//! (`info` if absent) and `times` to be said. Data of any other form is passed without a word.

use serde::Deserialize;
use tidegate_sdk::{
    Filtering, Message, Refusal, Rpc, filtering,
    log::{self, Level},
    plugin, rpc,
};

struct Chatty;

#[derive(Deserialize)]
struct Told {
    say: Vec<Line>,
    #[serde(default)]
    then: Then,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: LineLevel,
    text: String,
    #[serde(default)]
    times: Option<u32>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum LineLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// What it does when everything was said.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
enum Then {
    #[default]
    Pass,
    Refuse,
    /// With the message `told to`.
    Panic,
}

fn obey(data: &[u8]) -> Result<(), Refusal> {
    let Ok(Told { say, then }) = serde_json::from_slice::<Told>(data) else {
        return Ok(());
    };
    for Line { level, text, times } in say {
        let level = match level {
            LineLevel::Trace => Level::Trace,
            LineLevel::Debug => Level::Debug,
            LineLevel::Info => Level::Info,
            LineLevel::Warn => Level::Warn,
            LineLevel::Error => Level::Error,
        };
        for _ in 0..times.unwrap_or(1) {
            log::write(level, &text);
        }
    }
    match then {
        Then::Pass => Ok(()),
        Then::Refuse => Err(Refusal::error(499, "told to")),
        Then::Panic => panic!("told to"),
    }
}

impl Filtering for Chatty {
    fn filter(message: Message) -> Result<filtering::Verdict, Refusal> {
        obey(message.data())?;
        Ok(filtering::Verdict::Pass)
    }
}

impl Rpc for Chatty {
    fn call(request: rpc::Request) -> Result<rpc::Verdict, Refusal> {
        obey(request.data())?;
        Ok(rpc::Verdict::Reply(b"{}".to_vec()))
    }
}

plugin!(Chatty: filtering, rpc);
