//! Checks orders and takes them to matching, risk and settlement channels by instrument and size.
//!
//! Data is a JSON object. Quantities and prices are read digit by digit and never become floats. An order that is not
//! as it should be is refused with the reason; one that is goes to every channel whose rule matches, with who sent it,
//! what it is worth and when it came, and its sender gets an acknowledgement of its own. The channel that orders are
//! published to carries none.
//!
//! Invariant: `user`, `notional` and `received_at` of what is routed were written here, whatever the client sent. (The
//! app's back end names the user itself.)

mod decimal;
mod order;
mod settings;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use tidegate_sdk::{
    Configured, Message, Refusal, Routing, clock,
    config::{self, BadSetting},
    context::{self, Origin},
    log, metrics, plugin,
    routing::{Destinations, Target, Verdict},
    settings::Offered,
};

use crate::{
    order::{Order, bad_form},
    settings::Settings,
};

/// No order is that long.
pub const TOO_LARGE_CODE: u32 = 413;

/// The order can be read and is not acceptable.
pub const INVALID_CODE: u32 = 422;

/// The plugin.
#[derive(Debug)]
pub struct OrderRouter;

/// What the sender of an order hears, over no channel.
#[derive(Serialize)]
struct Ack<'a> {
    r#type: &'static str,
    id: &'a str,
    status: &'static str,
    received_at: u64,
}

impl Routing for OrderRouter {
    fn route(message: Message) -> Result<Verdict, Refusal> {
        let settings = config::settings::<Settings>();
        let routed = route(&settings, &message);
        let result = if routed.is_ok() {
            "accepted"
        } else {
            "refused"
        };
        if let Err(error) = metrics::increment("orders", &[("result", result)], 1) {
            log::debug!("an order was not counted: {error}");
        }
        routed.map(Verdict::from)
    }
}

fn route(settings: &Settings, message: &Message) -> Result<Destinations, Refusal> {
    let order = Order::read(message)?;
    settings.check(&order)?;
    let channels = settings.channels(&order)?;

    let received_at = clock::unix_millis();
    let mut destinations = address(message, &order, channels, received_at)?;
    if let Some(client_id) = context::client_id() {
        let ack = Ack {
            r#type: "ack",
            id: &order.id,
            status: "accepted",
            received_at,
        };
        destinations = destinations.with_json(Target::Session(client_id), &ack);
        if settings.deduplicate {
            message.set_idempotency_key(&fingerprint(message));
        }
    }
    Ok(destinations)
}

/// The order to each channel: its members as they were sent, and what only the node knows.
fn address(
    message: &Message,
    order: &Order<'_>,
    channels: Vec<String>,
    received_at: u64,
) -> Result<Destinations, Refusal> {
    let user = raw(message.user())?;
    let notional = raw(&order.notional())?;
    let received_at = raw(&received_at)?;
    let mut data: BTreeMap<String, &RawValue> = message.json()?;
    match context::origin() {
        Origin::Client if message.user().is_empty() => {
            return Err(Refusal::denied("only who is signed in places orders"));
        }
        Origin::Client => {
            data.insert("user".to_owned(), &user);
        }
        // The back end places orders for its users.
        Origin::ServerApi | Origin::Plugin => {
            let named = data.get("user").map(|user| user.get());
            if named
                .and_then(|user| serde_json::from_str::<String>(user).ok())
                .is_none()
            {
                return Err(bad_form(
                    "`user` is missing; the back end says whose order it is",
                ));
            }
        }
    }
    data.insert("notional".to_owned(), &notional);
    data.insert("received_at".to_owned(), &received_at);
    let to = |destinations: Destinations, channel| {
        destinations.with_json(Target::Channel(channel), &data)
    };
    Ok(channels.into_iter().fold(Destinations::new(), to))
}

fn raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, Refusal> {
    to_raw_value(value).map_err(|error| bad_form(error.to_string()))
}

/// The same order sent again by the same user to the same channel. It comes into the history and to subscribers once;
/// its sender is told each time that it is accepted.
fn fingerprint(message: &Message) -> String {
    let mut hash = Sha256::new();
    for part in [
        message.user().as_bytes(),
        message.channel().as_bytes(),
        message.data(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

impl Configured for OrderRouter {
    fn check(offered: Offered) -> Result<(), BadSetting> {
        offered.read::<Settings>().map(drop)
    }
}

plugin!(OrderRouter: routing, settings);

#[cfg(test)]
mod tests;
