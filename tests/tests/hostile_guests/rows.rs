//! The table: one row for each guest, with the outcome that the node states for it.
//!
//! A row is made by one of three functions, each of which wants the outcome whole: there is no way to write a guest
//! that is expected to end somehow.

pub(crate) mod calls;
pub(crate) mod components;
pub(crate) mod files;
pub(crate) mod loops;
pub(crate) mod memory;
pub(crate) mod values;

use tidegate_sandbox::{FailureKind, Hook};

use crate::wat::Guest;

/// A guest and what becomes of it.
pub(crate) struct Row {
    /// Its behaviour; the name of its file as well.
    pub(crate) name: &'static str,
    pub(crate) wasm: Vec<u8>,
    pub(crate) outcome: Outcome,
}

pub(crate) enum Outcome {
    /// The upload is answered with 422 and this rule.
    Refused { rule: &'static str },
    /// The upload is not even read to its end: 413.
    TooLarge,
    /// Every call fails: the client gets error 100, the story has one of these kinds and these words.
    Fails {
        hook: Hook,
        kinds: &'static [FailureKind],
        says: &'static str,
    },
    /// Every call is answered, however often it is made: what is wrong with the guest is its own trouble alone.
    Answers {
        hook: Hook,
        calls: usize,
        /// A family of the node's counters that tells of it.
        counted: Option<&'static str>,
    },
}

/// The node does not take it.
pub(crate) fn refused(name: &'static str, wasm: Vec<u8>, rule: &'static str) -> Row {
    Row {
        name,
        wasm,
        outcome: Outcome::Refused { rule },
    }
}

/// The node does not read it.
pub(crate) fn too_large(name: &'static str, wasm: Vec<u8>) -> Row {
    Row {
        name,
        wasm,
        outcome: Outcome::TooLarge,
    }
}

/// Its calls fail.
pub(crate) fn fails(
    name: &'static str,
    guest: &Guest,
    kinds: &'static [FailureKind],
    says: &'static str,
) -> Row {
    Row {
        name,
        wasm: guest.wasm(),
        outcome: Outcome::Fails {
            hook: guest.hook(),
            kinds,
            says,
        },
    }
}

/// It is answered as any other.
pub(crate) fn answers(
    name: &'static str,
    guest: &Guest,
    calls: usize,
    counted: Option<&'static str>,
) -> Row {
    Row {
        name,
        wasm: guest.wasm(),
        outcome: Outcome::Answers {
            hook: guest.hook(),
            calls,
            counted,
        },
    }
}

/// The whole table.
pub(crate) fn all() -> Vec<Row> {
    [
        files::rows(),
        loops::rows(),
        memory::rows(),
        calls::rows(),
        values::rows(),
        components::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
