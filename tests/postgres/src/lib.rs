//! A real PostgreSQL for tests, on a free port of the loopback.
//!
//! Owns starting, stopping, killing and pausing it, its temporary directory, and `psql` for what a test asks or does
//! behind the back of the product. Knows nothing of Tidegate. PostgreSQL refuses to run as root, so root runs it as
//! another user. Every server ends with the process that started it, however that ends: each has a keeper, a shell that
//! waits for the other end of its input to go away.

mod programs;
mod server;

pub use server::{PostgresServer, ServerTls};
