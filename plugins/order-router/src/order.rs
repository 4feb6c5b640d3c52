//! Orders: what one is, and what makes it acceptable whatever the settings say.

use std::borrow::Cow;

use serde::Deserialize;
use tidegate_sdk::{BAD_DATA_CODE, Message, Refusal};

use crate::{INVALID_CODE, TOO_LARGE_CODE, decimal::Decimal};

/// Every channel gets a copy, and what a plugin hands to the node in one call is bounded.
const MAX_ORDER_BYTES: usize = 2048;

/// Ids that clients choose are repeated in acknowledgements and logs of others.
const MAX_ID_BYTES: usize = 64;

/// Instruments become part of channels' names.
const MAX_INSTRUMENT_BYTES: usize = 32;

/// An order, checked.
#[derive(Debug)]
pub(crate) struct Order<'m> {
    /// What the client calls it.
    pub(crate) id: Cow<'m, str>,
    /// Letters, digits, `-`, `_`, `.` and `/`.
    pub(crate) instrument: Cow<'m, str>,
    /// Not zero.
    pub(crate) quantity: Decimal,
    /// Not zero; market orders have none.
    pub(crate) price: Option<Decimal>,
}

#[derive(Deserialize)]
struct RawOrder<'m> {
    #[serde(borrow)]
    id: Cow<'m, str>,
    #[serde(borrow)]
    instrument: Cow<'m, str>,
    #[expect(dead_code, reason = "it is there so that nothing else is")]
    side: Side,
    #[serde(rename = "type", default)]
    kind: Kind,
    quantity: Decimal,
    price: Option<Decimal>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Buy,
    Sell,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Limit,
    Market,
}

impl<'m> Order<'m> {
    /// Reads an order.
    pub(crate) fn read(message: &'m Message) -> Result<Self, Refusal> {
        let len = message.data().len();
        if len > MAX_ORDER_BYTES {
            let reason =
                format!("the order has {len} bytes; at most {MAX_ORDER_BYTES} are allowed");
            return Err(Refusal::error(TOO_LARGE_CODE, reason));
        }
        let RawOrder {
            id,
            instrument,
            side: _,
            kind,
            quantity,
            price,
        } = message.json()?;
        if !(1..=MAX_ID_BYTES).contains(&id.len()) {
            return Err(bad_form("`id` has 1 to 64 bytes"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if !(1..=MAX_INSTRUMENT_BYTES).contains(&instrument.len())
            || !instrument.bytes().all(is_plain)
        {
            return Err(bad_form(
                "`instrument` has 1 to 32 letters, digits, `-`, `_`, `.` or `/`",
            ));
        }
        if quantity.is_zero() {
            return Err(invalid("`quantity` is zero"));
        }
        match (kind, price) {
            (Kind::Limit, None) => return Err(invalid("a limit order needs `price`")),
            (Kind::Market, Some(_)) => return Err(invalid("a market order has no `price`")),
            (Kind::Limit, Some(price)) if price.is_zero() => {
                return Err(invalid("`price` is zero"));
            }
            (Kind::Limit, Some(_)) | (Kind::Market, None) => {}
        }
        Ok(Self {
            id,
            instrument,
            quantity,
            price,
        })
    }

    /// What it is worth at most. Nobody knows of a market order.
    pub(crate) fn notional(&self) -> Option<Decimal> {
        self.price.map(|price| self.quantity.times(price))
    }
}

pub(crate) fn bad_form(reason: impl Into<String>) -> Refusal {
    Refusal::error(BAD_DATA_CODE, reason)
}

pub(crate) fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::error(INVALID_CODE, reason)
}
