//! Finds what leads to a person in a text: e-mail addresses, telephone and identity numbers.
//!
//! What the plugins `word-filter` and `redact-audit` share. It is no plugin, and knows neither JSON nor settings: a
//! text comes in, places come out. Everything here takes linear time.

mod emails;
mod numbers;

use std::ops::Range;

/// A number that leads to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// A telephone number.
    Phone,
    /// A number that stands for a person or their money: payment card, IBAN, US social security number.
    Identity,
}

/// The places of all e-mail addresses.
pub fn emails(text: &str) -> impl Iterator<Item = Range<usize>> {
    emails::find(text)
}

/// Calls `found` with each number and its place, in the text's order.
pub fn numbers(text: &str, found: impl FnMut(Number, Range<usize>)) {
    numbers::find(text, found);
}
