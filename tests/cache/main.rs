//! The near-cache is held to the promise at the top of `src/store/cache.rs`: by itself, against a Redis whose every byte
//! the test decides, and against a real one that fails.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cache;
mod fake;
mod history;
mod moved;
#[path = "../common/policy.rs"]
mod policy;
mod recorder;
#[path = "../common/redis_server.rs"]
mod redis_server;
#[path = "../common/slow_link.rs"]
mod slow_link;
mod tracker;
