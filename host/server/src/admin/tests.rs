//! What operators and the CLI rely on, claim by claim, against a host that does as it is told.

mod apps;
mod bindings;
mod fake;
mod following;
mod life;
mod logs;
mod sessions;
mod table;
