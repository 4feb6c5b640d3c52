//! The log of a plugin: what it said of late, and what it says from now on.
//!
//! A follower is a connection that stays, so there is a bound on them, for each app and for operators apart; it ends when
//! its key is revoked, its app is deleted or the node drains. Each has a queue of its own in the plugin's log and is told
//! what it missed there: one that reads slowly costs nobody but itself.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_control::{AppName, Key, PluginName};
use tidegate_sandbox::{LogFilter, LogLevel};
use tokio_util::sync::CancellationToken;

use super::{
    Admin,
    access::Caller,
    host::{LogQuery, LogStream},
    keys::CONFIGURED,
    problem::Problem,
    routes::{Answer, Call},
};

/// Lines that are answered, or shown before what comes, where the caller names no number.
const DEFAULT_LINES: usize = 100;
/// As many as a plugin's log has.
const MAX_LINES: u64 = 1_000;
/// Followers with keys of one app.
pub(super) const FOLLOWERS_OF_APP: usize = 8;
/// Followers with operator keys, whatever the app: the keys of an app cannot keep operators out.
pub(super) const FOLLOWERS_OF_OPERATORS: usize = 32;
/// Proxies commonly cut a connection off on which nothing came for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What followers get: one JSON object on each line.
const NDJSON: &str = "application/x-ndjson";

pub(super) async fn recent(call: Call) -> Result<Answer, Problem> {
    let (query, limit) = asked(&call).await?;
    let items = call.admin.host.logs(&query, limit);
    Ok(Answer::ok(json!({ "items": items })))
}

pub(super) async fn follow(call: Call) -> Result<Answer, Problem> {
    // The place first: whoever revokes the key or deletes the app from here on ends it.
    let place = Followers::enter(&call.admin, &call.caller, &call.app()?)?;
    check_key(&call).await?;
    let (query, limit) = asked(&call).await?;
    let lines = call.admin.host.follow_log(&query, limit);
    Ok(Answer::stream(NDJSON, body(lines, place)))
}

/// The plugin, which exists, and what is wanted of its log.
async fn asked(call: &Call) -> Result<(LogQuery, usize), Problem> {
    let app = call.app()?;
    let plugin = PluginName::parse(call.param("plugin"))?;
    let limit = match call.query.number("limit")? {
        None => DEFAULT_LINES,
        Some(limit @ 1..=MAX_LINES) => usize::try_from(limit).unwrap_or(DEFAULT_LINES),
        Some(_) => return Err(invalid("limit", "1 to 1000")),
    };
    let level = match call.query.get("level") {
        None => LogLevel::default(),
        Some(level) => {
            let known = LogLevel::ALL.into_iter();
            let mut found = known.filter(|known| known.as_str() == level);
            found
                .next()
                .ok_or_else(|| invalid("level", "trace, debug, info, warn or error"))?
        }
    };
    let version = call.query.number("version")?.map(u32::try_from).transpose();
    let version = version.map_err(|_| invalid("version", "a version number"))?;
    let text = |name: &str| call.query.get(name).map(str::to_owned);
    let filter = LogFilter {
        user: text("user"),
        trace_id: text("trace"),
        level,
        version,
    };
    let (place, name) = (app.clone(), plugin.clone());
    call.ask(move |store| store.plugin(&place, &name)).await?;
    let query = LogQuery {
        app,
        plugin,
        filter,
    };
    Ok((query, limit))
}

/// Whether the key still is one, now that its revocation would be heard of.
async fn check_key(call: &Call) -> Result<(), Problem> {
    let Caller { actor, app, .. } = &call.caller;
    if actor.who.starts_with(CONFIGURED) {
        return Ok(());
    }
    let (app, id) = (app.clone(), actor.who.clone());
    let keys = call.ask(move |store| store.keys(app.as_ref())).await?;
    let is_valid = |key: &Key| key.id == id && key.revoked_at.is_none();
    if keys.iter().any(is_valid) {
        Ok(())
    } else {
        Err(Problem::unauthorized())
    }
}

fn invalid(field: &'static str, what: &str) -> Problem {
    Problem::new("invalid-field", format!("{field}: {what}")).field(field)
}

/// The stream of a follower until it ends.
fn body(lines: LogStream, place: Place) -> Body {
    enum State {
        Following(LogStream, Place),
        Ended,
    }
    let next = |state| async {
        let State::Following(mut lines, place) = state else {
            return None;
        };
        let text = tokio::select! {
            biased; // An end wins over a plugin that never stops talking.
            () = place.stop.cancelled() => {
                let end = json!({ "event": "end", "reason": place.why() });
                return Some((ndjson(&[end]), State::Ended));
            }
            items = lines.next() => ndjson(&items?),
            () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(b"\n"),
        };
        Some((text, State::Following(lines, place)))
    };
    let chunks = stream::unfold(State::Following(lines, place), next);
    Body::from_stream(chunks.map(Ok::<_, Infallible>))
}

fn ndjson(items: &[Value]) -> Bytes {
    let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
    lines.into()
}

/// Who follows logs now.
#[derive(Debug, Default)]
pub(super) struct Followers {
    present: Mutex<Present>,
    /// Ends them all; nobody is let in afterwards.
    draining: CancellationToken,
}

#[derive(Debug, Default)]
struct Present {
    by_id: HashMap<u64, Follower>,
    next_id: u64,
}

#[derive(Debug)]
struct Follower {
    app: AppName,
    /// The key's id.
    key: String,
    is_operator: bool,
    stop: CancellationToken,
}

/// The place of one follower; given up when it is dropped.
#[derive(Debug)]
struct Place {
    admin: Arc<Admin>,
    id: u64,
    stop: CancellationToken,
}

impl Followers {
    fn enter(admin: &Arc<Admin>, caller: &Caller, app: &AppName) -> Result<Place, Problem> {
        let followers = &admin.followers;
        let is_operator = caller.app.is_none();
        let mut present = followers.present.lock();
        let others = present.by_id.values();
        let (taken, most) = if is_operator {
            (
                others.filter(|other| other.is_operator).count(),
                FOLLOWERS_OF_OPERATORS,
            )
        } else {
            let of_app = |other: &&Follower| !other.is_operator && other.app == *app;
            (others.filter(of_app).count(), FOLLOWERS_OF_APP)
        };
        if taken >= most {
            return Err(Problem::new(
                "too-many-followers",
                format!("{most} follow logs already, which is the limit here"),
            )
            .help("end one of them, or ask for recent lines without following"));
        }
        let id = present.next_id;
        present.next_id += 1;
        let stop = followers.draining.child_token();
        let follower = Follower {
            app: app.clone(),
            key: caller.actor.who.clone(),
            is_operator,
            stop: stop.clone(),
        };
        present.by_id.insert(id, follower);
        Ok(Place {
            admin: Arc::clone(admin),
            id,
            stop,
        })
    }

    /// Ends those who follow with this key.
    pub(super) fn end_key(&self, key: &str) {
        self.end(|follower| follower.key == key);
    }

    /// Ends those whose key is not there any more; keys that the configuration owns always are.
    pub(super) fn end_without_key(&self, is_valid: impl Fn(&str) -> bool) {
        self.end(|follower| !follower.key.starts_with(CONFIGURED) && !is_valid(&follower.key));
    }

    /// Ends those who follow in this app.
    pub(super) fn end_app(&self, app: &AppName) {
        self.end(|follower| follower.app == *app);
    }

    fn end(&self, is_meant: impl Fn(&Follower) -> bool) {
        let present = self.present.lock();
        let meant = present.by_id.values().filter(|follower| is_meant(follower));
        let stops: Vec<_> = meant.map(|follower| follower.stop.clone()).collect();
        drop(present);
        for stop in stops {
            stop.cancel();
        }
    }

    /// Ends them all; whoever comes later is sent away at once.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }
}

impl Place {
    /// Why it ends.
    fn why(&self) -> &'static str {
        if self.admin.followers.draining.is_cancelled() {
            "the node shuts down"
        } else {
            "the key or the app is not there any more"
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admin.followers.present.lock().by_id.remove(&self.id);
    }
}
