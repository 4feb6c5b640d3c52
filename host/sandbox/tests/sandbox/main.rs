//! The sandbox with real WebAssembly, through its public interface. One program, so that it links once.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests too, which clippy does not see here"
)]

mod activation;
mod admission;
mod breakers;
mod cache;
mod capabilities;
mod child;
mod duties;
mod failures;
mod fuzz;
mod guests;
mod host_side;
mod instances;
mod json;
mod lanes;
mod logs;
mod metrics;
mod not_ready;
mod sessions;
mod settings;
mod state;
mod statistics;
mod store;
mod verdicts;
