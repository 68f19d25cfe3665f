//! A small Kubernetes API server in memory, for tests and the lab.
//!
//! It serves what agents and `kubectl` need of a real one: built-in kinds, custom resource definitions with
//! schemas, lists, watches, all patch formats, field ownership, tables, discovery. It runs no controllers and
//! admission plugins, and keeps nothing when it ends.

mod auth;
mod counters;
mod defaults;
mod discovery;
mod events;
mod http;
mod meta;
mod openapi;
mod ownership;
mod patch;
mod resource;
mod schema;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod watch;
mod write;

pub use auth::Deny;
pub use counters::Counters;
pub use server::Server;
pub use status::Status;

pub(crate) use server::Inner;
