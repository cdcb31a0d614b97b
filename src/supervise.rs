//! Background tasks: one that panics is logged, counted and restarted. The service is not ready while one is down.
//!
//! A [`Task`] stands for a thread as well, which restarts its own work: it runs each turn of its loop in [`Task::turn`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::telemetry::Metrics;

/// How long to wait before the first restart. The wait doubles with each panic that follows.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// How long a restarted task must run until it counts as up.
pub(crate) const STEADY: Duration = Duration::from_secs(1);

/// A background task or thread.
pub struct Task {
    name: &'static str,
    restarts: Counter,
    /// How many tasks of this process are down.
    all_down: Gauge,
    is_down: AtomicBool,
    /// When a turn last panicked.
    panicked: Mutex<Option<Instant>>,
}

impl Task {
    /// A task that is up. Its restarts are counted in `metrics` under `name`.
    #[must_use]
    pub fn new(name: &'static str, metrics: &Metrics) -> Self {
        let (restarts, all_down) = (metrics.task_restarts(name), metrics.tasks_down.clone());
        Self { name, restarts, all_down, is_down: AtomicBool::new(false), panicked: Mutex::default() }
    }

    /// Spawns a task that runs `work`, as [`Task::run`] does.
    pub fn spawn<F>(self, work: impl FnMut() -> F + Send + 'static) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send,
    {
        tokio::spawn(async move { self.run(work).await })
    }

    /// Runs `work` until it ends. If it panics, runs it again after a pause.
    pub async fn run<F: Future<Output = ()>>(&self, mut work: impl FnMut() -> F) {
        let mut pause = PAUSE;
        loop {
            // `work` itself may panic, too.
            let mut running = pin!(AssertUnwindSafe(async { work().await }).catch_unwind());
            let end = match timeout(STEADY, &mut running).await {
                Ok(end) => end,
                Err(_) => {
                    self.up();
                    pause = PAUSE;
                    running.await
                }
            };
            if end.is_ok() {
                return self.up();
            }
            self.down();
            sleep(pause).await;
            pause = (2 * pause).min(MAX_PAUSE);
        }
    }

    /// Runs one turn of a thread's loop. Returns `None` if it panicked: then the task is down until a turn ends that
    /// succeeds a second or more after the last panic. The loop goes on at once, so each turn has to wait for something.
    pub fn turn<T>(&self, turn: impl FnOnce() -> T) -> Option<T> {
        let turned = catch_unwind(AssertUnwindSafe(turn)).ok();
        let panicked = || self.panicked.lock().unwrap_or_else(PoisonError::into_inner);
        if turned.is_none() {
            *panicked() = Some(Instant::now());
            self.down();
        } else if self.is_down() && panicked().is_none_or(|at| at.elapsed() >= STEADY) {
            self.up();
        }
        turned
    }

    /// The task caught a panic, and goes on without a restart: logs it, and counts it like a restart.
    pub fn caught_panic(&self) {
        self.restarts.inc();
        tracing::error!(task = self.name, "a background task caught a panic");
    }

    /// Returns whether the task panicked and is not up again.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// The task panicked and will be restarted: logs and counts it. The service is not ready until [`Task::up`].
    pub fn down(&self) {
        if !self.is_down.swap(true, Ordering::Relaxed) {
            self.all_down.inc();
        }
        self.restarts.inc();
        tracing::error!(task = self.name, "a background task panicked; restarting it");
    }

    /// The task works again.
    pub fn up(&self) {
        if self.is_down.swap(false, Ordering::Relaxed) {
            self.all_down.dec();
            tracing::info!(task = self.name, "the background task is up again");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if *self.is_down.get_mut() {
            self.all_down.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The state of all tasks: how many are down, and how often `name` was restarted.
    fn state(metrics: &Metrics) -> (i64, u64) {
        (metrics.tasks_down.get(), metrics.task_restarts("test").get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_and_down_until_it_is_steady() {
        let metrics = Metrics::new();
        let task = Task::new("test", &metrics);
        let runs = Cell::new(0);
        let work = || {
            runs.set(runs.get() + 1);
            // Before there is a future, too.
            assert!(runs.get() != 1, "this is meant");
            async {
                sleep(STEADY / 2).await;
                assert!(runs.get() != 2, "this is meant");
                std::future::pending::<()>().await;
            }
        };
        let mut running = pin!(task.run(work));
        let mut after = async |time: Duration| timeout(time, &mut running).await.unwrap_or_default();
        after(PAUSE / 2).await;
        assert_eq!((runs.get(), state(&metrics)), (1, (1, 1)));
        after(PAUSE).await;
        assert_eq!((runs.get(), state(&metrics)), (2, (1, 1)));
        after(STEADY / 2).await;
        assert_eq!((runs.get(), state(&metrics)), (2, (1, 2)));
        // Twice the pause, then until it counts as up.
        after(2 * PAUSE + STEADY / 2).await;
        assert_eq!((runs.get(), state(&metrics)), (3, (1, 2)));
        after(STEADY).await;
        assert_eq!((runs.get(), state(&metrics)), (3, (0, 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_grows_and_starts_anew_after_a_steady_run() {
        let metrics = Metrics::new();
        let task = Task::new("test", &metrics);
        let starts = std::cell::RefCell::new(Vec::new());
        let work = || {
            starts.borrow_mut().push(tokio::time::Instant::now());
            let steady = starts.borrow().len() == 12;
            async move {
                if steady {
                    sleep(2 * STEADY).await;
                }
                panic!("this is meant")
            }
        };
        let _ = timeout(Duration::from_secs(60), task.run(work)).await;
        let starts = starts.into_inner();
        let pauses: Vec<_> = starts.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses[0] >= PAUSE && pauses[0] < 2 * PAUSE, "{pauses:?}");
        assert!(pauses[1] >= 2 * PAUSE && pauses[10] >= MAX_PAUSE && pauses[10] < 2 * MAX_PAUSE, "{pauses:?}");
        assert!(pauses[11] < 2 * STEADY + 2 * PAUSE, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_or_is_dropped_is_not_down() {
        let metrics = Metrics::new();
        let mut first = true;
        let ends = || {
            let panics = std::mem::take(&mut first);
            async move { assert!(!panics, "this is meant") }
        };
        Task::new("test", &metrics).run(ends).await;
        assert_eq!(state(&metrics), (0, 1));
        let aborted = Task::new("test", &metrics).spawn(|| async { panic!("this is meant") });
        sleep(PAUSE / 2).await;
        assert_eq!(state(&metrics), (1, 2));
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert_eq!(state(&metrics), (0, 2));
    }

    #[test]
    fn a_thread_is_down_until_its_turns_are_steady() {
        let metrics = Metrics::new();
        let task = Task::new("test", &metrics);
        assert_eq!(task.turn(|| 1), Some(1));
        assert_eq!((task.is_down(), state(&metrics)), (false, (0, 0)));
        let began = Instant::now();
        for panics in 1..3 {
            assert_eq!(task.turn(|| -> u32 { panic!("this is meant") }), None);
            assert_eq!((task.is_down(), state(&metrics)), (true, (1, panics)));
        }
        while task.is_down() {
            assert_eq!(task.turn(|| std::thread::sleep(Duration::from_millis(1))), Some(()));
        }
        assert!(began.elapsed() >= STEADY);
        assert_eq!(state(&metrics), (0, 2));
        task.caught_panic();
        assert_eq!((task.is_down(), state(&metrics)), (false, (0, 3)));
    }
}
