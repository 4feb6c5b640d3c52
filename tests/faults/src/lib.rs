//! Faults: what the product must survive, made on purpose, and a judge that saw everything from outside.
//!
//! Owns a fault proxy, a load of publishers and subscribers against real nodes, the checker that reads their logs,
//! and the scenarios. Knows the server by its surfaces alone: nothing here is counted from its metrics but the proof
//! that a fault had an effect.

pub mod checker;
pub mod load;
pub mod members;
pub mod node;
pub mod proxy;
pub mod record;
pub mod rows;
pub mod stage;
