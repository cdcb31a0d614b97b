//! express-session as a service: browser sessions over HTTP, kept in Redis or in an embedded SQLite file.
//!
//! # Layout
//! A request goes `server` -> `api` -> `session` -> `store`. Imports point only that way, which `tests/imports.rs` checks.
//!
//! - [`server`]: accepts connections, holds them to their limits, drains them at the end.
//! - [`api`]: every route and the middleware, in order; what goes over the wire.
//! - [`caller`]: the keys of those who call, and what each may do; pure.
//! - [`cookie`]: the cookie's codec, pure: parse, verify, sign, `Set-Cookie`.
//! - [`cache`]: the near-cache of answers.
//! - [`session`]: the rules: the verbs, the record, the policy of expiry. Knows no HTTP and no database.
//! - [`store`]: the trait that a store keeps to, and the two that do: Redis and SQLite.
//! - [`id`]: the session's id, parsed once.
//! - [`clock`]: the one clock. [`supervise`]: restarts background tasks that panic.
//! - [`config`], [`cli`]: the command line and its commands. [`telemetry`]: the metrics; it imports nothing of ours.

// `eprintln!` panics when standard error cannot be written.
#![warn(clippy::print_stderr)]

pub mod api;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cookie;
pub mod id;
pub mod server;
pub mod session;
pub mod store;
pub mod supervise;
pub mod telemetry;
