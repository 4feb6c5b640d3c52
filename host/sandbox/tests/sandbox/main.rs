//! The sandbox with real WebAssembly, through its public interface. One program, so that it links once.

mod activation;
mod admission;
mod cache;
mod capabilities;
mod failures;
mod guests;
mod verdicts;
