//! The binary as it is run: start, stop, limits, secrets, and the README's own words.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adopt;
mod callers;
mod configuration;
mod contract;
mod disk;
mod doctor;
mod ghosts;
mod hosts;
mod http2;
mod lifecycle;
mod limits;
mod ops;
mod place;
mod readme;
#[path = "../common/redis_server.rs"]
mod redis_server;
mod secrecy;
mod sessiond;
#[path = "../common/slow_link.rs"]
mod slow_link;
mod start;
mod stderr;
mod traces;
