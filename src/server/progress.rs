//! The state of a connection and its times, against which its deadlines are checked.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Stands for "not now" in a field that holds a time.
const NEVER: u64 = u64::MAX;

/// The read timeout is divided into this many slices. Unsent answers are counted by the slice of their last progress.
/// So no request needs a timer or a place in a list.
const SLICES: u64 = 4;
/// One slot for each slice of the read timeout, one for the current slice, and three for slices that are late. A slice
/// uses the slot of its number modulo this.
const SLOTS: usize = 8;
/// The slowest rate at which a client may read an answer, in bytes per second. The client may be late by the read timeout.
const MIN_RATE: u64 = 16 * 1024;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// How long a request's head may take to arrive, and an answer may go without progress.
    pub(super) read: Duration,
    /// How long a connection may be idle between two requests.
    pub(super) keep_alive: Duration,
}

/// The state of a connection. All times are milliseconds since `began`.
pub(super) struct Progress {
    began: Instant,
    read: u64,
    /// How often a connection with an open request is checked.
    check_every: u64,
    /// Requests whose answer is not sent yet.
    open: AtomicU32,
    /// When the last answer was sent.
    idle_since: AtomicU64,
    /// When the current, incomplete head began. The first head begins when the connection is accepted.
    head_since: AtomicU64,
    /// When the socket stopped taking bytes.
    blocked_since: AtomicU64,
    /// Unsent answers, by the slice in which they last made progress.
    unsent: [AtomicU32; SLOTS],
}

/// An answer that is not sent yet.
pub(super) struct Unsent {
    /// When it was answered.
    since: u64,
    /// How many of its bytes are sent.
    bytes: u64,
    /// The slice in which it is counted.
    slice: u64,
}

/// What to do with a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    Later(Instant),
    /// End it gracefully: its idle time is over.
    Idle,
    /// End it: a head has not arrived in time, or an answer has not been read in time.
    Late,
}

impl Progress {
    /// A connection that was accepted now and is expected to send a head.
    pub(super) fn new(deadlines: Deadlines) -> Self {
        let read = millis(deadlines.read);
        Self {
            began: Instant::now(),
            read,
            check_every: (read / SLICES).min(millis(deadlines.keep_alive)).max(1),
            open: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NEVER),
            unsent: Default::default(),
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// The instant `after` the last answer was sent.
    pub(super) fn idle_until(&self, after: Duration) -> Instant {
        self.began + Duration::from_millis(self.idle_since.load(Ordering::Acquire)) + after
    }

    /// Notes bytes from the client. Between two requests they are the beginning of a head.
    pub(super) fn received(&self) {
        if self.open.load(Ordering::Acquire) == 0 && self.head_since.load(Ordering::Relaxed) == NEVER {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Notes that part of the next head had arrived when the last answer was sent.
    pub(super) fn received_while_busy(&self) {
        self.head_since.store(self.idle_since.load(Ordering::Acquire), Ordering::Relaxed);
    }

    /// Notes whether the socket takes bytes.
    pub(super) fn blocked(&self, blocked: bool) {
        if !blocked {
            self.blocked_since.store(NEVER, Ordering::Relaxed);
        } else if self.blocked_since.load(Ordering::Relaxed) == NEVER {
            self.blocked_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Notes a request whose head has arrived.
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(NEVER, Ordering::Relaxed);
    }

    /// Notes that a request has ended: its answer is sent, or will never be.
    pub(super) fn closed(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
        // Whoever sees the count reach zero sees the time too.
        self.open.fetch_sub(1, Ordering::Release);
    }

    /// Whether a head is incomplete. The first head of a connection counts as incomplete until it has arrived.
    pub(super) fn awaits_head(&self) -> bool {
        self.head_since.load(Ordering::Relaxed) != NEVER
    }

    fn slice(&self, time: u64) -> u64 {
        time / (self.read / SLICES).max(1)
    }

    fn slot(&self, slice: u64) -> &AtomicU32 {
        &self.unsent[usize::try_from(slice).unwrap_or(0) % SLOTS]
    }

    /// Counts an answer that is ready to be sent, until [`Progress::sent`].
    pub(super) fn answered(&self) -> Unsent {
        let since = self.now();
        let slice = self.slice(since);
        self.slot(slice).fetch_add(1, Ordering::Relaxed);
        Unsent { since, bytes: 0, slice }
    }

    /// Notes that `bytes` more of the answer were sent. They prove progress up to the time at which a client that reads
    /// at [`MIN_RATE`] would have them: a client that reads a byte now and then makes none.
    pub(super) fn sending(&self, answer: &mut Unsent, bytes: usize) {
        answer.bytes += bytes as u64;
        let at_min_rate = answer.since + answer.bytes.saturating_mul(1_000) / MIN_RATE;
        let slice = self.slice(self.now().min(at_min_rate));
        if slice != answer.slice {
            self.slot(answer.slice).fetch_sub(1, Ordering::Relaxed);
            self.slot(slice).fetch_add(1, Ordering::Relaxed);
            answer.slice = slice;
        }
    }

    /// Ends the count of an answer that was sent, or will never be.
    pub(super) fn sent(&self, answer: &Unsent) {
        self.slot(answer.slice).fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether an answer's last progress is longer ago than the read timeout.
    fn is_answer_late(&self, now: u64) -> bool {
        let current = self.slice(now);
        (SLICES + 1..SLOTS as u64)
            .filter_map(|age| current.checked_sub(age))
            .any(|slice| self.slot(slice).load(Ordering::Relaxed) > 0)
    }

    /// What to do now with a connection that may be idle for `idle`.
    pub(super) fn due(&self, idle: Duration) -> Due {
        let now = self.now();
        let since = |time: &AtomicU64| time.load(Ordering::Relaxed);
        let late = [&self.blocked_since, &self.head_since].map(|time| since(time).saturating_add(self.read));
        let late = late[0].min(late[1]);
        if late <= now || self.is_answer_late(now) {
            return Due::Late;
        }
        let next = if self.open.load(Ordering::Acquire) > 0 {
            // It may be idle soon.
            now + self.check_every.min(millis(idle))
        } else if late == NEVER {
            let idle = since(&self.idle_since) + millis(idle);
            if idle <= now {
                return Due::Idle;
            }
            // A request may come meanwhile whose answer is not read.
            idle.min(now + self.read)
        } else {
            late
        };
        Due::Later(self.began + Duration::from_millis(next.min(late)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const READ: Duration = Duration::from_millis(1_000);
    const IDLE: Duration = Duration::from_millis(5_000);

    fn progress() -> Progress {
        Progress::new(Deadlines { read: READ, keep_alive: IDLE })
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_the_read_timeout_from_its_first_byte() {
        let progress = progress();
        advance(READ - Duration::from_millis(1)).await;
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(progress.due(IDLE), Due::Late, "whoever sends nothing at all");
        progress.opened();
        progress.closed();
        advance(2 * READ).await;
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
        progress.received();
        advance(READ / 2).await;
        progress.received();
        advance(READ / 2).await;
        assert_eq!(progress.due(IDLE), Due::Late, "further bytes give no more time");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_begins_when_the_last_answer_is_sent() {
        let progress = progress();
        progress.opened();
        progress.opened();
        progress.closed();
        advance(2 * IDLE).await;
        assert!(matches!(progress.due(IDLE), Due::Later(_)), "one request is open");
        progress.closed();
        advance(IDLE).await;
        assert_eq!(progress.due(IDLE), Due::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn one_stuck_answer_is_late_beside_others_that_are_taken() {
        let progress = progress();
        progress.opened();
        let mut stuck = progress.answered();
        for step in 0..5 {
            assert!(matches!(progress.due(IDLE), Due::Later(_)), "{step}");
            progress.opened();
            progress.sent(&progress.answered());
            progress.closed();
            advance(READ / 4).await;
        }
        assert_eq!(progress.due(IDLE), Due::Late);
        progress.sending(&mut stuck, 16 * 1024);
        assert!(matches!(progress.due(IDLE), Due::Later(_)), "a part of it was taken");
        progress.sent(&stuck);
        progress.closed();
        advance(2 * READ).await;
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_must_be_taken_at_the_least_rate() {
        let progress = progress();
        progress.opened();
        let (mut slow, mut steady) = (progress.answered(), progress.answered());
        for step in 0..18 {
            assert!(matches!(progress.due(IDLE), Due::Later(_)), "{step}");
            advance(READ / 8).await;
            progress.sending(&mut slow, 1_024);
            progress.sending(&mut steady, 2 * 1_024);
        }
        assert_eq!(progress.due(IDLE), Due::Late, "half the rate lasts for about twice the read timeout");
        progress.sent(&slow);
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
        // Many bytes at once give no time for a pause later.
        progress.sending(&mut steady, 1024 * 1024);
        advance(READ + READ / 4).await;
        assert_eq!(progress.due(IDLE), Due::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_checked_again_within_the_read_timeout() {
        let progress = progress();
        progress.opened();
        progress.closed();
        let Due::Later(next) = progress.due(IDLE) else { panic!("it is idle") };
        assert!(next <= Instant::now() + READ);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_is_late() {
        let progress = progress();
        progress.opened();
        progress.blocked(true);
        advance(READ / 2).await;
        progress.blocked(true);
        advance(READ / 2).await;
        assert_eq!(progress.due(IDLE), Due::Late);
        progress.blocked(false);
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
    }
}
