//! The Redis engine: publications, history, presence and what plugins keep, shared by many nodes, and what the nodes tell each other.
//!
//! Owns every command that goes to Redis, the names of everything that is kept there, and the form of what travels
//! over its channels. Decides nothing about sessions: it implements the traits of `tidegate-realtime`. Read
//! `config`, then `connect` (one connection to one server), `commands` (commands to one Redis or Cluster), `pubsub`
//! (what arrives), `keys`.
//! Invariant: whatever Redis does (stall, refuse, come back with older contents, answer nonsense), every call ends
//! within five seconds with an answer or an error, and nothing that it sends can panic a node.

pub mod broker;
pub mod commands;
pub mod config;
pub mod connect;
pub mod control;
pub mod directory;
mod engine;
pub mod envelope;
mod keeper;
pub mod keys;
pub mod leases;
pub mod metrics;
pub mod presence;
pub mod pubsub;
pub mod store;

pub use self::{
    broker::{Listening, RedisBroker},
    commands::{Pipe, RedisFailure, Route, Script, Shards},
    config::{RedisConfig, Topology},
    directory::RedisDirectory,
    engine::{EngineParts, RedisEngine, check_login},
    envelope::Envelope,
    keys::Keys,
    leases::RedisLeases,
    metrics::EngineMetrics,
    presence::RedisPresence,
    pubsub::Subscriptions,
    store::RedisStore,
};
