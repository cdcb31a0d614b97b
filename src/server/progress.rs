//! What a connection is doing and since when. Its deadlines are checked against this.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Stands for "not now" where a time is kept.
const NEVER: u64 = u64::MAX;

/// The read timeout is divided into this many slices. Unsent answers are counted by the slice of their last progress, so
/// that no request needs a timer or a place in a list.
const SLICES: u64 = 4;
/// Slots for the slices that are told apart: those within the read timeout, the current one, and a few past it.
const SLOTS: usize = 8;

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// For a request's head to arrive, and for an answer to be taken.
    pub(super) read: Duration,
    /// Between two requests.
    pub(super) keep_alive: Duration,
}

/// What a connection is doing. All times are milliseconds since `began`.
pub(super) struct Progress {
    began: Instant,
    read: u64,
    /// Requests whose answer is not sent yet.
    open: AtomicU32,
    /// When the last answer was sent.
    idle_since: AtomicU64,
    /// When the head began that is not complete yet.
    head_since: AtomicU64,
    /// When the socket stopped taking bytes.
    blocked_since: AtomicU64,
    /// Unsent answers, by the slice in which they last made progress.
    unsent: [AtomicU32; SLOTS],
}

/// What is to be done about a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    Later(Instant),
    /// It has been idle for as long as it may.
    Idle,
    /// It is late: its head has not arrived, or an answer has not been taken.
    Late,
}

impl Progress {
    /// A connection that was accepted now and is expected to send a head.
    pub(super) fn new(deadlines: Deadlines) -> Self {
        Self {
            began: Instant::now(),
            read: millis(deadlines.read),
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

    /// Notes bytes from the client: between two requests a head begins with them.
    pub(super) fn received(&self) {
        if self.open.load(Ordering::Acquire) == 0 && self.head_since.load(Ordering::Relaxed) == NEVER {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Notes that a head had begun to arrive when the last answer was sent.
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

    /// Notes a request, of which the head has arrived.
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

    fn slice(&self, now: u64) -> u64 {
        now / self.slice_millis()
    }

    fn slice_millis(&self) -> u64 {
        (self.read / SLICES).max(1)
    }

    fn slot(&self, slice: u64) -> &AtomicU32 {
        &self.unsent[usize::try_from(slice).unwrap_or(0) % SLOTS]
    }

    /// Counts an answer that waits to be sent. Returns the slice it is counted in.
    pub(super) fn answered(&self) -> u64 {
        let slice = self.slice(self.now());
        self.slot(slice).fetch_add(1, Ordering::Relaxed);
        slice
    }

    /// Notes that a part of the answer was sent. Returns the slice it is counted in from now on.
    pub(super) fn sending(&self, slice: u64) -> u64 {
        let current = self.slice(self.now());
        if current != slice {
            self.sent(slice);
            self.slot(current).fetch_add(1, Ordering::Relaxed);
        }
        current
    }

    /// Ends the count of an answer.
    pub(super) fn sent(&self, slice: u64) {
        self.slot(slice).fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether an answer has made no progress for longer than the read timeout.
    fn is_answer_late(&self, now: u64) -> bool {
        let current = self.slice(now);
        (SLICES + 1..SLOTS as u64)
            .filter_map(|age| current.checked_sub(age))
            .any(|slice| self.slot(slice).load(Ordering::Relaxed) > 0)
    }

    /// What is to be done now, where a connection may be idle for `idle`.
    pub(super) fn due(&self, idle: Duration) -> Due {
        let now = self.now();
        let since = |time: &AtomicU64| time.load(Ordering::Relaxed);
        let late = [&self.blocked_since, &self.head_since].map(|time| since(time).saturating_add(self.read));
        let late = late[0].min(late[1]);
        if late <= now || self.is_answer_late(now) {
            return Due::Late;
        }
        let next = if self.open.load(Ordering::Acquire) > 0 {
            now + self.slice_millis()
        } else if late == NEVER {
            let idle = since(&self.idle_since) + millis(idle);
            if idle <= now {
                return Due::Idle;
            }
            idle
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
        let stuck = progress.answered();
        for step in 0..5 {
            assert!(matches!(progress.due(IDLE), Due::Later(_)), "{step}");
            progress.opened();
            progress.sent(progress.answered());
            progress.closed();
            advance(READ / 4).await;
        }
        assert_eq!(progress.due(IDLE), Due::Late);
        let moved = progress.sending(stuck);
        assert!(matches!(progress.due(IDLE), Due::Later(_)), "a part of it was taken");
        progress.sent(moved);
        progress.closed();
        advance(2 * READ).await;
        assert!(matches!(progress.due(IDLE), Due::Later(_)));
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
