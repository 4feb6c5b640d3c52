//! The engine over real servers, through its public interface. One program, so that it links once.

mod anew;
mod broker;
mod commands;
mod common;
mod control;
mod directory;
mod leases;
mod lossless;
mod presence;
mod replicated;
mod store;
mod tls;
