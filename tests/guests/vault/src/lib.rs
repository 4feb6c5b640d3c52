//! Guest of the tests: an RPC over the plugin's store.
//!
//! `put` keeps a value, `get` answers it, `drop` takes it away, `swap` changes it if it is what is expected, `count`
//! adds to a counter, `join` adds a word to a list that others add to at the same time, `patience` asks for a key and
//! answers what the call has left before and after. Where the store says no, the answer is its error by name.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_sdk::{
    Refusal, Rpc, budget, plugin,
    rpc::{Request, Verdict},
    store::{self, StoreError},
};

struct Vault;

#[derive(Deserialize)]
struct Asked {
    key: String,
    #[serde(default)]
    value: String,
    expected: Option<String>,
    #[serde(default)]
    by: i64,
    ttl_ms: Option<u64>,
}

impl Asked {
    fn ttl(&self) -> Option<Duration> {
        self.ttl_ms.map(Duration::from_millis)
    }
}

/// The list with the word in it.
fn join(key: &str, word: &str) -> Result<Value, StoreError> {
    loop {
        let before = store::get(key)?;
        let mut list = before.clone().unwrap_or_default();
        list.extend_from_slice(word.as_bytes());
        list.push(b' ');
        if store::compare_and_set(key, before.as_deref(), &list, None)? {
            return Ok(json!(String::from_utf8_lossy(&list)));
        }
    }
}

fn answer(method: &str, asked: &Asked) -> Result<Value, StoreError> {
    let Asked {
        key,
        value,
        expected,
        by,
        ..
    } = asked;
    let text = |value: Option<Vec<u8>>| {
        let value = value.as_deref().map(String::from_utf8_lossy);
        json!(value)
    };
    Ok(match method {
        "put" => json!(store::set(key, value.as_bytes(), asked.ttl())?),
        "get" => text(store::get(key)?),
        "drop" => json!(store::delete(key)?),
        "swap" => {
            let expected = expected.as_ref().map(String::as_bytes);
            json!(store::compare_and_set(
                key,
                expected,
                value.as_bytes(),
                asked.ttl()
            )?)
        }
        "count" => json!(store::increment(key, *by, asked.ttl())?),
        "join" => join(key, value)?,
        _ => {
            let before = budget::remaining();
            let is_there = store::get(key).is_ok();
            json!({
                "before_ms": u64::try_from(before.as_millis()).unwrap_or(u64::MAX),
                "after_ms": u64::try_from(budget::remaining().as_millis()).unwrap_or(u64::MAX),
                "answered": is_there,
            })
        }
    })
}

fn name(error: &StoreError) -> &'static str {
    match error {
        StoreError::Invalid(_) => "invalid",
        StoreError::TooLarge(_) => "too-large",
        StoreError::Limit(_) => "limit",
        StoreError::Quota(_) => "quota",
        StoreError::WrongKind(_) => "wrong-kind",
        StoreError::Unavailable(_) => "unavailable",
    }
}

impl Rpc for Vault {
    fn call(request: Request) -> Result<Verdict, Refusal> {
        let asked: Asked = request.json()?;
        let said = match answer(request.method(), &asked) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": name(&error) }),
        };
        Verdict::json(&said)
    }
}

plugin!(Vault: rpc);
