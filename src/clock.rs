//! The wall clock, in epoch milliseconds, how its times are written, and a clock for spans of time.
//!
//! `now` is read once per request, in `session/`, and passed down; `clippy.toml` bans reading the wall clock anywhere
//! else. What a process keeps is aged by a [`BootInstant`], because a wall clock can step back.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Milliseconds: a point in time when counted from the Unix epoch, else a span.
pub type Ms = i64;

/// The latest point in time that is written, near the end of the year 9999: what `jiff` can express.
pub const MAX_MS: Ms = 253_402_207_199_999;

/// Where `now` comes from. Tests put their own in place, to move time instead of waiting.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Ms + Send + Sync>,
    instant: Arc<dyn Fn() -> BootInstant + Send + Sync>,
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn system() -> Self {
        let now = || {
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| Ms::try_from(since.as_millis()).unwrap_or(MAX_MS))
        };
        Self::new(now, BootInstant::now)
    }

    /// A clock that returns what `now` and `instant` return.
    pub fn new(
        now: impl Fn() -> Ms + Send + Sync + 'static,
        instant: impl Fn() -> BootInstant + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), instant: Arc::new(instant) }
    }

    /// Epoch milliseconds.
    #[must_use]
    pub fn now(&self) -> Ms {
        (self.now)()
    }

    /// The instant, to measure spans of time with.
    #[must_use]
    pub fn instant(&self) -> BootInstant {
        (self.instant)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// An instant of a clock that never goes back and that counts the time while the machine is suspended.
///
/// On Linux it is `CLOCK_BOOTTIME`; [`std::time::Instant`] stands still during a suspend there. Other systems fall back to
/// `Instant`. A virtual machine whose host pauses it, and does not tell it, knows nothing of that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant {
    /// Nanoseconds since some fixed point in time.
    nanos: i64,
}

impl BootInstant {
    /// The current instant.
    #[must_use]
    #[cfg(target_os = "linux")]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self { nanos: time.tv_sec * 1_000_000_000 + time.tv_nsec }
    }

    /// The current instant.
    #[must_use]
    #[cfg(not(target_os = "linux"))]
    pub fn now() -> Self {
        static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let since = FIRST.get_or_init(std::time::Instant::now).elapsed();
        Self { nanos: nanos(since) }
    }

    /// Returns the time from `earlier` to this instant; zero if that one is later.
    #[must_use]
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos.saturating_sub(earlier.nanos)).unwrap_or(0))
    }

    /// Returns the same in whole milliseconds.
    #[must_use]
    pub fn ms_since(self, earlier: Self) -> Ms {
        (self.nanos.saturating_sub(earlier.nanos) / 1_000_000).max(0)
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(nanos(span)) }
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self { nanos: self.nanos.saturating_sub(nanos(span)) }
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
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

    /// A time namespace has a boot-time clock that is a day ahead, as after a suspend, and the same monotonic clock.
    #[test]
    #[cfg(target_os = "linux")]
    fn an_instant_counts_the_time_of_a_suspend() {
        const BEFORE: &str = "SESSIOND_TEST_BEFORE_SUSPEND";
        let now = BootInstant::now();
        if let Some(before) = std::env::var_os(BEFORE) {
            let before = BootInstant { nanos: before.to_str().unwrap().parse().unwrap() };
            assert!(now.saturating_duration_since(before) >= Duration::from_secs(86_400));
            return;
        }
        let inside = std::process::Command::new("unshare")
            .args(["--map-root-user", "--time", "--boottime", "86400", "--fork"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::tests::an_instant_counts_the_time_of_a_suspend"])
            .env(BEFORE, now.nanos.to_string())
            .output()
            .expect("unshare is needed: apt-get install util-linux");
        assert!(String::from_utf8_lossy(&inside.stdout).contains("1 passed"), "{inside:?}");
    }

    #[test]
    fn spans_of_time_add_up() {
        let (now, second) = (BootInstant::now(), Duration::from_secs(1));
        assert_eq!((now + second).saturating_duration_since(now), second);
        assert_eq!((now + second).ms_since(now), 1000);
        assert_eq!(((now - second).ms_since(now), (now - second).saturating_duration_since(now)), (0, Duration::ZERO));
        assert!(now - second < now && now < now + second && now + Duration::MAX > now);
        assert!(BootInstant::now() >= now);
    }

    #[test]
    fn times_are_written_as_javascript_writes_them() {
        assert_eq!(rfc3339(1_795_395_580_896), "2026-11-23T00:59:40.896Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Ms::MAX), "9999-12-30T21:59:59.999Z");
    }
}
