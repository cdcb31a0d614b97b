//! The API from outside, in this process: one file a feature, every test with a store of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod app;
mod batch;
mod by_id;
mod cache;
mod commands;
mod docs;
mod issue;
mod keys;
mod metrics;
mod options;
mod problems;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod regenerate;
mod resolve;
mod update;
mod users;
