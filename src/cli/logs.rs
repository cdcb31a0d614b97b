//! Logs, to standard error. A failure is logged once, where it is handled; no log has a cookie, a secret or a key in it.
//!
//! A thread of its own writes the lines, from a bounded queue. So nothing but this thread waits for standard error, which
//! may be a pipe that nobody reads, or a file on a full disk: a line that finds no room, or cannot be written, is lost
//! and counted. (`tracing-appender` does the same, but counts no failed writes, and its guard prints to standard output
//! when the queue is full at the end: where both are one pipe, it would wait for ever.)

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{panic, thread};

use crossbeam_channel::{Receiver, Sender, bounded};
use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Format, Level, Logs};
use crate::telemetry::Metrics;

/// How many lines may wait to be written: about 2 MiB of them.
const QUEUE: usize = 8192;
/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// The log of this process. When it is dropped, it waits up to a second until what was logged is written.
pub(super) struct Log(Arc<Queue>);

struct Queue {
    messages: Sender<Message>,
    lost: Counter,
}

enum Message {
    Text(Vec<u8>),
    /// The sender is dropped when everything before it is written.
    Flush(Sender<()>),
}

/// Starts the log of the service. Panics are logged too, and lost lines are counted in `metrics`.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(logs: &Logs, metrics: &Metrics) -> Result<Log, String> {
    let (messages, queued) = bounded(QUEUE);
    let lost = metrics.log_lines_lost.clone();
    let queue = Arc::new(Queue { messages, lost: lost.clone() });
    let writer = thread::Builder::new().name("log-writer".into()).spawn(move || write(&queued, &lost));
    writer.map_err(|error| format!("no thread could be started: {error}"))?;
    subscribe(logs, Arc::clone(&queue));
    panic::set_hook(Box::new(log_panic));
    Ok(Log(queue))
}

/// Starts the log of a command that ends by itself: it writes as it goes.
pub(crate) fn start_plain(logs: &Logs) {
    subscribe(logs, io::stderr);
}

/// Only this crate's own events can be told to say more than warnings: what other crates would say at lower levels is not
/// ours to promise.
fn subscribe(logs: &Logs, writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) {
    let level = match logs.log_level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let others = if logs.log_level == Level::Error { "error" } else { "warn" };
    // h2 warns of what clients do wrong, a line a frame: that needs no key, and would fill any disk.
    let filter = EnvFilter::new(format!("{others},h2=off,hyper=off,hyper_util=off,sessiond={level}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // On a failed write it would write to standard error, and panic when that fails.
        .log_internal_errors(false);
    // A second start, as in tests, changes nothing.
    let _ = match logs.log_format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

impl Log {
    /// Writes `text` as it is, in its turn.
    pub(super) fn print(&self, text: &str) {
        self.0.push(text.as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH;
        let (done, flushed) = bounded(0);
        if self.0.messages.send_deadline(Message::Flush(done), deadline).is_ok() {
            // An error either way: the sender is dropped, or the time is over.
            let _ = flushed.recv_deadline(deadline);
        }
    }
}

impl Queue {
    fn push(&self, text: &[u8]) {
        if self.messages.try_send(Message::Text(text.to_owned())).is_err() {
            self.lost.inc();
        }
    }
}

/// Takes one event at a time, whole.
impl Write for &Queue {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.push(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that writes.
fn write(queued: &Receiver<Message>, lost: &Counter) {
    let mut stderr = io::stderr();
    for message in queued {
        match message {
            Message::Text(text) => {
                if stderr.write_all(&text).is_err() {
                    lost.inc();
                }
            }
            Message::Flush(done) => drop(done),
        }
    }
}

/// Logs a panic, in the place of the default hook, which writes to standard error itself. A message that was formatted is
/// left out: it may quote what could not be handled, such as a `Cookie` header.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let (thread, at) = (thread.name(), panic.location().map(tracing::field::display));
    let why = panic.payload().downcast_ref::<&'static str>();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    tracing::error!(thread, at, why, backtrace, "a bug: something panicked");
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Default)]
    struct Lines(Mutex<Vec<u8>>);

    impl Write for &Lines {
        fn write(&mut self, event: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(event)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged when `work` panics.
    fn logged(work: impl FnOnce() + panic::UnwindSafe) -> String {
        let lines = Arc::new(Lines::default());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::clone(&lines)).finish();
        let default = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        let outcome = tracing::subscriber::with_default(subscriber, || panic::catch_unwind(work));
        panic::set_hook(default);
        assert!(outcome.is_err());
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_panic_is_logged_without_what_it_quotes() {
        let log = logged(|| panic!("this is meant"));
        assert!(log.contains("ERROR") && log.contains(file!()), "{log}");
        assert!(log.contains("this is meant"), "{log}");
        // A cut inside of a character: the message quotes the whole text.
        let cookie = String::from("connect.sid=s:secr\u{e9}t");
        let log = logged(move || drop(cookie[..19].to_owned()));
        assert!(log.contains("ERROR") && !log.contains("connect.sid"), "{log}");
    }
}
