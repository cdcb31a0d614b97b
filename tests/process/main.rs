//! The binary as it is run: start, stop, limits, secrets, and the README's own words.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adopt;
mod callers;
mod configuration;
mod doctor;
mod lifecycle;
mod limits;
mod ops;
mod place;
mod readme;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod secrecy;
mod sessiond;
mod start;
mod stderr;
mod traces;
