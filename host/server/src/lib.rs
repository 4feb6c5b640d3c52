//! The Tidegate server: configuration, listeners, transports, server API, admin API, command line.

pub mod admin;
pub mod api;
pub mod apps;
mod causes;
pub mod cli;
pub mod config;
pub mod demo;
pub mod health;
pub mod metrics;
pub mod node;
pub mod plugin_host;
pub mod telemetry;
pub mod transport;
pub mod vitals;
