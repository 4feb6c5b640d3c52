//! Guest of the tests: an RPC that says what it was told, and what it knows.
//!
//! `echo` answers with its data, `whoami` with the facts of the call, `settings` with the binding's settings,
//! `publish` publishes its data to the channel named in it (`{"channel": …}`), `remember` keeps its data and answers
//! what it kept before and how often it was asked, `kick` disconnects the user named in its data and takes their
//! subscriptions to `news` away, `measure` records numbers; `add`, `set`, `get` and `delete` are those of `state`,
//! `present` asks who is in a channel; any other method is not its.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tidegate_sdk::{
    Refusal, Rpc, clock, config, context, log, metrics, plugin, presence, publishing, random,
    rpc::{Request, Verdict},
    sessions::{self, Target},
    state,
};

struct Echo;

/// A key, and what becomes of it.
#[derive(Deserialize)]
struct Key<'r> {
    key: &'r str,
    #[serde(default)]
    by: i64,
    #[serde(default)]
    value: &'r str,
}

/// What `add` and `set` keep lives for.
const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Deserialize)]
struct Publish<'r> {
    channel: &'r str,
}

impl Rpc for Echo {
    fn call(request: Request) -> Result<Verdict, Refusal> {
        match request.method() {
            "echo" => Ok(Verdict::Reply(request.into_data())),
            "settings" => Ok(Verdict::Reply(config::text().into_bytes())),
            "publish" => {
                let Publish { channel } = request.json()?;
                publishing::publish(channel, request.data())
                    .map_err(|error| Refusal::error(500, error.to_string()))?;
                Verdict::json(&json!({}))
            }
            "kick" => {
                let user = Target::User(request.json()?);
                sessions::unsubscribe(&user, "news")?;
                sessions::disconnect(&user, 4_010, "kicked")?;
                Verdict::json(&json!({}))
            }
            "add" => {
                let Key { key, by, .. } = request.json()?;
                Verdict::json(&state::increment(key, by, HOUR)?)
            }
            "set" => {
                let Key { key, value, .. } = request.json()?;
                state::set(key, value.as_bytes(), HOUR)?;
                Verdict::json(&json!({}))
            }
            "get" => {
                let Key { key, .. } = request.json()?;
                let value = state::get(key)?;
                let value = value.as_deref().map(String::from_utf8_lossy);
                Verdict::json(&value)
            }
            "delete" => {
                let Key { key, .. } = request.json()?;
                Verdict::json(&state::delete(key)?)
            }
            "present" => {
                let Key { key, value, .. } = request.json()?;
                let is_present = presence::is_present(key, value);
                let stats = presence::count(key);
                Verdict::json(&json!({
                    "users": stats.as_ref().ok().map(|stats| stats.users),
                    "is_present": is_present.ok(),
                }))
            }
            "measure" => {
                let recorded = [
                    metrics::increment("asked", &[("method", "measure")], 2),
                    metrics::set_gauge("level", &[], 0.5),
                    metrics::observe("size", &[], 3.0),
                ];
                Verdict::json(&json!({
                    "recorded": recorded.iter().all(Result::is_ok),
                    "other_kind": metrics::set_gauge("asked", &[], 1.0).is_err(),
                    "presence": presence::count("news").is_err(),
                }))
            }
            "remember" => {
                let day = Duration::from_secs(24 * 3600);
                let before = state::get("kept")?.unwrap_or_default();
                state::set("kept", request.data(), day)?;
                let times = state::increment("asked", 1, day)?;
                let time_left = state::time_left("asked")?;
                Verdict::json(&json!({
                    "before": String::from_utf8_lossy(&before),
                    "times": times,
                    "wrong_kind": state::get("asked").is_err(),
                    "time_left": time_left.is_some_and(|left| left <= day),
                }))
            }
            "whoami" => {
                log::info!("asked by {}", request.user());
                Verdict::json(&json!({
                    "app": context::app(),
                    "version": context::version(),
                    "trace_id": context::trace_id(),
                    "user": context::user(),
                    "client_id": context::client_id(),
                    "transport": context::transport(),
                    "client_name": context::client_name(),
                    "remote_address": context::remote_address(),
                    "header": context::header("x-test"),
                    "meta": context::meta::<serde_json::Value>()?,
                    "hops": context::hops(),
                    "now": clock::unix_seconds(),
                    "random": random::number() != random::number(),
                }))
            }
            _ => Ok(Verdict::NotMine),
        }
    }
}

plugin!(Echo: rpc);
