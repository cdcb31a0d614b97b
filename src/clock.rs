//! The one clock: epoch milliseconds, and how they are written.
//!
//! `now` is read once per request, in `session/`, and passed down; `clippy.toml` bans reading the
//! time anywhere else.

use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Milliseconds: a point in time when counted from the Unix epoch, else a span.
pub type Ms = i64;

/// The latest point in time that is written, near the end of the year 9999: what `jiff` can express.
pub const MAX_MS: Ms = 253_402_207_199_999;

/// Where `now` comes from. Tests put their own in place, to move time instead of waiting.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Ms + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn system() -> Self {
        Self::new(|| {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| Ms::try_from(since.as_millis()).unwrap_or(MAX_MS))
        })
    }

    /// A clock that answers what `now` answers.
    pub fn new(now: impl Fn() -> Ms + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Epoch milliseconds.
    #[must_use]
    pub fn now(&self) -> Ms {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// RFC 3339 in UTC with milliseconds, as JavaScript's `toISOString` writes it:
/// `2026-11-23T00:59:40.896Z`. Times before 1970 and after [`MAX_MS`] are moved to the nearest edge.
#[must_use]
pub fn rfc3339(at: Ms) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let at = Timestamp::from_millisecond(at.clamp(0, MAX_MS)).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut text = String::with_capacity("2026-11-23T00:59:40.896Z".len());
    // Writing to a String does not fail.
    let _ = PRINTER.print_timestamp(&at, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_javascript_writes_them() {
        assert_eq!(rfc3339(1_795_395_580_896), "2026-11-23T00:59:40.896Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Ms::MAX), "9999-12-30T21:59:59.999Z");
    }
}
