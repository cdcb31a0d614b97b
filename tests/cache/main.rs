//! The near-cache's promise, under every fault.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;
mod history;
mod keep;
#[path = "../common/policy.rs"]
mod policy;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod tracker;
