//! Logs, to standard error. A failure is logged once, where it is handled; no log has a cookie, a secret or a key in it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Format, Level, Logs};

/// Starts logging. Only this crate's own events can be told to say more than warnings: what other crates would say at
/// lower levels is not ours to promise.
pub fn start(logs: &Logs) {
    let level = match logs.log_level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let others = if logs.log_level == Level::Error { "error" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},sessiond={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start, as in tests, changes nothing.
    let _ = match logs.log_format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
